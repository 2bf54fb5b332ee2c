"""Small networks, each with one thing that relevance propagation can get wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation


def conv(i: int, o: int, kernel: int = 3, *, bias: bool = False, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, padding=kwargs.pop("padding", kernel // 2), bias=bias, **kwargs)


def conv_bn(i: int, o: int, kernel: int = 3, **kwargs: int) -> nn.Sequential:
    return nn.Sequential(conv(i, o, kernel, **kwargs), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


def head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def randomise(model: nn.Module, *, negative_gammas: bool = True) -> nn.Module:
    """Random biases, batch-norm statistics and affine parts; a third of the gammas negative."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                if negative_gammas:
                    module.weight[::3] *= -1
                module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.normal_(0, 0.2)
    return model.eval()


class Vgg(nn.Module):
    """Biases, in-place ReLU, max pooling, three linear layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 4, bias=True), nn.ReLU(inplace=True),
            conv(4, 4, bias=True), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            conv(4, 6, bias=True), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(24, 10), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(10, 8), nn.ReLU(), nn.Dropout(),
            nn.Linear(8, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class BasicBlock(nn.Module):
    """As in torchvision, one in-place ReLU used twice."""

    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, stride=stride), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(o, o), nn.BatchNorm2d(o)
        changes = stride != 1 or i != o
        self.downsample = nn.Sequential(conv(i, o, 1, stride=stride), nn.BatchNorm2d(o)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = conv_bn(3, 4), nn.MaxPool2d(3, stride=2, padding=1)
        self.block1, self.block2, self.head = BasicBlock(4, 4), BasicBlock(4, 6, stride=2), head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(self.pool(self.stem(x)))))


class DenseLayer(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(i), nn.ReLU(inplace=True), conv(i, o)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(self.relu(self.norm(torch.cat(features, 1))))


class Dense(nn.Module):
    """DenseNet: batch norm in front of convolutions, concatenations, a functional end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.layer1, self.layer2 = DenseLayer(4, 3), DenseLayer(7, 3)
        self.transition = nn.Sequential(nn.BatchNorm2d(10), nn.ReLU(inplace=True), conv(10, 5, 1), nn.AvgPool2d(2))
        self.layer3, self.norm, self.classifier = DenseLayer(5, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first = self.layer1([x])
        x = self.transition(torch.cat([x, first, self.layer2([x, first])], 1))
        x = F.relu(self.norm(torch.cat([x, self.layer3([x])], 1)), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, stride=2)
        self.one, self.three = conv_bn(4, 2, 1), nn.Sequential(conv_bn(4, 2, 1), conv_bn(2, 3))
        self.pooled, self.averaged = conv_bn(4, 2, 1), conv_bn(4, 2, 1)
        self.head = head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pooled(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))
        averaged = self.averaged(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return self.head(torch.cat([self.one(x), self.three(x), pooled, averaged], dim=1))


class PoolTies(nn.Module):
    """Whole numbers throughout, so that equal values are equal to the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(2, 3, 1), conv(3, 4, 1)
        self.pool1, self.pool2 = nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2)
        self.third, self.head = conv(4, 4), head(4)
        with torch.no_grad():
            for layer in (self.first, self.second, self.third):
                layer.weight.copy_(torch.randint(-1, 2, layer.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.second(F.relu(self.first(x)))))
        return self.head(self.pool2(F.relu(self.third(x))))


class SaturatedRelu6(nn.Module):
    """Most values at 6: behind a convolution, behind an addition, then tied in a pooling window."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (conv(i, 4, bias=True) for i in (3, 4, 4))
        self.act, self.pool = nn.ReLU6(inplace=True), nn.MaxPool2d(2)
        self.fourth, self.head = conv(4, 5, bias=True), head(5)

    def adjust(self) -> None:
        self.third.weight[:2].abs_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(60 * self.first(x))
        x = F.relu6(x + 3 * self.second(x))
        return self.head(F.relu6(self.fourth(self.pool(F.relu6(0.7 * self.third(x), inplace=True)))))


class PreActivation(nn.Module):
    """ResNet v2: batch norm on the image, then BN-ReLU-conv blocks and signed sums."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0, self.conv0 = nn.BatchNorm2d(3), conv(3, 4)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), conv(4, 4)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), conv(4, 4)
        self.bn3, self.relu, self.head = nn.BatchNorm2d(4), nn.ReLU(), head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(self.bn0(x))
        x = x + self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(x))))))
        return self.head(self.relu(self.bn3(x)))


class ZeroGamma(nn.Module):
    """Gammas of exactly 0 (relevance passes all the same); a stand-alone batch norm on values with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 4), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = conv(4, 4), nn.BatchNorm2d(4)
        self.pool, self.alone, self.conv3, self.head = nn.MaxPool2d(2), nn.BatchNorm2d(4), conv(4, 4), head(4)

    def adjust(self) -> None:
        for bn in (self.bn1, self.bn2, self.alone):
            bn.weight[1:3] = 0
            bn.bias[1] = 0.7

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        return self.head(F.relu(self.conv3(self.alone(x))))


class Bottleneck(nn.Module):
    """MobileNetV2's: expand, depthwise, project linearly; the sum and the next input are signed."""

    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.expand = nn.Sequential(conv(i, 2 * i, 1), nn.BatchNorm2d(2 * i), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            conv(2 * i, 2 * i, groups=2 * i, stride=stride), nn.BatchNorm2d(2 * i), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(conv(2 * i, o, 1), nn.BatchNorm2d(o))
        self.shortcut = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 3, stride=2), Bottleneck(3, 4), Bottleneck(4, 4), Bottleneck(4, 5, stride=2),
            conv_bn(5, 6, 1),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Shuffle(nn.Module):
    """Groups, depthwise convolutions, a channel split, a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = conv_bn(3, 4), conv_bn(4, 8, groups=2)
        self.depthwise, self.pointwise, self.head = conv_bn(4, 4, groups=4), conv_bn(4, 4, 1), head(8)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = self.grouped(self.stem(x)).chunk(2, dim=1)
        x = torch.cat([kept, self.pointwise(self.depthwise(worked))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x[:, :, 1:, :-1])


class OddSizes(nn.Module):
    """Strides that leave rows over, kernels of 5 and of 1 x 3, pooling with ceil_mode, TensorFlow padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 4, 5, stride=2, padding=1, bias=True)
        self.wide = nn.Conv2d(4, 4, (1, 3), padding=(0, 1))
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.last, self.head = conv(4, 5, stride=2, padding=0), head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.wide(F.relu(self.first(F.pad(x, (0, 1, 1, 2))))))
        return self.head(F.relu(self.last(F.pad(self.pool(x), (0, 1, 0, 1)))))


class SamePadding(nn.Module):
    """TensorFlow's padding, more at the end, before convolutions: depthwise on x >= 0 and on signed x, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.positive = conv(4, 4, 3, stride=2, padding=0, groups=4)
        self.signed = conv(4, 8, 5, stride=2, padding=0, groups=4)
        self.dense, self.head = conv(8, 5, 3, padding=0, bias=True), head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.positive(F.pad(self.stem(x), (0, 1, 0, 1)))
        x = self.signed(F.pad(x, (1, 2, 2, 2)))
        return self.head(F.relu(self.dense(F.pad(x, (0, 2, 1, 1)))))


class Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 4, dilation=2, padding=2, bias=True), nn.ReLU(), conv(4, 4, dilation=3, padding=3),
            nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, dilation=2, stride=1),
        )  # fmt: skip
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Gated(nn.Module):
    """Squeeze-excitation with SiLU (EfficientNet), and with hardsigmoid and hardswish (MobileNetV3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.SiLU(inplace=True))
        self.gate1 = SqueezeExcitation(4, 2, activation=nn.SiLU)
        self.middle = nn.Sequential(conv(4, 4, stride=2), nn.BatchNorm2d(4), nn.Hardswish())
        self.gate2 = SqueezeExcitation(4, 2, scale_activation=nn.Hardsigmoid)
        self.project, self.head = nn.Sequential(conv(4, 5, 1), nn.BatchNorm2d(5)), head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.project(self.gate2(self.middle(self.gate1(self.stem(x))))))


class Silu(nn.Module):
    """The activation written as a product, and as a module on signed sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 4, bias=True), conv(4, 4)
        self.bn, self.act, self.head = nn.BatchNorm2d(4), nn.SiLU(), head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * torch.sigmoid(x)
        return self.head(0.5 * self.act(x + self.bn(self.second(x))))


class SignedAverages(nn.Module):
    """Average pooling, with and without overlap, and a mean over values of both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 4, bias=True), nn.AvgPool2d(2), conv(4, 4, bias=True), nn.BatchNorm2d(4),
            nn.AvgPool2d(3, stride=2, padding=1), conv(4, 5, 1, bias=True), nn.AdaptiveAvgPool2d((2, 3)),
            conv(5, 5, 1, bias=True), nn.BatchNorm2d(5),
        )  # fmt: skip
        self.classifier = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((-2, -1)))


class SqueezeNet(nn.Module):
    """Fire modules and a convolutional classifier: no linear layer, the logits are means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 4, stride=2, bias=True), nn.ReLU(inplace=True))
        self.squeeze = conv(4, 2, 1, bias=True)
        self.expand1, self.expand3 = conv(2, 3, 1, bias=True), conv(2, 3, bias=True)
        self.activation = nn.ReLU(inplace=True)
        self.classifier = nn.Sequential(
            nn.Dropout(), conv(6, 5, 1, bias=True), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def adjust(self) -> None:
        # Classes 0 and 4 are dead: their logits are exactly 0.
        self.classifier[1].bias.copy_(torch.tensor([-9.0, 0.4, 0.3, 0.6, -9.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.squeeze(self.stem(x)))
        x = torch.cat([self.activation(self.expand1(x)), self.activation(self.expand3(x))], 1)
        return torch.flatten(self.classifier(x), 1)


class SignedLogitsConvolution(nn.Module):
    """A convolutional classifier without an activation: signed class maps, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = conv_bn(3, 4, stride=2), conv(4, 5, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean((2, 3))


class OneClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 4), nn.MaxPool2d(2), conv_bn(4, 4))
        self.head = head(4, classes=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Functional(nn.Module):
    """relu as a function, in place, as a method; additions in place; a value read after it was changed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (conv(i, 4, bias=True) for i in (3, 4, 4, 4))
        self.classifier = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        y = self.b(x)
        F.relu(y, inplace=True)
        y += x
        z = self.c(y).relu_()
        z = self.d(z.add_(y)).relu()
        return self.classifier(F.dropout(z.mean((2, 3)), training=self.training))


class Reused(nn.Module):
    """One block applied three times, one activation everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.act = conv(3, 4), nn.Sequential(conv(4, 4), nn.BatchNorm2d(4)), nn.ReLU()
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for _ in range(2):
            x = self.act(self.block(x))
        return self.head(x + self.block(x))


class Signed(nn.Module):
    """Convolutions and linear layers straight on signed values: no activation, tanh, leaky ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 4, bias=True), conv(4, 4), nn.BatchNorm2d(4), conv(4, 4), nn.Tanh(), conv(4, 4),
            nn.LeakyReLU(0.1),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 6),
            nn.Linear(6, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ManyReaders(nn.Module):
    """A convolution's own output, its batch norm's and its ReLU's each read by someone else too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv(3, 4, bias=True), nn.BatchNorm2d(4), nn.ReLU()
        self.left, self.right, self.head = conv(4, 4), conv(4, 4), head(12)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.conv(x)
        normed = self.bn(raw)
        active = self.relu(normed)
        joined = self.left(active) + self.right(normed) + raw
        return self.head(torch.cat([joined, active + active, raw], 1))


def choose_targets(logits: Tensor) -> Tensor:
    """(N, 3): the highest logit, the lowest (negative wherever one is), and the one nearest to 0."""
    return torch.stack([logits.argmax(1), logits.argmin(1), logits.abs().argmin(1)], 1)


@dataclass(frozen=True)
class Exhibit:
    """A network to build and the images it wants."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 10, 10)
    whole_numbers: bool = False
    positive: bool = False
    seed: int = 3

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self.build()
            if not self.whole_numbers:
                randomise(model)
            if hasattr(model, "adjust"):
                with torch.no_grad():
                    model.adjust()
            # Rounded to float32 first: both precisions explain the same network.
            return model.float().to(dtype).eval()

    def shared(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same model for all tests that leave it as it is: it is captured once."""
        return _shared(self, dtype)

    def images(self, count: int = 2, dtype: torch.dtype = torch.float64, seed: int = 11) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.whole_numbers:
            return torch.randint(-2, 3, (count, *self.shape), generator=generator).to(dtype)
        images = torch.randn(count, *self.shape, generator=generator)
        return (images.abs() if self.positive else images).to(dtype)


@cache
def _shared(exhibit: Exhibit, dtype: torch.dtype) -> nn.Module:
    return exhibit.model(dtype)


ZOO: dict[str, Exhibit] = {
    "vgg_biases": Exhibit(Vgg, (3, 12, 12)),
    "residual_downsample": Exhibit(Residual, (3, 12, 12)),
    "dense_blocks": Exhibit(Dense),
    "inception_branches": Exhibit(Inception, (3, 12, 12)),
    "pooling_with_ties": Exhibit(PoolTies, (2, 12, 12), whole_numbers=True, seed=26),
    "saturated_relu6": Exhibit(SaturatedRelu6),
    "preactivation": Exhibit(PreActivation),
    "zero_gammas": Exhibit(ZeroGamma),
    "linear_bottleneck": Exhibit(MobileNet, (3, 12, 12)),
    "groups_and_shuffle": Exhibit(Shuffle),
    "odd_sizes": Exhibit(OddSizes, (3, 15, 13)),
    "same_padding": Exhibit(SamePadding, (3, 12, 13)),
    "dilation": Exhibit(Dilated),
    "squeeze_excitation": Exhibit(Gated),
    "silu_as_product": Exhibit(Silu, (3, 8, 8)),
    "signed_averages": Exhibit(SignedAverages, (3, 12, 12)),
    "convolutional_head": Exhibit(SqueezeNet, (3, 12, 12)),
    "signed_convolutional_head": Exhibit(SignedLogitsConvolution),
    "one_class": Exhibit(OneClass),
    "functional_and_in_place": Exhibit(Functional, (3, 8, 8)),
    "reused_module": Exhibit(Reused, (3, 8, 8)),
    "signed_inputs": Exhibit(Signed, (3, 8, 8)),
    "many_readers": Exhibit(ManyReaders, (3, 8, 8)),
    "positive_images": Exhibit(OddSizes, (3, 15, 13), positive=True),
}
