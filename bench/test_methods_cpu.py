"""CPU benchmarks of every method that a peer has, against every peer that has it.

    make bench-methods     # writes bench/results/methods.json

resnet18 and efficientnet_lite0, the last layer, batch 8 (1 for the score family), float32, random images. A method and
its peers take turns in one process; each peer runs on the default and on the channels-last layout, under no_grad where
it takes no gradients, the score family at the fastest of four batch sizes. zennit's rules are set once, before its
calls are timed, and single rules on a model whose batch norms are merged beforehand. captum's LRP takes neither of the
two networks: see `test_lrp_cpu`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import captum.attr
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
import zennit.attribution
import zennit.canonizers
import zennit.composites
import zennit.core
import zennit.rules
import zennit.torchvision
import zennit.types
from pytest_benchmark.fixture import BenchmarkFixture
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18

import fastcam
from bench.compare import Variants, compare, fastest_batch

# (model, layer, images, targets, batch of masked images) -> a call to time
Make = Callable[[nn.Module, str, Tensor, list[int], int], Callable[[], Any]]


def grad_cam(name: str, *, gradients: bool = True) -> Make:
    """pytorch-grad-cam: `Method(model, target_layers)(input_tensor, targets)`."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        peer = getattr(pytorch_grad_cam, name)(model=model, target_layers=[model.get_submodule(layer)])
        peer.batch_size = batch
        chosen = [ClassifierOutputTarget(target) for target in targets]

        def run() -> Any:
            with torch.set_grad_enabled(gradients):
                return peer(input_tensor=x, targets=chosen)

        return run

    return make


def extractor(name: str, *, gradients: bool = True, **options: Any) -> Make:
    """torchcam: a context manager around the model's own forward pass."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        own = {} if gradients or name == "CAM" else {"batch_size": batch}

        def run() -> Any:
            with (
                torch.set_grad_enabled(gradients),
                getattr(torchcam.methods, name)(model, layer, **own, **options) as ex,
            ):
                return ex(targets, model(x))

        return run

    return make


def attribution(name: str) -> Make:
    """captum: `Method(model).attribute(images, target)`."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        peer, chosen = getattr(captum.attr, name)(model), torch.tensor(targets)
        return lambda: peer.attribute(x.clone().requires_grad_(), target=chosen)

    return make


def layer_grad_cam(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
    """captum's Grad-CAM, with its ReLU."""
    peer, chosen = captum.attr.LayerGradCam(model, model.get_submodule(layer)), torch.tensor(targets)
    return lambda: peer.attribute(x, target=chosen, relu_attributions=True)


def composite(name: str, **options: Any) -> Make:
    """zennit: gradient of a model whose modules carry rules."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        resnet = isinstance(model, type(resnet18()))
        kinds = zennit.canonizers
        chosen = kinds.SequentialMergeBatchNorm() if not resnet else zennit.torchvision.ResNetCanonizer()
        return gradient(model, getattr(zennit.composites, name)(canonizers=[chosen], **options), x, targets)

    return make


def single(rule: Callable[[], zennit.core.Hook]) -> Make:
    """zennit: one rule for all convolutions and linear layers of a model without batch norms."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        layers = [(zennit.types.Convolution, rule()), (zennit.types.Linear, rule())]
        rules = zennit.composites.LayerMapComposite(
            layer_map=[*layers, *zennit.composites.layer_map_base()],
            canonizers=[zennit.torchvision.ResNetBasicBlockCanonizer()],
        )
        return gradient(merged(model), rules, x, targets)

    return make


def gradient(model: nn.Module, rules: zennit.core.Composite, x: Tensor, targets: list[int]) -> Callable[[], Any]:
    """The rules stay on the model, as for a user with many images."""
    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False  # zennit's hooks are on modules' inputs and outputs
    rules.register(model)
    peer, seed = zennit.attribution.Gradient(model), torch.eye(1000)[targets]
    return lambda: peer(x.clone().requires_grad_(), seed)


def merged(model: nn.Module) -> nn.Module:
    """The model with its batch norms in its convolutions, in place."""
    for parent in list(model.modules()):
        for (before, conv), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    return model


@dataclass(frozen=True)
class Comparison:
    """A method's options here, and the peers that have it."""

    peers: dict[str, Make]
    options: dict[str, Any] = field(default_factory=dict)


RANGE = {"low": torch.full((1, 3, 224, 224), -3.0), "high": torch.full((1, 3, 224, 224), 3.0)}
# zennit's rules and fastcam's options for the same.
RULES: dict[str, tuple[Callable[[], zennit.core.Hook], dict[str, Any]]] = {
    "z+": (lambda: zennit.rules.ZPlus(zero_params="bias"), {"rule": "z+", "first": "z+"}),
    "epsilon": (zennit.rules.Epsilon, {"rule": "epsilon"}),
    "gamma": (zennit.rules.Gamma, {"rule": "gamma"}),
    "alpha_beta": (lambda: zennit.rules.AlphaBeta(zero_params="bias"), {"rule": "alpha_beta"}),
}
BATCHED: dict[str, Comparison] = {
    "cam": Comparison({"torchcam": extractor("CAM", gradients=False)}),
    "grad_cam": Comparison(
        {"grad-cam": grad_cam("GradCAM"), "torchcam": extractor("GradCAM"), "captum": layer_grad_cam}
    ),
    "grad_cam_pp": Comparison({"grad-cam": grad_cam("GradCAMPlusPlus"), "torchcam": extractor("GradCAMpp")}),
    "smooth_grad_cam_pp": Comparison({"torchcam": extractor("SmoothGradCAMpp", num_samples=4)}, {"samples": 4}),
    "xgrad_cam": Comparison({"grad-cam": grad_cam("XGradCAM"), "torchcam": extractor("XGradCAM")}),
    "layer_cam": Comparison({"grad-cam": grad_cam("LayerCAM"), "torchcam": extractor("LayerCAM")}),
    "hires_cam": Comparison({"grad-cam": grad_cam("HiResCAM")}),
    "full_grad": Comparison({"grad-cam": grad_cam("FullGrad")}),
    "eigen_cam": Comparison({"grad-cam": grad_cam("EigenCAM", gradients=False)}),
    "random_cam": Comparison({"grad-cam": grad_cam("RandomCAM")}),
    "gradient": Comparison({"captum": attribution("Saliency")}),
    "guided_backprop": Comparison({"captum": attribution("GuidedBackprop")}),
    "deconvnet": Comparison({"captum": attribution("Deconvolution")}),
    **{f"lrp, {rule}": Comparison({"zennit": single(make)}, options) for rule, (make, options) in RULES.items()},
    "lrp, epsilon_plus": Comparison({"zennit": composite("EpsilonPlus")}, {"rule": "epsilon_plus", "first": "z+"}),
    "lrp, epsilon_plus_flat": Comparison({"zennit": composite("EpsilonPlusFlat")}, {"rule": "epsilon_plus_flat"}),
    "lrp, epsilon_gamma_box": Comparison(
        {"zennit": composite("EpsilonGammaBox", **RANGE)},
        {"rule": "epsilon_gamma_box", "pixel_range": (-3.0, 3.0)},
    ),
    # zennit's excitation backprop goes on to the images; so does this one, in place of stopping at a layer.
    "lrp, excitation_backprop": Comparison(
        {"zennit": composite("ExcitationBackprop")}, {"rule": "z+", "first": "z+", "seed": "probability"}
    ),
}
# One image, one round: hundreds to thousands of forward passes each.
SCORED: dict[str, Comparison] = {
    "score_cam": Comparison(
        {"grad-cam": grad_cam("ScoreCAM", gradients=False), "torchcam": extractor("ScoreCAM", gradients=False)}
    ),
    "ss_cam": Comparison({"torchcam": extractor("SSCAM", gradients=False, num_samples=2)}, {"samples": 2}),
    "is_cam": Comparison({"torchcam": extractor("ISCAM", gradients=False, num_samples=2)}, {"samples": 2}),
    "ablation_cam": Comparison({"grad-cam": grad_cam("AblationCAM", gradients=False)}),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (lambda: resnet18(weights=None), "layer4"),
    "efficientnet_lite0": (lambda: fastcam.models.efficientnet_lite0(pretrained=True), "head.activation"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module, str]:
    build, layer = NETWORKS[request.param]
    torch.manual_seed(0)
    return request.param, build().eval(), layer


def measure(
    benchmark: BenchmarkFixture,
    network: tuple[str, nn.Module, str],
    case: str,
    comparison: Comparison,
    *,
    images: int,
    rounds: int,
    warmups: int,
) -> None:
    # What hooks hold of the models of the case before are cycles, and gigabytes.
    gc.collect()
    name, model, layer = network
    method = case.partition(",")[0]
    x = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    targets = [int(t) for t in model(x).argmax(dim=1)]
    info = fastcam.attribution.METHODS[method]
    at = {"layer": layer} if info.layer == "last" else {}
    # The method's own resolution, which is what torchcam, captum and zennit give; grad-cam resizes to the images.
    explainer = fastcam.Explainer(model, method=method, **at, **comparison.options)
    variants: Variants = {"fastcam": lambda: explainer(x, targets)}
    for layout, form in (("", torch.contiguous_format), (", channels-last", torch.channels_last)):
        laid_out = x.contiguous(memory_format=form)
        batch = fastest_batch(model.to(memory_format=form), laid_out[:1], rounds=2) if images == 1 else 32
        model.to(memory_format=torch.contiguous_format)
        for peer, make in comparison.peers.items():
            # Some peers write to the model; each has its own.
            own = copy.deepcopy(model).to(memory_format=form)
            variants[peer + layout] = make(own, layer, laid_out, targets, batch)
    compare(
        benchmark,
        variants,
        yardstick="fastcam",
        rounds=rounds,
        warmups=warmups,
        model=name,
        method=case,
        layer=layer if info.layer == "last" else "input",
        batch=images,
        precision="float32",
    )


@pytest.mark.parametrize("case", BATCHED)
def test_method_against_peers(benchmark: BenchmarkFixture, network: tuple[str, nn.Module, str], case: str) -> None:
    # grad-cam's full_grad takes a minute a call.
    rounds = 1 if case == "full_grad" else 5
    measure(benchmark, network, case, BATCHED[case], images=8, rounds=rounds, warmups=1 if rounds > 1 else 0)


@pytest.mark.parametrize("case", SCORED)
def test_score_method_against_peers(
    benchmark: BenchmarkFixture, network: tuple[str, nn.Module, str], case: str
) -> None:
    measure(benchmark, network, case, SCORED[case], images=1, rounds=1, warmups=0)
