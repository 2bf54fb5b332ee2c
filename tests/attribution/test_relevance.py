"""The relevance family: each method in numbers on two channels and two positions, and what they all promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.network.network import Network
from fastcam.propagation import propagate as engine
from fastcam.propagation.agf import score
from tests.zoo import ZOO

# What takes images to the input or to any layer, and what reads or starts at a feature map.
AT_INPUT: dict[str, Callable[..., Any]] = {
    "lrp": fastcam.lrp,
    "clrp": fastcam.clrp,
    "sglrp": fastcam.sglrp,
    "rap": fastcam.rap,
    "agf": fastcam.agf,
}
METHODS = {**AT_INPUT, "excitation_backprop": fastcam.excitation_backprop, "rsp": fastcam.rsp}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
# Of each network's images, drawn from a normal distribution.
RANGE = {name: {"pixel_range": (-5.0, 5.0)} for name in METHODS if name != "excitation_backprop"}


def exhibit(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network and its images."""
    return ZOO[name].shared(dtype), ZOO[name].images(dtype=dtype)


class Numbers(nn.Module):
    """A = relu(x), a = mean_xy A, y = W a: two channels, two classes; and if asked another layer in between."""

    def __init__(self, between: list[list[float]] | None = None, classes: list[list[float]] | None = None) -> None:
        super().__init__()
        identity = [[1.0, 0.0], [0.0, 1.0]]
        self.first = self.convolution(identity)
        self.act = nn.ReLU()
        self.between = nn.Identity() if between is None else nn.Sequential(self.convolution(between), nn.ReLU())
        self.classifier = nn.Linear(2 if between is None else len(between), 2, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor(classes or [[2.0, -1.0], [1.0, 2.0]]))
        self.double().eval()

    @staticmethod
    def convolution(weight: list[list[float]]) -> nn.Conv2d:
        layer = nn.Conv2d(len(weight[0]), len(weight), 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight)[:, :, None, None])
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.between(self.act(self.first(x))).mean((2, 3)))


def double(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# A_1 = (3, 1), A_2 = (1, 0): a = (2, 0.5), y = (3.5, 3). Of the channels' relevance, position 0 gets 3/4 and 1.
IMAGE = double([[[[3.0, 1.0]], [[1.0, 0.0]]]])
OWN_0, OWN_1 = (0.75, 0.25), (5 / 6, 1 / 6)  # of class 0: channel 1 alone; of class 1: channels in 2 : 1
P_0 = 1 / (1 + math.exp(-0.5))
P_1 = 1 - P_0


def numbers(pair: tuple[float, float], factor: float = 1.0) -> list[float]:
    return [factor * pair[0], factor * pair[1]]


def minus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] - b[0], a[1] - b[1]


# d s / d y_t = s (1 - s) (1 - exp(-1/2)): with two classes the distance is sigma.
S = [1 / (1 + math.exp(-y * (1 - math.exp(-0.5)))) for y in (3.5, 3.0)]
SLOPE = [s * (1 - s) * (1 - math.exp(-0.5)) for s in S]

# name: (method, options, layer, the maps of class 0 and of class 1). With pixels from 0 on, z^B is z+ here.
EXAMPLES: dict[str, tuple[str, dict[str, Any], Any, list[list[float]]]] = {
    "lrp": ("lrp", {}, None, [numbers(OWN_0, 3.5), numbers(OWN_1, 3.0)]),
    "lrp_at_a_layer": ("lrp", {}, "act", [numbers(OWN_0, 3.5), numbers(OWN_1, 3.0)]),
    # -z_t to the only other class
    "lrp_clrp_seed": (
        "lrp",
        {"seed": "clrp"},
        None,
        [numbers(minus(OWN_0, OWN_1), 3.5), numbers(minus(OWN_1, OWN_0), 3.0)],
    ),
    # the contributions (4, -0.5) and (2, 1) as they are
    "lrp_epsilon": ("lrp", {"rule": "epsilon", "epsilon": 1e-12}, None, [[3 - 0.5, 1.0], [1.5 + 1.0, 0.5]]),
    # 2 z+ - 1 z-: all of 7 to channel 1, 3.5 from channel 2
    "lrp_alpha_beta": ("lrp", {"rule": "alpha_beta"}, "act", [[7 * 0.75 - 3.5, 7 * 0.25], numbers(OWN_1, 6.0)]),
    "clrp": (
        "clrp",
        {},
        None,
        [[0.0, 0.25 - 1 / 6], [5 / 6 - 0.75, 0.0]],
    ),
    # -W speaks for class 0 by channel 2 alone, and for class 1 not at all
    "clrp_negated": ("clrp", {"contrast": "negated"}, None, [[0.0, 0.25], numbers(OWN_1)]),
    "sglrp": (
        "sglrp",
        {},
        None,
        [numbers(minus(OWN_0, OWN_1), P_0 * P_1), numbers(minus(OWN_1, OWN_0), P_0 * P_1)],
    ),
    "excitation_backprop": ("excitation_backprop", {}, "act", [numbers(OWN_0, P_0), numbers(OWN_1, P_1)]),
    "excitation_backprop_contrastive": (
        "excitation_backprop",
        {"contrastive": True},
        None,
        [numbers((-0.25, 0.25), P_0), numbers(OWN_1, P_1)],
    ),
    # |4| : |-0.5|, and |2| : |1|
    "rap": ("rap", {}, None, [[3.5 * (8 / 9 * 0.75 + 1 / 9), 3.5 * 8 / 9 * 0.25], numbers(OWN_1, 3.0)]),
    # A_k W_tk / 2 by its maximum: ((3, 1), (-0.5, 0)) / 3 and ((3, 1), (2, 0)) / 3
    "rsp": ("rsp", {}, "act", [[2.5 / 3, 1 / 3], [5 / 3, 1 / 3]]),
    "agf": ("agf", {}, None, [numbers((2.5, 1.0), SLOPE[0]), numbers((2.5, 0.5), SLOPE[1])]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_in_numbers(name: str) -> None:
    method, options, layer, expected = EXAMPLES[name]
    if method != "excitation_backprop" and options.get("rule") not in ("epsilon", "alpha_beta"):
        options = {**options, "pixel_range": (0.0, 4.0)}
    found = METHODS[method](Numbers(), IMAGE, [[0, 1]], layer, normalize=False, **options)
    torch.testing.assert_close(found, double(expected)[None, :, None], rtol=1e-9, atol=1e-12)


def test_rap_turns_weak_units_negative() -> None:
    # Between: 2 x_1 - x_2. It is 2 * 3 - 1 = 5 and 2 * 0.1 = 0.2, the logit 2.6, shared as 2.5 and 0.1 (its mean).
    model = Numbers([[2.0, -1.0]], [[1.0], [-1.0]])
    image = double([[[[3.0, 0.1]], [[1.0, 0.0]]]])
    # Position 0 sends 2.5 to x_1 and 2.5 / (6 + 1) to x_2 besides; of this each of three units gives a third.
    third = 2.5 / 7 / 3
    expected = double([[[2.5 + 2.5 / 7 - 2 * third, 0.1 - third]]])
    assert expected.min() < 0
    found = fastcam.rap(model, image, 0, normalize=False, pixel_range=(0, 4))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.sum(), double(2.6))
    # Class 1: all is negative, and goes to the inhibitor alone: whole and by its share, less the shift.
    against = fastcam.rap(model, image, 1, "act", normalize=False)
    sent = -2.5 * (1 + 1 / 7)
    torch.testing.assert_close(against, double([[[sent - (sent + 2.6), 0.0]]]))


def test_agf_through_a_convolution_that_it_factorises() -> None:
    # x_1 = (2, 1), x_2 = (1, 2). Between: x_1 - x_2 and x_1 + 2 x_2, (1, 0) and (4, 5) behind the ReLU: a = (0.5, 4.5).
    # y_0 = 9 * 0.5 - 4.5 = 0 and y_1 = 0.5 + 2.25 = 2.75.
    model = Numbers([[1.0, -1.0], [1.0, 2.0]], [[9.0, -1.0], [1.0, 0.5]])
    image = double([[[[2.0, 1.0]], [[1.0, 2.0]]]])
    found = fastcam.agf(model, image, [[0, 1]], "act", normalize=False)

    def sigmoid(u: float) -> float:
        return 1 / (1 + math.exp(-u))

    Row = list[float]

    def expected(y: float, c: Row, a: Row, m: Row, f_x: Row, f_g: Row) -> Tensor:
        """c and a, of channel 1 and then of 2 at both positions, in units of the score's slope."""
        s, share = sigmoid(y * (1 - math.exp(-0.5))), 1 - math.exp(-0.5)
        slope = s * (1 - s) * share
        residual = [(f_x[i % 2] + m[i % 2]) * sigmoid(slope * c[i]) + f_g[i % 2] + slope * a[i] for i in range(4)]
        own = [slope * c[i] + residual[i] - sum(residual) / 4 for i in range(4)]
        return double([[own[0] + own[2], own[1] + own[3]]])

    # x / max x = (1, 1/2), (1/2, 1)
    (h_1, h_2) = (sigmoid(10), sigmoid(5)), (sigmoid(5), sigmoid(10))

    # Class 0. R = (9, -4) / 2 at position 0, (0, -5) / 2 at position 1.
    # |W| |x|: (3, 4) and (3, 5); R by it: (3/2, -1/2) and (0, -1/2).
    # C_1 = 2 (3/2 - 1/2), 1 (-1/2); C_2 = 1 (3/2 - 2 / 2), 2 (-2 / 2).
    c = [2.0, -0.5, 0.5, -2.0]
    # |W| 1: (2, 3); R by it: (9/4, -2/3) and (0, -5/6). A_1 = 9/4 - 2/3, -5/6; A_2 = 9/4 - 4/3, -5/3.
    a = [19 / 12, -5 / 6, 11 / 12, -5 / 3]
    # g: (9 - 1, -1), (-9 - 2, -2) in the same units. Mean x g: (16 - 11, -1 - 4) / 2; M = (1, 0).
    (g_1, g_2) = (sigmoid(10), sigmoid(-10 / 8)), (sigmoid(-110 / 8), sigmoid(-20 / 8))

    def factors(h: tuple[float, float], k: tuple[float, float]) -> list[float]:
        """Position 0 is the positive cluster, 1 the negative: P = H, so that V = 1 - (H^T H + 1)^-1."""
        first, second, both = 1 + h[0] ** 2 + k[0] ** 2, 1 + h[1] ** 2 + k[1] ** 2, h[0] * h[1] + k[0] * k[1]
        det = first * second - both**2
        # (1 - second / det) - both / det, and both / det - (1 - first / det)
        return [max(0.0, 1 - (second + both) / det), max(0.0, (both + first) / det - 1)]

    mixed = expected(0.0, c, a, [1.0, 0.0], factors(h_1, h_2), factors(g_1, g_2))

    # Class 1. R = (1, 2) / 2 and (0, 2.5) / 2. By |W| |x|: (1/6, 1/4) and (0, 1/4).
    # C_1 = 2 (1/6 + 1/4), 1/4; C_2 = 1/6 + 1/2, 2 (1/2).
    c = [5 / 6, 1 / 4, 2 / 3, 1.0]
    # By |W| 1: (1/4, 1/3) and (0, 5/12). A_1 = 1/4 + 1/3, 5/12; A_2 = 1/4 + 2/3, 5/6.
    a = [7 / 12, 5 / 12, 11 / 12, 5 / 6]
    # g: (1 + 0.5, 0.5), (-1 + 1, 1). Mean x g: (3 + 0, 0.5 + 2) / 2; M = (1, 2.5 / 3).
    (g_1, g_2) = (sigmoid(10), sigmoid(10 / 3)), (sigmoid(0), sigmoid(20 / 3))

    def alone(h: tuple[float, float], k: tuple[float, float]) -> list[float]:
        """All is positive: V = p H / (p p + 1), p the mean of both positions; nothing for the empty cluster."""
        p, q = (h[0] + h[1]) / 2, (k[0] + k[1]) / 2
        return [(p * h[i] + q * k[i]) / (p * p + q * q + 1) for i in range(2)]

    positive = expected(2.75, c, a, [1.0, 2.5 / 3], alone(h_1, h_2), alone(g_1, g_2))
    torch.testing.assert_close(found, torch.stack([mixed, positive])[None], rtol=1e-9, atol=1e-12)


def test_rsp_through_a_convolution_of_one_position() -> None:
    # R = ((3, 1), (-0.5, 0)) / 3. To unit 1 by V = (3 * 3 + 1 * 1, 1 * 3) / 3, to unit 2 by V = (3, 1) * 0.5 / 3.
    model = Numbers([[1.0, 0.0], [0.0, 1.0]])
    # Each position keeps its own: 1 - 1/6, and 1/3.
    expected = double([[[5 / 6, 1 / 3]]])
    maps = fastcam.rsp(model, IMAGE, 0, "between", normalize=False, pixel_range=(0, 4))
    torch.testing.assert_close(maps, expected)


def test_clrp_is_made_of_the_relevance_of_every_class() -> None:
    # The z+ rule is linear in the seed: |z_n| at the others is the sum of their relevance from z_n, with its sign.
    model, images = exhibit("residual_downsample")
    classes = torch.arange(5).repeat(2, 1)
    info = fastcam.relevance(model, images, classes, "input", pixel_range=(-5, 5), return_info=True)
    upright = info.relevance.sum(2) * info.logits.sign()[:, :, None, None]
    found = fastcam.clrp(model, images, classes, normalize=False, pixel_range=(-5, 5))
    assert bool((info.logits < 0).any())
    for t in range(5):
        own, others = upright[:, t], upright.sum(1) - upright[:, t]
        own, others = (r / r.sum((1, 2), keepdim=True) for r in (own, others))
        assert (own - others).min() < 0
        torch.testing.assert_close(found[:, t], (own - others).clamp(min=0), rtol=1e-9, atol=1e-12)


def test_clrp_through_the_negated_classifier() -> None:
    model, images = exhibit("vgg_biases")
    negated = ZOO["vgg_biases"].model()
    with torch.no_grad():
        negated.classifier[-1].weight.neg_()
    targets = [[0, 1, 2]] * 2
    shares = []
    for net in (model, negated):
        r = fastcam.lrp(net, images, targets, normalize=False, pixel_range=(-5, 5))
        shares.append(r / r.sum((2, 3), keepdim=True))
    found = fastcam.clrp(model, images, targets, contrast="negated", normalize=False, pixel_range=(-5, 5))
    torch.testing.assert_close(found, (shares[0] - shares[1]).clamp(min=0), rtol=1e-9, atol=1e-12)


def test_sglrp_sums_to_zero_and_is_lrp_where_nothing_is_lost() -> None:
    model, images = exhibit("residual_downsample")
    found = fastcam.sglrp(model, images, [[0, 1, 2]] * 2, normalize=False, **RANGE["sglrp"])
    assert (found.sum((2, 3)).abs() <= 1e-9 * found.abs().sum((2, 3))).all()
    numbers = Numbers()
    once = fastcam.lrp(numbers, IMAGE, [[0, 1]], seed="sglrp", normalize=False, pixel_range=(0, 4))
    twice = fastcam.sglrp(numbers, IMAGE, [[0, 1]], normalize=False, pixel_range=(0, 4))
    torch.testing.assert_close(twice, once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", ["one_hot", "clrp", "sglrp", "probability"])
@pytest.mark.parametrize("rule", ["z+", "epsilon", "gamma", "alpha_beta", "epsilon_plus_flat", "epsilon_gamma_box"])
def test_lrp_is_relevance_summed_over_the_channels(rule: str, seed: str) -> None:
    model, images = exhibit("vgg_biases")
    options: dict[str, Any] = {"rule": rule, "seed": seed}
    if rule in ("z+", "epsilon_gamma_box"):
        options["pixel_range"] = (-5, 5)
    layers = ["input", "features.4"]
    found = fastcam.lrp(model, images, [[0, 3]] * 2, layers, size="layer", normalize=False, **options)
    expected = fastcam.relevance(model, images, [[0, 3]] * 2, layers, **options)
    for maps, r in zip(found, expected, strict=True):
        torch.testing.assert_close(maps, r.sum(2), rtol=1e-12, atol=1e-15)


# -- what all of them promise


FAMILIES = ["vgg_biases", "residual_downsample", "dense_blocks", "linear_bottleneck", "squeeze_excitation"]


# With one class there are no others for its probability to be taken from; and the convolutional head's class speaks
# by units that biases alone have raised: the z+ rule gives those nothing to send.
EMPTY = {("one_class", "sglrp"), *(("convolutional_head", method) for method in ("lrp", "clrp", "sglrp"))}


@pytest.mark.parametrize("name", [*FAMILIES, "convolutional_head", "one_class", "signed_inputs"])
def test_every_network_gives_finite_maps(name: str) -> None:
    model, images = exhibit(name)
    found = fastcam.explain(model, images, method=list(METHODS), **RANGE["lrp"])
    for method, maps in found.items():
        assert maps.shape == (2, *images.shape[2:]), method
        assert maps.isfinite().all(), method
        empty = (name, method) in EMPTY
        assert ((maps.flatten(1).abs().amax(1) - int(not empty)).abs() < 1e-12).all(), method


@EVERY_METHOD
def test_several_targets_are_those_one_by_one(method: str) -> None:
    model, images = exhibit("residual_downsample")
    options = {"normalize": False, **RANGE.get(method, {})}
    together = METHODS[method](model, images, [[0, 4], [2, 3]], **options)
    assert together.shape == (2, 2, 12, 12)
    for t, targets in enumerate(([0, 2], [4, 3])):
        alone = METHODS[method](model, images, targets, **options)
        torch.testing.assert_close(together[:, t], alone, rtol=1e-9, atol=1e-12)
    one = METHODS[method](model, images[:1], 4, **options)
    torch.testing.assert_close(together[:1, 1], one, rtol=1e-9, atol=1e-12)


@EVERY_METHOD
def test_several_layers_come_in_order(method: str) -> None:
    model, images = exhibit("residual_downsample")
    options = {"normalize": False, "size": "layer", **RANGE.get(method, {})}
    layers = ["block2", "stem", model.block1]
    found = METHODS[method](model, images, [[0, 1]] * 2, layers, return_info=True, **options)
    assert found.layer == ["block2", "stem", "block1"]
    assert found.weights == [None] * 3
    side = {"block2": 3, "stem": 12, "block1": 6}
    for maps, layer in zip(found.maps, found.layer, strict=True):
        assert maps.shape == (2, 2, *[12 if method == "rsp" else side[layer]] * 2)
        alone = METHODS[method](model, images, [[0, 1]] * 2, layer, **options)
        torch.testing.assert_close(maps, alone, rtol=1e-9, atol=1e-12)


def test_no_layer_is_the_images_or_the_last_feature_map() -> None:
    model, images = exhibit("residual_downsample")
    for method, function in METHODS.items():
        info = function(model, images, 0, return_info=True, **RANGE.get(method, {}))
        assert info.layer == ("input" if method in AT_INPUT else "block2")
    named = fastcam.lrp(model, images, 0, "input", **RANGE["lrp"])
    assert torch.equal(named, fastcam.lrp(model, images, 0, **RANGE["lrp"]))


@EVERY_METHOD
@pytest.mark.parametrize("precision", [None, "float32", "tf32", "bfloat16", "float16"], ids=str)
def test_every_precision(method: str, precision: str | None) -> None:
    model, images = exhibit("residual_downsample", torch.float32)
    found = METHODS[method](model, images, [[0, 1]] * 2, precision=precision, **RANGE.get(method, {}))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    exact = METHODS[method](*exhibit("residual_downsample"), [[0, 1]] * 2, **RANGE.get(method, {}))
    assert exact.dtype == torch.float64
    # Small random networks amplify the rounding of 16 bits; the sign of most of the evidence stays.
    agreement = (found * exact).sum((2, 3)) / (found.double().norm(dim=(2, 3)) * exact.norm(dim=(2, 3)))
    assert agreement.min() >= (0.9999 if precision in (None, "float32", "tf32") else 0.5)


@EVERY_METHOD
def test_signed_maps_are_divided_by_their_largest_magnitude(method: str) -> None:
    model, images = exhibit("residual_downsample")
    raw = METHODS[method](model, images, [[0, 1]] * 2, normalize=False, **RANGE.get(method, {}))
    scaled = METHODS[method](model, images, [[0, 1]] * 2, **RANGE.get(method, {}))
    torch.testing.assert_close(scaled, raw / raw.abs().amax((2, 3), keepdim=True))
    if method in ("sglrp", "rap", "rsp", "agf"):
        assert scaled.min() < -0.01
    if method == "clrp":
        assert scaled.min() == 0


# -- the seeds against other classes, put together from one class at a time


def one_class_each(name: str, layer: str | None) -> tuple[Tensor, Tensor]:
    """The logits, and the map of relevance 1 at each class by itself, (N, classes, H, W)."""
    model, images = exhibit(name)
    every = [list(range(5))] * len(images)
    found = fastcam.lrp(model, images, every, layer, normalize=False, size="layer", return_info=True, **RANGE["lrp"])
    return found.logits, found.maps / found.logits[:, :, None, None]


def mixed(weights: Tensor, maps: Tensor) -> Tensor:
    """Maps (N, T, H, W) of seeds (N, T, classes)."""
    return torch.einsum("ntc,nchw->nthw", weights, maps)


SEVERAL_CLASSES = pytest.mark.parametrize(
    ("name", "layer"), [("dense_blocks", None), ("vgg_biases", "features.4")], ids=["images", "layer"]
)


@SEVERAL_CLASSES
def test_sglrp_is_made_of_one_class_at_a_time(name: str, layer: str | None) -> None:
    # On the way to the images of dense_blocks some is lost, of each class another part.
    (logits, each), targets = one_class_each(name, layer), torch.tensor([[0, 3], [4, 1]])
    p = logits.softmax(1)
    one_hot = nn.functional.one_hot(targets, 5).double()
    p_t = p.gather(1, targets)[:, :, None]
    own, others = mixed(one_hot * p_t * (1 - p_t), each), mixed((1 - one_hot) * p_t * p[:, None], each)
    expected = own - others * (own.sum((2, 3)) / others.sum((2, 3)))[:, :, None, None]
    at = {"layer": layer, "size": "layer", "normalize": False}
    found = fastcam.sglrp(*exhibit(name), targets, **at, **RANGE["sglrp"])
    assert_as_near_as(found, expected, 1e-9)
    # Equal sums taken from each other: what is for a class balances what is for the others.
    assert (found.sum((2, 3)).abs() <= 1e-9 * found.abs().sum((2, 3))).all()
    # As a seed of lrp, p_t's gradient by the logits: the same without making the sums equal.
    plain = fastcam.lrp(*exhibit(name), targets, seed="sglrp", **at, **RANGE["lrp"])
    assert_as_near_as(plain, own - others, 1e-9)


@SEVERAL_CLASSES
def test_clrp_is_made_of_one_class_at_a_time(name: str, layer: str | None) -> None:
    (logits, each), targets = one_class_each(name, layer), torch.tensor([[0, 3], [4, 1]])
    one_hot = nn.functional.one_hot(targets, 5).double()
    own, others = (mixed(seed * logits.abs()[:, None], each) for seed in (one_hot, 1 - one_hot))
    shares = [half / half.sum((2, 3), keepdim=True) for half in (own, others)]
    at = {"layer": layer, "size": "layer"}
    found = fastcam.clrp(*exhibit(name), targets, **at, normalize=False, **RANGE["clrp"])
    assert_as_near_as(found, (shares[0] - shares[1]).clamp(min=0), 1e-9)
    # As a seed of lrp: |z_t| shared by the other classes.
    z = logits.gather(1, targets).abs()[:, :, None]
    plain = fastcam.lrp(*exhibit(name), targets, seed="clrp", **at, normalize=False, **RANGE["lrp"])
    assert_as_near_as(plain, mixed(z * (one_hot - (1 - one_hot) / 4), each), 1e-9)


def assert_as_near_as(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Of each map's largest magnitude."""
    largest = expected.abs().amax((2, 3))
    assert found.shape == expected.shape
    assert (largest > 0).all()
    assert ((found - expected).abs().amax((2, 3)) <= tolerance * largest).all()


# -- the report of what was lost


@EVERY_METHOD
def test_what_is_lost_is_told_where(method: str) -> None:
    model, images = exhibit("dense_blocks")
    options = {"normalize": False, **RANGE.get(method, {})}
    found = METHODS[method](model, images, [[0, 1], [2, 3]], return_info=True, **options)
    torch.testing.assert_close(found.maps, METHODS[method](model, images, [[0, 1], [2, 3]], **options))
    names = ["lost_relevance", "lost_relevance_of_contrast"] if method in ("clrp", "sglrp") else ["lost_relevance"]
    assert list(found.left_out) == names
    for lost in found.left_out.values():
        assert all(amount.shape == (2, 2) for amount in lost.values())
    one = METHODS[method](model, images, [0, 2], return_info=True, **options)
    for place, amount in one.left_out["lost_relevance"].items():
        torch.testing.assert_close(amount, found.left_out["lost_relevance"][place][:, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["lrp", "rap"])
def test_seed_total_and_loss_add_up(method: str) -> None:
    model, images = exhibit("dense_blocks")
    found = METHODS[method](model, images, [[0, 1]] * 2, normalize=False, return_info=True, **RANGE[method])
    lost = sum(found.left_out["lost_relevance"].values())
    assert bool((lost.abs() > 1e-3).any())
    torch.testing.assert_close(found.maps.sum((2, 3)) + lost, found.logits[:, :2], rtol=1e-9, atol=1e-12)


def test_relevance_cam_tells_what_is_lost_too() -> None:
    model, images = exhibit("dense_blocks")
    targets = [[0, 1], [2, 3]]
    maps = fastcam.relevance_cam(model, images, targets, "stem", normalize=False)
    found = fastcam.relevance_cam(model, images, targets, "stem", normalize=False, return_info=True)
    torch.testing.assert_close(found.maps, maps)
    lost = sum(found.left_out["lost_relevance"].values())
    assert bool((lost.abs() > 1e-3).any())
    # Its seed sums to 0, and its weights are the sums of what reached the channels.
    torch.testing.assert_close(found.weights.sum(2), -lost, rtol=1e-9, atol=1e-12)


def test_the_report_of_several_layers_is_a_list() -> None:
    model, images = exhibit("residual_downsample")
    for method in ("lrp", "rsp"):
        layers = ["block2", "block1"]
        found = METHODS[method](model, images, 0, layers, return_info=True, **RANGE[method])
        assert [type(lost) for lost in found.left_out["lost_relevance"]] == [dict, dict]


def test_nothing_is_reported_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        asked.append(args[7] is not None)
        return engine.propagate(*args, **kwargs)

    monkeypatch.setattr("fastcam.attribution.propagated.propagate", spy)
    model, images = exhibit("residual_downsample")
    for method, function in METHODS.items():
        function(model, images, 0, **RANGE.get(method, {}))
    assert asked
    assert not any(asked)


def lost_of(found: Any, half: str = "lost_relevance") -> Tensor:
    """What all operations on the way lost together, (N, T). Some of it, or the statements would hold without."""
    lost = torch.stack(list(found.left_out[half].values())).sum(0)
    assert bool((lost.abs() > 1e-6).any())
    return lost


def probabilities_of_pairs(found: Any) -> Tensor:
    """p_t p_n, (N, T, classes), for all classes as targets."""
    p = found.probabilities
    return p[:, :, None] * p[:, None]


# What each class's unit is seeded with for each target, (N, T, classes), with all classes as targets.
SEEDED: dict[str, Callable[[Any], Tensor]] = {
    "clrp": lambda found: found.logits.abs()[:, None].expand(-1, found.logits.shape[1], -1),
    "sglrp": probabilities_of_pairs,
}


@pytest.mark.parametrize("method", SEEDED)
def test_each_seed_of_a_contrast_adds_up(method: str) -> None:
    # Their maps are differences of both halves. The z+ rule is linear in the seed, so that each half's total is that
    # of LRP from each class's own unit, scaled to what the half seeds the unit with.
    model, images = exhibit("dense_blocks")
    classes = [[*range(5)]] * 2
    found = METHODS[method](model, images, classes, normalize=False, return_info=True, **RANGE[method])
    lrp = fastcam.lrp(model, images, classes, normalize=False, **RANGE["lrp"])
    shares = lrp.sum((2, 3)) / found.logits
    seeded, others = SEEDED[method](found), ~torch.eye(5, dtype=torch.bool)
    contrast = (seeded * others).sum(2)
    of_target = seeded.diagonal(dim1=1, dim2=2) if method == "clrp" else contrast  # p_t (1 - p_t)
    exact = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(of_target * shares + lost_of(found), of_target, **exact)
    reached = (seeded * others * shares[:, None]).sum(2)
    torch.testing.assert_close(reached + lost_of(found, "lost_relevance_of_contrast"), contrast, **exact)


def test_the_negated_contrast_adds_up() -> None:
    model, images, negated = *exhibit("dense_blocks"), ZOO["dense_blocks"].model()
    with torch.no_grad():
        negated.classifier.weight.neg_()
    classes, options = [[*range(5)]] * 2, {"normalize": False, "return_info": True, **RANGE["clrp"]}
    found = fastcam.clrp(model, images, classes, contrast="negated", **options)
    for net, half in ((model, "lost_relevance"), (negated, "lost_relevance_of_contrast")):
        lrp = fastcam.lrp(net, images, classes, **options)
        reached = found.logits.abs() * lrp.maps.sum((2, 3)) / lrp.logits
        torch.testing.assert_close(reached + lost_of(found, half), found.logits.abs(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("contrastive", [False, True])
def test_excitation_starts_with_the_probability(contrastive: bool) -> None:
    model, images = exhibit("dense_blocks")
    options = {"contrastive": contrastive, "size": "layer", "normalize": False, "return_info": True}
    found = fastcam.excitation_backprop(model, images, [[0, 1]] * 2, "stem", **options)
    reached = found.maps.sum((2, 3))
    torch.testing.assert_close(reached + lost_of(found), found.probabilities[:, :2], rtol=1e-9, atol=1e-12)


def test_rsp_starts_with_shares_of_the_largest_contribution() -> None:
    model, images = exhibit("dense_blocks")
    # In memory of their own: what follows may overwrite the activations.
    kept: list[Tensor] = []
    hook = model.transition.register_forward_hook(lambda _, __, y: kept.append(y.clone()))
    model(images)
    hook.remove()
    at = {"layer": "transition", "normalize": False, "return_info": True}
    weights = fastcam.grad_cam(model, images, [[0, 1]] * 2, **at).weights
    contributions = kept[0][:, None] * weights[..., None, None]
    largest = contributions.amax((2, 3, 4))
    assert bool((largest > 0).all())
    found = fastcam.rsp(model, images, [[0, 1]] * 2, **at, **RANGE["rsp"])
    start = contributions.sum((2, 3, 4)) / largest
    torch.testing.assert_close(found.maps.sum((2, 3)) + lost_of(found), start, rtol=1e-9, atol=1e-12)


def test_agf_starts_with_the_slope_of_its_score() -> None:
    model, images = exhibit("dense_blocks")
    found = fastcam.agf(model, images, [[0, 1]] * 2, normalize=False, return_info=True, **RANGE["agf"])
    logits = found.logits.requires_grad_()
    scores = score(logits, found.targets)
    slopes = torch.stack([torch.autograd.grad(s, logits, retain_graph=True)[0] for s in scores.sum(0)], 1)
    # x ds/dx sums to ds/dy (y - b) behind one linear layer y = W x + b.
    start = (slopes * (logits - model.classifier.bias)[:, None]).sum(2).detach()
    torch.testing.assert_close(found.maps.sum((2, 3)) + lost_of(found), start, rtol=1e-9, atol=1e-12)


# -- passes


@pytest.mark.parametrize(
    ("methods", "propagations", "forwards"),
    [
        (["clrp"], 1, 0),
        (["sglrp"], 1, 0),
        (["rsp", "grad_cam"], 1, 1),
        (["agf"], 1, 1),
    ],
    ids=["clrp", "sglrp", "rsp", "agf"],
)
def test_passes(methods: list[str], propagations: int, forwards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"propagations": 0, "forwards": 0}

    def propagate(*args: Any, **kwargs: Any) -> Any:
        counted["propagations"] += 1
        return engine.propagate(*args, **kwargs)

    forward = Network.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        counted["forwards"] += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr("fastcam.attribution.propagated.propagate", propagate)
    monkeypatch.setattr(Network, "forward", counting)
    model, images = exhibit("residual_downsample")
    fastcam.explain(model, images, [[0, 1]] * 2, method=methods, **RANGE["lrp"])
    assert counted == {"propagations": propagations, "forwards": forwards}


# -- bad options


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("lrp", {"rule": "zeta"}, r"rule: 'zeta' given.*'z\+'"),
        ("lrp", {"seed": "all"}, r"seed: 'all' given.*'one_hot'"),
        ("lrp", {"epsilon": 0.1}, r"epsilon: 0\.1 given, but rule 'z\+' has no epsilon"),
        ("lrp", {"rule": "gamma", "gamma": -1.0}, r"gamma: -1\.0 given.*at least 0"),
        ("lrp", {"rule": "alpha_beta", "alpha": 2.0, "beta": 0.5}, r"alpha - beta must be 1"),
        ("lrp", {"first": "z-"}, r"first: 'z-' given.*'zB'"),
        ("clrp", {"contrast": "all"}, r"contrast: 'all' given.*'others'.*'negated'"),
        ("clrp", {"first": "none"}, r"first: 'none' given"),
        ("sglrp", {"pixel_range": (1, 0)}, r"pixel_range: low 1\.0 and high 0\.0 given"),
        ("rap", {"pixel_range": 3}, r"pixel_range: 3 given"),
        ("rsp", {"first": "none"}, r"first: 'none' given"),
        ("agf", {"first": "flat", "pixel_range": (0, 1)}, r"pixel_range: \(0, 1\) given, but only first='zB'"),
        ("excitation_backprop", {"contrastive": "yes"}, r"contrastive: 'yes' given.*False.*True"),
    ],
    ids=lambda value: value if isinstance(value, str) and value in METHODS else "",
)
def test_bad_options(method: str, options: dict[str, Any], match: str) -> None:
    model, images = exhibit("residual_downsample")
    with pytest.raises(ValueError, match=match):
        METHODS[method](model, images, 0, **options)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "excitation_backprop"])
def test_images_outside_the_pixel_range(method: str) -> None:
    model, images = exhibit("residual_downsample")
    with pytest.raises(ValueError, match=r"images: values from .* outside the pixel_range -0\.1 to 0\.1"):
        METHODS[method](model, images, 0, pixel_range=(-0.1, 0.1))
    maps = METHODS[method](model, images, 0, first="flat")
    assert maps.isfinite().all()


def test_agf_needs_one_last_layer() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 4, 3)
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.features(x).relu().mean((2, 3))
            return self.left(x) + self.right(x)

    with pytest.raises(ValueError, match=r"agf starts at the one layer that makes the logits, but 2 layers do"):
        fastcam.agf(TwoHeads().eval(), torch.zeros(1, 3, 6, 6))
    assert fastcam.rap(TwoHeads().eval(), torch.zeros(1, 3, 6, 6)).isfinite().all()


def test_the_package_of_the_engine_is_the_method_too() -> None:
    model, images = exhibit("residual_downsample")
    called = fastcam.lrp(model, images, 0, **RANGE["lrp"])
    assert torch.equal(called, fastcam.explain(model, images, 0, method="lrp", **RANGE["lrp"]))
