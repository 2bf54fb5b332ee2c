"""torchvision's classifiers, with random weights that fit, and with an eighth of their channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastcam.models import efficientnet_lite0
from tests.zoo import randomise

vision = torchvision.models


def settle(model: nn.Module, images: Tensor) -> None:
    """Give batch norms random affine parts, a third of the gammas negative, and statistics that fit.

    With statistics that do not fit, the deepest networks' logits hardly depend on the images.
    """
    randomise(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        # Without them a signal shrinks by sqrt(6) in every layer with PyTorch's own weights.
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.weight.mul_(6**0.5)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        if norms:
            model(images)
        for norm in norms:
            norm.eval()
            # Not quite those of these images, or folding the mean wrongly could go unseen.
            norm.running_mean.add_(0.1 * norm.running_var.sqrt())
            norm.running_var.mul_(1.3)


def with_own_weights(model: nn.Module) -> nn.Module:
    """The model with PyTorch's own weights, which `settle` expects where there are no batch norms."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


# The smallest side at which each model leaves more than one position before its last pooling.
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vgg16": (lambda: vision.vgg16(init_weights=False), 64),
    "vgg16_bn": (lambda: vision.vgg16_bn(init_weights=False), 64),
    "vgg19": (lambda: vision.vgg19(init_weights=False), 64),
    "resnet18": (vision.resnet18, 64),
    "resnet50": (vision.resnet50, 64),
    "resnet101": (vision.resnet101, 64),
    "resnext50_32x4d": (vision.resnext50_32x4d, 64),
    "densenet121": (vision.densenet121, 64),
    "inception_v3": (lambda: vision.inception_v3(init_weights=False), 107),
    "inception_v3-transform_input": (lambda: vision.inception_v3(init_weights=False, transform_input=True), 107),
    "googlenet": (lambda: vision.googlenet(init_weights=False), 64),
    "googlenet-transform_input": (lambda: vision.googlenet(init_weights=False, transform_input=True), 64),
    "mobilenet_v2": (vision.mobilenet_v2, 64),
    # Its weights are larger, and there is no argument against that: in float16 its logits would overflow.
    "squeezenet1_1": (lambda: with_own_weights(vision.squeezenet1_1()), 64),
    "efficientnet_b0": (vision.efficientnet_b0, 64),
    "regnet_y_400mf": (vision.regnet_y_400mf, 64),
    "alexnet": (vision.alexnet, 96),
    "efficientnet_lite0": (lambda: efficientnet_lite0(pretrained=False), 64),
}


class Unfilled(TorchFunctionMode):
    """Draws no numbers for parameters, of which vgg19 has 144 million: memory that is not written to costs nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def thin(build: Callable[[], nn.Module], factor: int = 8, classes: int = 7) -> nn.Module:
    """The same architecture with a fraction of its channels: the parameters of every layer made anew."""
    with Unfilled():
        model = build()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    last = [layer for layer in layers if _outputs(layer) == 1000][-1]
    for layer in layers:
        outputs = classes if layer is last else _fewer(_outputs(layer), factor)
        if isinstance(layer, nn.Conv2d):
            inputs = layer.in_channels if layer.in_channels <= 3 else _fewer(layer.in_channels, factor)
            groups = _groups(layer, inputs, outputs)
            layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, groups
            layer.weight = nn.Parameter(torch.empty(outputs, inputs // groups, *layer.kernel_size))
        elif isinstance(layer, nn.Linear):
            layer.in_features, layer.out_features = _fewer(layer.in_features, factor), outputs
            layer.weight = nn.Parameter(torch.empty(outputs, layer.in_features))
        else:
            layer.num_features = outputs
            layer.weight = nn.Parameter(torch.ones(outputs))
            layer.running_mean, layer.running_var = torch.zeros(outputs), torch.ones(outputs)
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.zeros(outputs))
        layer.reset_parameters()
    return model.eval()


def _outputs(layer: nn.Conv2d | nn.Linear | nn.BatchNorm2d) -> int:
    names = ("out_channels", "out_features", "num_features")
    return next(getattr(layer, name) for name in names if hasattr(layer, name))


def _groups(layer: nn.Conv2d, inputs: int, outputs: int) -> int:
    """A depthwise convolution stays one; groups of several channels stay that, where the channels can be divided."""
    common = math.gcd(inputs, outputs)
    if layer.groups in (1, layer.in_channels):
        return min(layer.groups, common)
    return max(groups for groups in range(1, common + 1) if common % groups == 0 and groups < max(2, inputs))


def _fewer(channels: int, factor: int) -> int:
    return max(1, channels // factor)


# Options under which a method takes little time.
SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "smooth_grad_cam_pp": {"samples": 2},
    "ss_cam": {"samples": 1},
    "is_cam": {"samples": 1},
    "group_cam": {"groups": 4},
    "rise": {"masks": 6},
    "extremal_perturbation": {"steps": 2},
    # Of further sizes each would have to be captured.
    "cameras": {"steps": 1},
}
# Where a method has no meaning: no global pooling with one linear layer behind it.
UNDEFINED: dict[str, tuple[str, ...]] = {"cam": ("vgg16", "vgg16_bn", "vgg19", "squeezenet1_1", "alexnet")}
