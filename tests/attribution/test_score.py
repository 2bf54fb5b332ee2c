"""ss_cam, is_cam, group_cam and abs_cam: by hand, against their formulas written out, and against torchcam."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchcam.methods as torchcam
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

import fastcam
from tests.attribution.toys import TwoChannels, enlarge, gradients_of, layer_of, min_max, two_by_two, watched
from tests.zoo import conv_bn, head, randomise

TOLERANCE = 1e-4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """Four stages of one block, no channel of layer1 dead."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model = randomise(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=12), negative_gammas=False)
        model.fc.weight.data *= 3
        model.layer1[0].bn2.bias.data += 4
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=seeded(17))


class Small(nn.Module):
    """A ReLU head behind `layer`, so that gradients differ from place to place and some are exactly 0."""

    def __init__(self, channels: int = 6, *, signed: bool = False) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.layer = nn.Conv2d(4, channels, 3, stride=2, padding=1) if signed else conv_bn(4, channels, stride=2)
        self.after, self.head = nn.Conv2d(channels, 5, 3, padding=1), head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.after(self.layer(self.stem(x)))))


def small(channels: int = 6, *, signed: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = randomise(Small(channels, signed=signed))
        model.head[2].weight.data *= 6
    return model.double()


def small_images() -> Tensor:
    return torch.randn(2, 3, 12, 10, generator=seeded(5), dtype=torch.float64)


TARGETS = torch.tensor([[0, 1], [4, 2]])


def probability(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """p (T,) of one image (C, H, W)."""
    return model(x[None]).softmax(1)[0, classes].detach()


# -- ss_cam and is_cam


class Numbers:
    """torchcam's source of noise, given numbers instead."""

    def __init__(self, std: float, seed: int) -> None:
        self.std, self.generator = std, seeded(seed)

    def sample(self, size: torch.Size) -> Tensor:
        return self.std * torch.randn(size, generator=self.generator)


# Behind a ReLU, and a convolution whose outputs have either sign.
LAYERS = pytest.mark.parametrize("layer", ["layer1", "layer1.0.conv1"], ids=["behind_relu", "signed"])


@pytest.fixture(scope="module")
def targets(resnet: nn.Module, images: Tensor) -> Tensor:
    """(N, 2): the highest and the lowest logit."""
    return resnet(images).argsort(1)[:, [-1, 0]]


def theirs(extractor: torchcam.ScoreCAM, images: Tensor, targets: Tensor) -> Tensor:
    """Raw maps, (N, T, h, w), in a run for each column of targets."""
    maps = []
    with extractor:
        for column in targets.T.tolist():
            if isinstance(extractor, torchcam.SSCAM):
                extractor._distrib = Numbers(extractor.std, 11)
            extractor.model(images)
            maps.append(extractor(column, normalized=False)[0].detach())
    return torch.stack(maps, 1)


@LAYERS
def test_ss_cam_equals_torchcam_given_the_same_noise(
    layer: str, resnet: nn.Module, images: Tensor, targets: Tensor
) -> None:
    extractor = torchcam.SSCAM(resnet, layer, batch_size=64, num_samples=3, std=0.7, input_shape=(3, 32, 32))
    expected = theirs(extractor, images, targets)
    # torchcam draws a sample's noise at once; 32 x 32 numbers a mask are a multiple of what a CPU draws in one go.
    options = {"samples": 3, "std": 0.7, "size": "layer"}
    found = fastcam.ss_cam(
        resnet, images, targets, layer, generator=seeded(11), normalize=False, return_info=True, **options
    )
    assert found.left_out["skipped_channels"].tolist() == [0, 0]
    assert expected.amax((-2, -1)).min() > 0
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-5)
    other = fastcam.ss_cam(resnet, images, targets, layer, generator=seeded(12), **options)
    assert (other - min_max(expected)).abs().max() > TOLERANCE


def is_cam_of(resnet: nn.Module, images: Tensor, layer: str, targets: Tensor, samples: int) -> Tensor:
    """relu(sum alpha A) with alpha = softmax of mean y_c(i/samples x M), written out."""
    activation = layer_of(resnet, images, layer)[1].detach()
    masks = enlarge(min_max(activation), (32, 32))
    rows = []
    for image, mask, classes in zip(images, masks, targets, strict=True):
        logits = [resnet(i / samples * image * mask[:, None]).detach() for i in range(1, samples + 1)]
        rows.append(torch.stack(logits).mean(0)[:, classes].softmax(0).T)
    return torch.einsum("ntk,nkhw->nthw", torch.stack(rows), activation).relu()


@LAYERS
def test_is_cam_equals_its_formula_and_differs_from_torchcam_in_the_scales(
    layer: str, resnet: nn.Module, images: Tensor, targets: Tensor
) -> None:
    """torchcam adds the scales up as it goes (0.1, 0.3, 0.6, ... 5.5); the definition has 0.1, 0.2, ... 1."""
    samples = 3
    extractor = torchcam.ISCAM(resnet, layer, batch_size=64, num_samples=samples, input_shape=(3, 32, 32))
    peers = theirs(extractor, images, targets)
    common = {"samples": samples, "size": "layer", "normalize": False}
    found = {s: fastcam.is_cam(resnet, images, targets, layer, scales=s, **common) for s in ("linear", "cumulative")}
    torch.testing.assert_close(found["cumulative"], peers, rtol=1e-4, atol=1e-5)
    by_formula = is_cam_of(resnet, images, layer, targets, samples)
    torch.testing.assert_close(found["linear"], by_formula, rtol=1e-4, atol=1e-5)
    assert (min_max(by_formula) - min_max(peers)).abs().max() > TOLERANCE


def test_layers_compared_are_signed_or_not(resnet: nn.Module, images: Tensor) -> None:
    assert layer_of(resnet, images, "layer1")[1].min() >= 0
    assert 0.2 < (layer_of(resnet, images, "layer1.0.conv1")[1] < 0).double().mean() < 0.8


class TestByHand:
    """x = [[1, 2], [3, 4]]: A0 = x, A1 = [[4, 3], [2, 1]], A2 = 0; logits of x M_0, x M_1, 0 as worked out below."""

    model = TwoChannels().double().eval()

    def found(self, method: str, targets: list[int], **options: object) -> Tensor:
        return fastcam.explain(
            self.model, two_by_two(), method=method, targets=[targets], layer="relu", size="layer", normalize=False,
            **options,
        )[0]  # fmt: skip

    def test_is_cam(self) -> None:
        # x M_0 = [[0, 2/3], [2, 4]], means (5/3, 10/3); half of it (5/6, 25/6): y_0 = 0 and -5/2, mean -5/4.
        # x M_1 = [[1, 4/3], [1, 0]], means (5/6, 25/6); half of it (5/12, 55/12): y_0 = -5/2 and -15/4, mean -25/8.
        # The dead channel's are of zeros: -5.
        scores = torch.tensor([-1.25, -3.125, -5], dtype=torch.float64)
        a, b, _ = scores.softmax(0)
        expected = torch.stack([a * 1 + b * 4, a * 2 + b * 3, a * 3 + b * 2, a * 4 + b * 1]).view(1, 2, 2)
        torch.testing.assert_close(self.found("is_cam", [0], samples=2), expected)

    def test_ss_cam_without_noise_is_softmax_score_cam(self) -> None:
        expected = self.found("score_cam", [0, 2], score="logit", weights="softmax")
        torch.testing.assert_close(self.found("ss_cam", [0, 2], std=0, samples=2), expected)

    def test_ss_cam_with_noise(self) -> None:
        source = seeded(1)
        noise = [torch.randn(3, 2, 2, generator=source, dtype=torch.float64) for _ in range(2)]
        x = two_by_two()
        m = torch.stack([(x[0, 0] - 1) / 3, (4 - x[0, 0]) / 3, torch.zeros(2, 2).double()])
        scores = torch.stack([self.model(x * (m + 0.5 * n)[:, None])[:, 1] for n in noise]).mean(0)
        a, b, _ = scores.softmax(0).detach()
        found = self.found("ss_cam", [1], samples=2, std=0.5, generator=seeded(1))
        torch.testing.assert_close(found, (a * x[0] + b * (5 - x[0])))

    def test_abs_cam_by_channel(self) -> None:
        # W_0 = 1/2, W_1 = 1/4: both vanish. relu(p(M_0 x) M_0 + p(M_1 x) M_1), M_1 = 1 - M_0.
        p, q = (torch.tensor([y]).softmax(1)[0, 0].item() for y in ([0.0, 5 / 3, 10], [-2.5, 10 / 3, 12.5]))
        m = (two_by_two()[0] - 1) / 3
        torch.testing.assert_close(self.found("abs_cam", [0]), p * m + q * (1 - m))

    def test_abs_cam_with_a_shared_range(self) -> None:
        # W A: [[0.5, 1], [1.5, 2]], [[1, 0.75], [0.5, 0.25]] and 0: from 0 to 2.
        x = two_by_two()[0]
        first, second = x / 4, (5 - x) / 8
        p, q = (self.model((x * m)[None]).softmax(1)[0, 0].item() for m in (first, second))
        torch.testing.assert_close(self.found("abs_cam", [0], mask="shared"), p * first + q * second)

    def test_abs_cam_with_a_joint_mask(self) -> None:
        # 0.5 x + 0.25 (5 - x) = 1.25 + 0.25 x: its min-max is that of x.
        m = (two_by_two()[0] - 1) / 3
        p = torch.tensor([[0.0, 5 / 3, 10]]).softmax(1)[0, 0].item()
        torch.testing.assert_close(self.found("abs_cam", [0], mask="joint"), p * m)

    def test_group_cam(self) -> None:
        # Class 0: mean g = (1/2, -1/4, ...). Of one group: relu(x/2 - (5 - x)/4) = relu(3x/4 - 5/4) =
        # [[0, 1/4], [1, 7/4]]; the 70th percentile lies 1/10 of the way from 1 to 7/4. M = [[0, 0], [0, 1]].
        # The blur reflects: of 2 pixels a and b three weights about a see b, a, b.
        x = two_by_two()
        w = math.exp(-1 / 5000)
        blur = torch.tensor([[1, 2 * w], [2 * w, 1]], dtype=torch.float64) / (1 + 2 * w)
        blurred = blur @ x @ blur.T
        m = torch.tensor([[0.0, 0], [0, 1]], dtype=torch.float64)
        p = [self.model(z).softmax(1)[0, 0].item() for z in (x * m + blurred * (1 - m), blurred)]
        expected = ((p[0] - p[1]) * m).relu()
        assert expected.max() > 0
        torch.testing.assert_close(self.found("group_cam", [0], groups=1), expected[None])


# -- group_cam


def group_cam_of(model: nn.Module, x: Tensor, targets: Tensor, groups: int, percentile: float) -> Tensor:
    """Written out, mask by mask, at the image's size."""
    activation, g = gradients_of(model, x, "layer", targets)
    rows, columns = x.shape[2:]
    line = torch.arange(-25, 26, dtype=torch.float64)
    kernel = torch.exp(-line.square() / 5000)
    kernel = kernel / kernel.sum()
    blurred = F.pad(x, (25, 25, 25, 25), mode="reflect")
    blurred = F.conv2d(blurred.flatten(0, 1)[:, None], (kernel[:, None] * kernel)[None, None]).view(x.shape)
    maps = torch.zeros(*targets.shape, rows, columns, dtype=torch.float64)
    for n in range(len(x)):
        for t in range(targets.shape[1]):
            c = targets[n, t]
            weighted = g[n, t].mean((1, 2))[:, None, None] * activation[n]
            base = probability(model, blurred[n], c)
            for part in weighted.tensor_split(groups):
                mask = part.sum(0).relu()
                mask = torch.where(mask < mask.quantile(percentile / 100), 0, mask)
                mask = min_max(enlarge(mask[None, None], (rows, columns)))[0, 0]
                blend = x[n] * mask + blurred[n] * (1 - mask)
                maps[n, t] += (probability(model, blend, c) - base) * mask
    return maps.relu()


@pytest.mark.parametrize(("groups", "percentile"), [(3, 70), (2, 0), (6, 33.3)], ids=str)
def test_group_cam_equals_its_formula(groups: int, percentile: float) -> None:
    model, x = small(), 2 * torch.randn(2, 3, 28, 30, generator=seeded(5), dtype=torch.float64)
    every = torch.arange(5).expand(2, 5)
    expected = group_cam_of(model, x, every, groups, percentile)
    options = {"groups": groups, "percentile": percentile}
    found = fastcam.group_cam(model, x, every, "layer", normalize=False, **options)
    assert (expected.amax((-2, -1)) > 1e-5).sum() >= 4
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-14)
    one_by_one = fastcam.group_cam(model, x, every, "layer", normalize=False, batch_size=1, **options)
    torch.testing.assert_close(one_by_one, expected, rtol=1e-8, atol=1e-14)


def test_groups_are_contiguous_and_at_most_one_per_channel() -> None:
    model, x = small(), small_images()
    each = fastcam.group_cam(model, x, TARGETS, "layer", groups=6)
    torch.testing.assert_close(fastcam.group_cam(model, x, TARGETS, "layer"), each)
    assert (fastcam.group_cam(model, x, TARGETS, "layer", groups=5) - each).abs().max() > TOLERANCE


# -- abs_cam


def abs_cam_of(model: nn.Module, x: Tensor, targets: Tensor, reading: str) -> Tensor:
    """Equations 1 to 5, written out at the image's size."""
    activation, g = gradients_of(model, x, "layer", targets)
    maps = torch.zeros(*targets.shape, *x.shape[2:], dtype=torch.float64)
    for n in range(len(x)):
        for t in range(targets.shape[1]):
            weighted = g[n, t].abs().mean((1, 2))[:, None, None] * activation[n]
            up = enlarge(weighted[None], (x.shape[2], x.shape[3]))[0]
            if reading == "shared":
                masks = (up - up.min()) / (up.max() - up.min())
            else:
                masks = min_max(up if reading == "channel" else up.sum(0, keepdim=True))
            for mask in masks:
                maps[n, t] += probability(model, x[n] * mask, targets[n, t]) * mask
    return maps.relu()


@pytest.mark.parametrize("reading", ["channel", "shared", "joint"])
@pytest.mark.parametrize("signed", [False, True], ids=["behind_relu", "signed"])
def test_abs_cam_equals_its_formula(reading: str, signed: bool) -> None:
    model, x = small(signed=signed), small_images()
    expected = abs_cam_of(model, x, TARGETS, reading)
    found = fastcam.abs_cam(model, x, TARGETS, "layer", mask=reading, normalize=False)
    assert expected.amax((-2, -1)).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_abs_cam_readings_differ() -> None:
    model, x = small(), small_images()
    maps = [fastcam.abs_cam(model, x, TARGETS, "layer", mask=reading) for reading in ("channel", "shared", "joint")]
    assert (maps[0] - maps[1]).abs().max() > 0.05
    assert (maps[1] - maps[2]).abs().max() > 0.005


def test_by_channel_min_max_cancels_the_weights() -> None:
    """Where no W_k is 0, abs_cam's scores are those of score_cam without a baseline: gradients play no part."""
    model, x = small(), small_images()
    found = fastcam.abs_cam(model, x, TARGETS, "layer", return_info=True)
    plain = fastcam.score_cam(model, x, TARGETS, "layer", baseline=None, return_info=True)
    activation, g = gradients_of(model, x, "layer", TARGETS)
    live = (activation.abs().amax((2, 3)) > 0)[:, None] & (g.abs().amax((3, 4)) > 0)
    assert live.all(1).sum() > 6
    torch.testing.assert_close(found.weights[live], plain.weights[live], rtol=1e-9, atol=1e-12)
    assert (found.weights[~live] == 0).all()


def test_joint_abs_cam_is_abs_cam_init_once_normalised() -> None:
    model, x = small(), small_images()
    activation, g = gradients_of(model, x, "layer", TARGETS)
    assert activation.min() == 0
    initial = torch.einsum("ntk,nkhw->nthw", g.abs().mean((3, 4)), activation)
    found = fastcam.abs_cam(model, x, TARGETS, "layer", mask="joint")
    torch.testing.assert_close(found, min_max(enlarge(initial, (12, 10)).relu()), rtol=1e-9, atol=1e-10)


def test_channels_without_gradient_are_masks_of_zeros() -> None:
    model, x = small(), small_images()
    with torch.no_grad():
        model.after.weight[:, 2] = 0  # W_2 = 0
    found = fastcam.abs_cam(model, x, TARGETS, "layer", return_info=True)
    assert (found.weights[:, :, 2] == 0).all()
    expected = abs_cam_of(model, x, TARGETS, "channel")
    torch.testing.assert_close(found.maps, min_max(expected), rtol=1e-9, atol=1e-10)


# -- dead channels


def some_dead_channels() -> nn.Module:
    model = small(8)
    with torch.no_grad():
        model.layer[1].weight[1::3] = 0
        model.layer[1].bias[1::3] = -1  # relu(-1): channels 1, 4 and 7
    return model


@pytest.mark.parametrize(
    ("method", "forwards"),
    [("score_cam", 2 + 5), ("ss_cam", 1 + 3 * 6), ("is_cam", 2 + 3 * 5), ("abs_cam", 1 + 5)],
    ids=lambda value: str(value),
)
def test_channels_that_are_zero_everywhere_are_not_run(method: str, forwards: int) -> None:
    """ss_cam runs one of them, whose mask is noise alone."""
    model, x = some_dead_channels(), small_images()[:1]
    options = {"samples": 3} if method in {"ss_cam", "is_cam"} else {}
    with watched() as seen:
        found = fastcam.explain(model, x, method=method, targets=1, layer="layer", return_info=True, **options)
    assert sum(seen["forward"]) == forwards
    if method != "abs_cam":
        assert found.left_out["skipped_channels"].tolist() == [2 if method == "ss_cam" else 3]


def test_dead_channels_stay_in_the_softmax() -> None:
    model, x = some_dead_channels(), small_images()
    found = fastcam.ss_cam(model, x, TARGETS, "layer", samples=2, std=0, return_info=True)
    plain = fastcam.score_cam(model, x, TARGETS, "layer", score="logit", weights="softmax", return_info=True)
    assert found.weights.shape == plain.weights.shape
    torch.testing.assert_close(found.weights.sum(2), torch.ones(2, 2).double())
    dead = found.weights[:, :, 1::3]
    torch.testing.assert_close(dead, dead[:, :, :1].expand_as(dead))
    assert dead.min() > 0
