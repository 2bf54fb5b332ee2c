"""UCAG against a loop over patches, a two-place example by hand, and facts about its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import fastcam
from fastcam.attribution import METHODS, unfolding
from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Whole
from fastcam.network.layers import Layer
from fastcam.network.network import Network
from tests.attribution.test_model_untouched import assert_unchanged, build, snapshot
from tests.zoo import conv_bn, head, randomise

CLASSES = 5
# Images of 20 x 26: patches of 12 x 11, enlarged to 18 x 16.
SETTINGS: dict[str, Any] = {"patches": 3, "crop": (12, 11), "scale": 1.5}
SEVERAL = [[0, 1], [4, 2]]


class Net(nn.Module):
    """layer1 and layer2 at half the images' size, layer3 at a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = conv_bn(3, 4, stride=2), conv_bn(4, 5)
        self.layer3, self.head = conv_bn(5, 6, stride=2), head(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(x))))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return randomise(Net()).double()


def some_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return some_images(2, 3, 20, 26)


# -- a signed method at the input, as those of the relevance family are, in five lines


def _images(network: Network, layers: Sequence[Layer]) -> tuple[fx.Node, ...]:
    return (network.graph.images,)


def _input_times_gradient(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    gradient = case.gradient(case.network.graph.images)
    return Evidence(case.logits, case.targets, [Whole((gradient * case.images.unsqueeze(1)).sum(2))])


SIGNED = Method(
    name="input_times_gradient",
    family="gradient",
    paper="none",
    find=_input_times_gradient,
    relu=False,
    signed=True,
    layer="input",
    leaves=_images,
    forwards="1",
)
OF_THE_IMAGES = Method(
    name="image_times_gradient",
    family="gradient",
    paper="none",
    find=_input_times_gradient,
    relu=True,
    layer="none",
    leaves=_images,
    forwards="1",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, SIGNED.name, SIGNED)
    monkeypatch.setitem(METHODS, OF_THE_IMAGES.name, OF_THE_IMAGES)


# -- the slow way: a loop over images, targets and patches. Raw maps, not clipped, for one image and one class.


def raw_grad_cam(model: nn.Module, image: Tensor, target: int, layer: str) -> Tensor:
    held = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: held.update(output=call[2]))
    score = model(image)[0, target]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, held["output"])
    return (gradient.mean((2, 3), keepdim=True) * held["output"]).sum(1).detach()[0]


def raw_relevance_cam(model: nn.Module, image: Tensor, target: int, layer: str) -> Tensor:
    return fastcam.relevance_cam(model, image, target, layer, size="layer", normalize=False)[0]


def raw_input_times_gradient(model: nn.Module, image: Tensor, target: int, layer: str | None) -> Tensor:
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[0, target], image)
    return (gradient * image).sum(1).detach()[0]


Raw = Callable[[nn.Module, Tensor, int, Any], Tensor]


def textbook(
    raw: Raw,
    model: nn.Module,
    images: Tensor,
    targets: list[list[int]],
    layer: str | None,
    *,
    patches: int,
    crop: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """U (N, T, H, W) before ReLU, and s (N, T, P)."""
    height, width = images.shape[2:]
    rows = torch.linspace(0, height - crop[0], patches, dtype=torch.float64).round().long().tolist()
    columns = torch.linspace(0, width - crop[1], patches, dtype=torch.float64).round().long().tolist()
    size = (round(crop[0] * scale), round(crop[1] * scale))
    sums = torch.zeros(len(images), len(targets[0]), height, width, dtype=torch.float64)
    scores = torch.zeros(len(images), len(targets[0]), patches**2, dtype=torch.float64)
    for n, image in enumerate(images):
        for t, target in enumerate(targets[n]):
            duplicates = torch.zeros(height, width)
            for m, (top, left) in enumerate((top, left) for top in rows for left in columns):
                there = (slice(top, top + crop[0]), slice(left, left + crop[1]))
                patch = F.interpolate(image[(slice(None), *there)][None], size, mode="bicubic", align_corners=False)
                s = model(patch).softmax(1)[0, target].exp().detach()
                found = raw(model, patch, target, layer)[None, None]
                partial = F.interpolate(found, crop, mode="bilinear", align_corners=False)[0, 0]
                sums[n, t][there] += s * partial
                duplicates[there] += 1
                scores[n, t, m] = s
            sums[n, t] /= duplicates.clamp(min=1)
    return sums, scores


CASES = pytest.mark.parametrize(
    ("method", "raw", "layer"),
    [
        ("grad_cam", raw_grad_cam, "layer3"),
        ("grad_cam", raw_grad_cam, "layer1"),
        ("relevance_cam", raw_relevance_cam, "layer2"),
        ("input_times_gradient", raw_input_times_gradient, None),
        ("image_times_gradient", raw_input_times_gradient, None),
    ],
    ids=["grad_cam_last", "grad_cam_first", "relevance_cam", "signed_at_the_input", "of_the_images"],
)


@CASES
def test_a_loop_over_patches(method: str, raw: Raw, layer: str | None, model: nn.Module, images: Tensor) -> None:
    expected, scores = textbook(raw, model, images, SEVERAL, layer, **SETTINGS)
    if METHODS[method].relu:
        assert (expected < 0).any()
        expected = expected.relu()
    found = fastcam.ucag(model, images, SEVERAL, layer, method=method, normalize=False, return_info=True, **SETTINGS)
    assert found.maps.dtype == torch.float64
    torch.testing.assert_close(found.maps, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    torch.testing.assert_close(found.left_out["confidences"], scores, rtol=1e-9, atol=0)


def test_a_loop_over_patches_in_single_precision(model: nn.Module, images: Tensor) -> None:
    # Patches of 112 of 200 pixels, enlarged by 2.6, as in the paper.
    grid: dict[str, Any] = {"patches": 6, "crop": (17, 18), "scale": 2.6}
    expected, _ = textbook(raw_grad_cam, model, images, SEVERAL, "layer3", **grid)
    net = build_float(model)
    found = fastcam.ucag(net, images.float(), SEVERAL, "layer3", normalize=False, **grid)
    assert found.dtype == torch.float32
    assert (found - expected.relu()).abs().max() < 1e-5 * expected.abs().max()


def build_float(model: nn.Module) -> nn.Module:
    net = Net().eval()
    net.load_state_dict(model.state_dict())
    return net


# -- by hand


def test_two_places_by_hand() -> None:
    """Two channels; y_c is the mean of channel c, so that Grad-CAM's raw map is A_c / (h w), h w = 4.

    Image of 2 x 3, crops of 2 x 2: the left two columns and the right two, each twice, as both rows of patches start
    at 0. Means: left (2, 1), right (3, 0).
    """
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2)[:, :, None, None])
    image = torch.tensor([[[[1.0, 2.0, 4.0], [3.0, 2.0, 4.0]], [[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]]]).double()
    left = math.exp(math.exp(2) / (math.exp(2) + math.exp(1)))
    right = math.exp(math.exp(3) / (math.exp(3) + 1))
    middle = (left + right) / 2
    expected = torch.tensor([[left * 1, middle * 2, right * 4], [left * 3, middle * 2, right * 4]]).double() / 4
    found = fastcam.ucag(net, image, 0, "0", patches=2, crop=2, scale=1, normalize=False, return_info=True)
    torch.testing.assert_close(found.maps[0], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        found.left_out["confidences"][0], torch.tensor([left, right] * 2).double(), rtol=1e-6, atol=0
    )
    whole = torch.tensor([[8 / 3, 2 / 3]]).double()
    torch.testing.assert_close(found.logits, whole)
    torch.testing.assert_close(found.probabilities, whole.softmax(1))
    # The image of class 1 lies in the left column alone.
    assert fastcam.ucag(net, image, 1, "0", patches=2, crop=2, scale=1)[0].tolist() == [[1 / 3, 0, 0], [1, 0, 0]]


# -- facts


def watch_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass took, as they happen."""
    seen: list[int] = []
    forward = Network.forward

    def watched(self: Network, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(Network, "forward", watched)
    return seen


# Fewer steps and masks where a method has them, and the same random numbers for both calls.
OPTIONS: dict[str, dict[str, Any]] = {
    "extremal_perturbation": {"steps": 3},
    "rise": {"masks": 6},
    "ss_cam": {"samples": 2},
    "cameras": {"steps": 2, "largest": 1.5},
}


def options_of(method: str) -> dict[str, Any]:
    own = METHODS[method].options
    common = {"generator": torch.Generator().manual_seed(1), "pixel_range": (-5.0, 5.0)}
    return {**OPTIONS.get(method, {}), **{name: value for name, value in common.items() if name in own}}


@pytest.mark.parametrize("method", [*METHODS, "input_times_gradient"])
def test_one_patch_that_is_the_image(method: str, model: nn.Module, images: Tensor) -> None:
    same: dict[str, Any] = {"method": method, "patches": 1, "crop": (20, 26), "scale": 1}
    alone = fastcam.explain(model, images, SEVERAL, method=method, return_info=True, **options_of(method))
    found = fastcam.ucag(model, images, SEVERAL, return_info=True, **same, **options_of(method))
    torch.testing.assert_close(found.maps, alone.maps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.logits, alone.logits)
    assert found.layer == alone.layer
    # Before normalising they differ by the factor exp(p_c).
    raw = fastcam.explain(model, images, SEVERAL, method=method, normalize=False, **options_of(method))
    factor = found.left_out["confidences"].squeeze(-1)[..., None, None]
    torch.testing.assert_close(
        fastcam.ucag(model, images, SEVERAL, normalize=False, **same, **options_of(method)),
        factor * raw,
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_patches(method: str, model: nn.Module, images: Tensor) -> None:
    maps = fastcam.ucag(model, images, SEVERAL, method=method, **SETTINGS, **options_of(method))
    assert maps.shape == (2, 2, 20, 26)
    assert maps.isfinite().all()
    assert maps.abs().amax() == 1


@pytest.mark.parametrize("targets", [None, [3, 1], SEVERAL], ids=["predicted", "one_each", "several"])
def test_targets(targets: Any, model: nn.Module, images: Tensor) -> None:
    same: dict[str, Any] = {"method": "relevance_cam", "patches": 1, "crop": (20, 26), "scale": 1}
    alone = fastcam.relevance_cam(model, images, targets, return_info=True)
    found = fastcam.ucag(model, images, targets, return_info=True, **same)
    torch.testing.assert_close(found.maps, alone.maps, rtol=1e-7, atol=1e-7)
    assert torch.equal(found.targets, alone.targets)
    assert found.left_out["confidences"].shape == (*found.targets.shape, 1)


def test_the_papers_settings_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    net, sizes = build(), []
    unfold = fastcam.ops.unfold_patches

    def watched(x: Tensor, tops: Tensor, lefts: Tensor, crop: Any, size: Any, mode: str) -> Tensor:
        sizes.append((tuple(crop), tuple(size), mode, sorted(set(tops.tolist()))))
        return unfold(x, tops, lefts, crop, size, mode)

    monkeypatch.setattr(fastcam.ops, "unfold_patches", watched)
    for side in (224, 28):
        found = fastcam.ucag(net, torch.ones(1, 3, side, side), batch_size=36, return_info=True)
        assert found.left_out["confidences"].shape == (1, 36)
        assert found.maps.shape == (1, side, side)
    # 28 * 124 / 224 = 15.5, and round(15.5) = 16; 16 * 2.6 = 41.6.
    assert sizes == [
        ((124, 124), (322, 322), "bicubic", [0, 20, 40, 60, 80, 100]),
        ((16, 16), (42, 42), "bicubic", [0, 2, 5, 7, 10, 12]),
    ]


# Pairs of crop and scale that all enlarge to 12 x 12: one capture of the model serves them.
@given(patches=st.integers(1, 6), crop_scale=st.sampled_from([(20, 0.6), (12, 1), (8, 1.5), (6, 2), (5, 2.4)]))
@settings(max_examples=15, deadline=None)
def test_any_grid(patches: int, crop_scale: tuple[int, float], model: nn.Module, images: Tensor) -> None:
    crop, scale = crop_scale
    expected, _ = textbook(
        raw_grad_cam, model, images[:1], [[2]], "layer1", patches=patches, crop=(crop, crop), scale=scale
    )
    found = fastcam.ucag(model, images[:1], 2, "layer1", patches=patches, crop=crop, scale=scale, normalize=False)
    assert (found - expected[:, 0].relu()).abs().max() <= 1e-9 * expected.abs().max()


def test_pixels_that_no_patch_covers_are_zero(model: nn.Module, images: Tensor) -> None:
    # One patch along each axis lies at the top left.
    found = fastcam.ucag(model, images, 1, method="relevance_cam", patches=1, crop=8, scale=2, normalize=False)
    assert torch.count_nonzero(found[:, 8:]) == torch.count_nonzero(found[:, :, 8:]) == 0
    assert torch.count_nonzero(found[:, :8, :8]) > 0


def test_the_class_is_that_of_the_whole_image(model: nn.Module, images: Tensor) -> None:
    found = fastcam.ucag(model, images, return_info=True, **SETTINGS)
    predicted = model(images).argmax(1)
    assert torch.equal(found.targets, predicted)
    torch.testing.assert_close(found.logits, model(images).detach())
    assert torch.equal(found.maps, fastcam.ucag(model, images, predicted, **SETTINGS))


def test_relevance_stays_signed(model: nn.Module, images: Tensor) -> None:
    raw = fastcam.ucag(model, images, SEVERAL, method="input_times_gradient", normalize=False, **SETTINGS)
    maps = fastcam.ucag(model, images, SEVERAL, method="input_times_gradient", **SETTINGS)
    assert ((raw < 0).flatten(2).any(2) & (raw > 0).flatten(2).any(2)).all()
    torch.testing.assert_close(maps, raw / raw.abs().amax((2, 3), keepdim=True))
    assert torch.equal(maps.sign(), raw.sign())


def test_cam_methods_are_clipped_after_folding(model: nn.Module, images: Tensor) -> None:
    raw = fastcam.ucag(model, images, SEVERAL, normalize=False, **SETTINGS)
    maps = fastcam.ucag(model, images, SEVERAL, **SETTINGS)
    assert raw.min() == 0
    low, high = raw.amin((2, 3), keepdim=True), raw.amax((2, 3), keepdim=True)
    torch.testing.assert_close(maps, torch.where(high > low, (raw - low) / (high - low), 0.0))


def test_sizes(model: nn.Module, images: Tensor) -> None:
    whole = fastcam.ucag(model, images, 1, method="relevance_cam", normalize=False, **SETTINGS)
    small = fastcam.ucag(model, images, 1, method="relevance_cam", normalize=False, size=(7, 9), **SETTINGS)
    torch.testing.assert_close(small, F.interpolate(whole[:, None], (7, 9), mode="bilinear")[:, 0])
    assert torch.equal(
        fastcam.ucag(model, images, 1, method="relevance_cam", normalize=False, size="layer", **SETTINGS), whole
    )
    first = fastcam.ucag(model, images, 1, size=(40, 52), normalize_at="layer", **SETTINGS)
    at_images = fastcam.ucag(model, images, 1, **SETTINGS)
    torch.testing.assert_close(first, F.interpolate(at_images[:, None], (40, 52), mode="bilinear")[:, 0])


def test_several_layers_come_in_the_order_asked_for(model: nn.Module, images: Tensor) -> None:
    layers = ["layer3", model.layer1, "layer2.0"]
    found = fastcam.ucag(model, images, SEVERAL, layers, method="relevance_cam", return_info=True, **SETTINGS)
    assert found.layer == ["layer3", "layer1", "layer2.0"]
    assert found.weights == [None, None, None]
    for maps, layer in zip(found.maps, layers, strict=True):
        alone = fastcam.ucag(model, images, SEVERAL, layer, method="relevance_cam", **SETTINGS)
        torch.testing.assert_close(maps, alone, rtol=1e-6, atol=1e-9)


def test_several_methods_share_the_patches_passes(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["grad_cam", "cam", "input_times_gradient"]
    alone = {name: fastcam.ucag(model, images, SEVERAL, method=name, **SETTINGS) for name in names}
    passes = watch_forwards(monkeypatch)
    together = fastcam.ucag(model, images, SEVERAL, method=names, batch_size=9, **SETTINGS)
    assert passes == [2, 9, 9]
    assert list(together) == names
    for name in names:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 17, 1000])
def test_the_batch_size_changes_nothing_but_memory(
    batch_size: int, model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fastcam.ucag(model, images, SEVERAL, return_info=True, **SETTINGS)
    seen = watch_forwards(monkeypatch)
    monkeypatch.setattr(unfolding, "_MOST_FOLDED", 1)
    found = fastcam.ucag(model, images, SEVERAL, batch_size=batch_size, return_info=True, **SETTINGS)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.left_out["confidences"], expected.left_out["confidences"])
    assert max(seen[1:]) <= batch_size
    assert sum(seen[1:]) == 18
    assert len(seen) == 1 + math.ceil(18 / batch_size)


def test_the_default_batch_keeps_to_a_number_of_pixels(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unfolding._PIXELS, "cpu", 5 * 18 * 16)
    seen: list[int] = []
    unfold = fastcam.ops.unfold_patches
    monkeypatch.setattr(
        fastcam.ops, "unfold_patches", lambda x, tops, *rest: (seen.append(len(tops)), unfold(x, tops, *rest))[1]
    )
    fastcam.ucag(model, some_images(2, 3, 20, 26), 1, **SETTINGS)
    assert seen == [5, 5, 5, 3]
    monkeypatch.setitem(unfolding._PIXELS, "cpu", 1)
    seen.clear()
    fastcam.ucag(model, some_images(1, 3, 20, 26), 1, **SETTINGS)
    assert seen == [1] * 9


def test_score_methods_take_the_batch_size_too(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw: dict[str, Any] = {"method": "score_cam", "normalize": False, **SETTINGS}
    expected = fastcam.ucag(model, images, SEVERAL, "layer3", score="logit", **raw)
    assert not torch.allclose(expected, fastcam.ucag(model, images, SEVERAL, "layer3", **raw))
    seen = watch_forwards(monkeypatch)
    found = fastcam.ucag(model, images, SEVERAL, "layer3", score="logit", batch_size=4, **raw)
    assert max(seen) == 4
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_each_image_alone_and_every_memory_format(model: nn.Module, images: Tensor) -> None:
    together = fastcam.ucag(model, images, SEVERAL, normalize=False, **SETTINGS)
    for n in range(2):
        alone = fastcam.ucag(model, images[n : n + 1], SEVERAL[n : n + 1], normalize=False, **SETTINGS)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-7, atol=1e-12)
    last = fastcam.ucag(model, images.to(memory_format=torch.channels_last), SEVERAL, normalize=False, **SETTINGS)
    torch.testing.assert_close(last, together, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam", "score_cam"])
def test_the_same_call_gives_the_same_bits_and_leaves_all_as_it_was(method: str) -> None:
    net, x = build(), some_images(2, 3, 20, 20).float()
    before, given_images = snapshot(net), x.clone()
    first = fastcam.ucag(net, x, method=method, patches=2)
    assert_unchanged(net, before)
    assert torch.equal(x, given_images)
    wrapped = fastcam.Ucag(net, method=method, patches=2)
    assert torch.equal(wrapped(x), first)
    assert torch.equal(wrapped(x), first)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_precisions(precision: str, model: nn.Module, images: Tensor) -> None:
    net = build_float(model)
    exact = fastcam.ucag(net, images.float(), SEVERAL, "layer2", return_info=True, **SETTINGS)
    found = fastcam.ucag(net, images.float(), SEVERAL, "layer2", precision=precision, return_info=True, **SETTINGS)
    assert found.maps.dtype == found.left_out["confidences"].dtype == torch.float32
    assert (found.left_out["confidences"] - exact.left_out["confidences"]).abs().max() < 0.03
    assert torch.corrcoef(torch.stack([found.maps.flatten(), exact.maps.flatten()]))[0, 1] > 0.99


# -- bad input


@pytest.mark.parametrize(
    ("given_settings", "match"),
    [
        ({"patches": 0}, r"patches: 0 given"),
        ({"patches": -2}, r"patches: -2 given"),
        ({"patches": 2.0}, r"patches: 2\.0 given"),
        ({"patches": True}, r"patches: True given"),
        ({"patches": 27}, r"patches: 27 given, at most 26 along each axis is valid for images of 20 x 26"),
        ({"patches": 10**9}, r"patches: 1000000000 given, at most 26 "),
        ({"crop": 0}, r"crop: 0 given"),
        ({"crop": (5, 0)}, r"crop: \(5, 0\) given"),
        ({"crop": 12.5}, r"crop: 12\.5 given"),
        ({"crop": (1, 2, 3)}, r"crop: \(1, 2, 3\) given"),
        ({"crop": 21}, r"crop: 21 x 21 pixels given.*20 x 26"),
        ({"crop": (20, 27)}, r"crop: 20 x 27 pixels given.*20 x 26"),
        ({"scale": 0}, r"scale: 0 given"),
        ({"scale": -1.5}, r"scale: -1\.5 given"),
        ({"scale": float("nan")}, r"scale: nan given"),
        ({"scale": float("inf")}, r"scale: inf given"),
        ({"scale": "2"}, r"scale: '2' given"),
        (
            {"scale": 1e4, "crop": 10},
            r"scale: 10000 given, at most 819\.2 is valid for crops of 10 x 10, so",
        ),
        ({"scale": 819.3, "crop": (5, 20)}, r"scale: 819\.3 given, at most 819\.2 is valid for crops of 5 x 20"),
        ({"scale": 1e308}, r"scale: 1e\+308 given, at most .*a smaller scale or crop"),
        ({"scale": 10**400}, r"scale: 10*0 given, a positive number"),
        ({"batch_size": 0}, r"batch_size: 0 given"),
        ({"batch_size": 1.5}, r"batch_size: 1\.5 given"),
        ({"method": "ucag"}, r"method: 'ucag' given.*'grad_cam'"),
        ({"method": []}, r"method: \[\] given"),
        ({"method": "score_cam", "score": "loud"}, r"score: 'loud' given"),
        ({"size": "large"}, r"size: 'large' given"),
        ({"targets": 9}, r"targets: class 9 given"),
        ({"layer": "layer9"}, r"layer.*layer9"),
        ({"method": "image_times_gradient", "layer": "layer1"}, r"layer: image_times_gradient explains the images"),
    ],
    ids=lambda value: "-".join(f"{k}_{v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_input(given_settings: dict[str, Any], match: str, model: nn.Module, images: Tensor) -> None:
    before = snapshot(model)
    with pytest.raises(ValueError, match=match):
        fastcam.ucag(model, images, **given_settings)
    assert_unchanged(model, before)


def test_options_of_no_use(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"score: no option of grad_cam"):
        fastcam.ucag(model, images, score="logit")
    with pytest.raises(TypeError, match="images"):
        fastcam.ucag(model, images.long())


def test_images_that_are_not_finite(model: nn.Module) -> None:
    x = some_images(2, 3, 20, 26)
    x[1, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"images: NaN.*1"):
        fastcam.ucag(model, x, 1, **SETTINGS)


def test_images_beyond_the_range_of_the_first_rule(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images: values from .* outside the pixel_range -1 to 1"):
        fastcam.ucag(model, images, 1, method="lrp", pixel_range=(-1, 1), batch_size=4, **SETTINGS)
    # Of the images, not of the patches: enlarging bicubically goes a little beyond their own extremes.
    extremes = (float(images.min()), float(images.max()))
    assert fastcam.ucag(model, images, 1, method="lrp", pixel_range=extremes, **SETTINGS).shape == (2, 20, 26)


@pytest.mark.parametrize("targets", [[1, 4], [[0, 1], [4, 2]]], ids=["one", "several"])
def test_what_the_method_left_out_of_each_patch(targets: Any, model: nn.Module, images: Tensor) -> None:
    methods, options = ["lrp", "score_cam"], {"rule": "epsilon", "normalize": False, "return_info": True}
    found = fastcam.ucag(model, images, targets, method=methods, batch_size=5, **options, **SETTINGS)
    lost, patches = found["lrp"].left_out["lost_relevance"], SETTINGS["patches"] ** 2
    assert found["lrp"].left_out["confidences"].shape[-1] == patches
    assert found["score_cam"].left_out["skipped_channels"].shape == (2, patches)
    # The second image's last patch, by itself.
    tops, lefts = (torch.linspace(0, side - crop, 3).round().long() for side, crop in ((20, 12), (26, 11)))
    patch = fastcam.ops.unfold_patches(images[1:], tops[-1:], lefts[-1:], [12, 11], [18, 16], "bicubic")
    alone = fastcam.explain(model, patch, targets[1:], method="lrp", **options)
    assert list(lost) == list(alone.left_out["lost_relevance"])
    assert any(bool((amount.abs() > 1e-6).any()) for amount in lost.values())
    for place, amount in alone.left_out["lost_relevance"].items():
        assert lost[place].shape == (*found["lrp"].targets.shape, patches)
        torch.testing.assert_close(lost[place][1, ..., -1], amount[0], rtol=1e-9, atol=1e-12)


def test_nothing_is_left_out_of_maps_alone(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    case = Case.__init__

    def spy(*args: Any, report: bool = False, **kwargs: Any) -> None:
        asked.append(report)
        case(*args, report=report, **kwargs)

    monkeypatch.setattr(Case, "__init__", spy)
    fastcam.ucag(model, images, 1, method="lrp", pixel_range=(-9, 9), **SETTINGS)
    assert asked
    assert not any(asked)


def test_a_model_that_takes_one_size_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, 3)).eval()
    x = torch.randn(2, 3, 20, 20)
    with pytest.raises(ValueError, match=r"scale: 2\.6 given.*29 x 29 pixels.*crop \* scale"):
        fastcam.ucag(net, x, 0)
    assert fastcam.ucag(net, x, 0, crop=10, scale=2).shape == (2, 20, 20)
