"""Rules among themselves: which is a case of which, what the classifier may take, and what z^B takes for its box."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fastcam
from fastcam.network.cache import network_for
from fastcam.network.precision import Precision
from fastcam.network.units import find_units
from fastcam.network.weights import Weights
from fastcam.propagation.composites import RULES, composite
from fastcam.propagation.pixels import IMAGENET_RANGE
from fastcam.propagation.propagate import find_route, propagate
from tests import shares, textbook
from tests.propagation.exhibits import exhibit, pixel_range
from tests.propagation.test_propagate import captured, near, read
from tests.shares import Rules
from tests.zoo import ZOO, conv, randomise

FEW = ["vgg_biases", "residual_downsample", "linear_bottleneck", "signed_inputs"]


def relevance(name: str, **options: Any) -> Tensor:
    model, images, targets = exhibit(name)
    return fastcam.relevance(model, images, targets, "input", **options)


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    largest = expected.abs().flatten(2).amax(2)
    assert ((found - expected).abs().flatten(2).amax(2) <= tolerance * largest).all()


@pytest.mark.parametrize("name", FEW)
def test_alpha_1_beta_0_is_z_plus(name: str) -> None:
    found = relevance(name, rule="alpha_beta", alpha=1, beta=0)
    assert_same(found, relevance(name, rule="z+", first="z+"), 1e-12)


@pytest.mark.parametrize("name", FEW)
def test_gamma_0_is_epsilon(name: str) -> None:
    assert_same(relevance(name, rule="gamma", gamma=0), relevance(name, rule="epsilon"), 1e-9)


def test_a_large_gamma_is_z_plus_where_nothing_is_signed() -> None:
    # Behind ReLUs, without biases: W + gamma W+ is gamma W+ in the end.
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3, bias=False))
    model, images = model.double(), torch.rand(2, 3, 4, 4).double()
    with torch.no_grad():
        model[-1].weight.abs_()
    z_plus, gamma = (
        fastcam.relevance(model, images, [[0, 1], [2, 0]], "input", **options)
        for options in ({"rule": "z+", "first": "z+"}, {"rule": "gamma", "gamma": 1e7})
    )
    assert_same(gamma, z_plus, 1e-5)


@pytest.mark.parametrize("classifier", ["negated", "contrastive"])
@pytest.mark.parametrize("name", ["vgg_biases", "dense_blocks", "convolutional_head", "signed_inputs"])
def test_the_classifier_of_excitation_backprop(name: str, classifier: str) -> None:
    network, images, targets = captured(name)
    share = {"negated": shares.negated, "contrastive": shares.contrastive}[classifier]
    expected = textbook.propagate(
        ZOO[name].shared(),
        images,
        targets,
        seed=lambda logits, chosen: torch.stack(
            [nn.functional.one_hot(t, logits.shape[1]) * logits.softmax(1) for t in chosen.unbind(1)]
        ),
        rules=Rules(classifier=share),
    )
    nodes = [network.graph.images]
    route = find_route(network, nodes, composite("z+", first="z+", classifier=classifier))
    _, _, (found,) = propagate(network, route, images, nodes, lambda _: targets, "probability", read)
    near(found, expected.input.relevance)
    # Where the classifier is not on the way, so it is at its input: the sums over positions.
    _, _, (sums,) = propagate(network, route, images, nodes, lambda _: targets, "probability")
    near(sums, expected.input.weights)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "alpha_beta"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_relevance_is_conserved_without_biases(rule: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = CONSERVING
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # One live feature that speaks for each class: no denominator of the last layer is dead.
        model[3].weight[0].abs_()
        model[-1].weight[:, 0].abs_()
    images = torch.rand(2, 3, 8, 8, generator=generator).double() + 0.1
    extra: dict[str, Any] = {"pixel_range": (-1, 2)} if rule in ("z+", "epsilon_gamma_box") else {}
    if rule.startswith("epsilon"):
        extra["epsilon"] = 1e-13
    targets = torch.tensor([[0, 1], [4, 2]])
    found = fastcam.relevance(model, images, targets, "input", rule=rule, return_info=True, **extra)
    # Signed contributions may be far larger than their sum.
    scale = found.seed.abs() + found.relevance.abs().sum((2, 3, 4))
    loss = 1e-4 if rule in ("gamma", "epsilon_gamma_box") else 1e-8  # gamma's stabiliser of 1e-6
    assert ((found.total - found.seed).abs() <= loss * scale).all()


CONSERVING = nn.Sequential(
    conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 5, stride=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
    nn.Linear(5, 5, bias=False),
).double()  # fmt: skip


class Normalises(nn.Module):
    """A model that takes pixels in [0, 1] and normalises them itself, one channel upside down."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("scale", torch.tensor([2.0, -3.0, 0.5]).double().view(3, 1, 1))
        self.register_buffer("shift", torch.tensor([-1.0, 1.0, 0.25]).double().view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale + self.shift)


# A pixel and its channel, whose sum with the shift is 0 (torch.rand draws 0.5 once in 2^24 times) or next to 0.
CANCELLING = {"exactly": (0, 0.5), "nearly": (0, 0.5 + 2**-24), "nearly_upside_down": (1, 1 / 3)}


@pytest.mark.parametrize(("channel", "pixel"), CANCELLING.values(), ids=CANCELLING)
def test_the_box_behind_a_normalisation_is_that_of_its_results(channel: int, pixel: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = randomise(nn.Sequential(conv(3, 4, bias=True), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))).double()
        pixels = torch.rand(2, 3, 6, 6).double()
    outer = Normalises(inner).eval()
    pixels[:, channel, 2, 3] = pixel
    scaled = pixels * outer.scale
    normalised = scaled + outer.shift
    assert (normalised[:, channel, 2, 3].abs() < 1e-6).all()
    found = fastcam.relevance(outer, pixels, 0, "mul", pixel_range=(0, 1))
    ends = torch.stack([outer.shift, outer.scale + outer.shift]).flatten(1)
    box = (ends.amin(0).tolist(), ends.amax(0).tolist())
    inside = fastcam.relevance(inner, normalised, 0, "input", pixel_range=box)
    # z^B gives relevance to a value of 0 too,
    assert (inside[:, channel, 2, 3] != 0).all()
    # but of a sum of 0 its operands have no share. Relevance at x * scale: its share of the sum with the shift.
    expected = torch.where(normalised == 0, 0.0, inside * scaled / normalised)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_default_box_is_imagenets() -> None:
    model, images, targets = exhibit("vgg_biases")
    low, high = (torch.tensor(side, dtype=torch.float64).view(3, 1, 1) for side in IMAGENET_RANGE)
    images = low + (high - low) * torch.rand(2, 3, 12, 12).double()
    default = fastcam.relevance(model, images, targets, "input")
    given = fastcam.relevance(model, images, targets, "input", pixel_range=IMAGENET_RANGE)
    assert torch.equal(default, given)
    as_tensors = fastcam.relevance(model, images, targets, "input", pixel_range=(low, high))
    torch.testing.assert_close(as_tensors, given)
    mean = torch.tensor([0.485, 0.456, 0.406]).double().view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).double().view(3, 1, 1)
    torch.testing.assert_close(low, (0 - mean) / deviation)
    torch.testing.assert_close(high, (1 - mean) / deviation)


def test_a_box_of_one_number_is_that_for_every_channel() -> None:
    one = relevance("vgg_biases", pixel_range=(-5, 6))
    assert torch.equal(one, relevance("vgg_biases", pixel_range=([-5, -5, -5], [6.0, 6.0, 6.0])))
    assert torch.equal(one, relevance("vgg_biases", pixel_range=(-5, [6.0, 6.0, 6.0])))
    assert not torch.equal(one, relevance("vgg_biases", pixel_range=(-5, [6.0, 6.0, 7.0])))


def test_layers_past_the_first_ask_for_no_box() -> None:
    model = nn.Sequential(conv(4, 3), nn.ReLU(), conv(3, 3), nn.Flatten(), nn.Linear(48, 2)).eval()
    fastcam.relevance(model, 100 * torch.rand(1, 4, 4, 4), 0, "1")


@pytest.mark.parametrize("name", ["residual_downsample", "preactivation"])
def test_epsilon_takes_a_batch_norm_alone_as_it_takes_it_folded(name: str) -> None:
    # Asking for a convolution's own output keeps its batch norm apart.
    model, images, targets = exhibit(name)
    convs = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    *_, apart = fastcam.relevance(model, images, targets, [*convs, "input"], rule="epsilon", epsilon=1e-12)
    folded = fastcam.relevance(model, images, targets, "input", rule="epsilon", epsilon=1e-12)
    assert_same(apart, folded, 1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["vgg_biases", "residual_downsample"])
def test_in_reduced_precision(name: str, rule: str, precision: str) -> None:
    model, images = ZOO[name].shared(torch.float32), ZOO[name].images(dtype=torch.float32)
    extra: dict[str, Any] = {}
    if rule in ("z+", "epsilon_gamma_box"):
        extra = {"pixel_range": pixel_range(images)}
    if rule.startswith("epsilon") or rule == "alpha_beta":
        # Contributions that cancel say little of rounding: take what is left of them when they cannot.
        extra |= {"alpha": 1.2, "beta": 0.2} if rule == "alpha_beta" else {"epsilon": 0.5}
    targets = torch.tensor([[0, 1], [2, 3]])
    wide, narrow = (
        fastcam.relevance(model, images, targets, "input", rule=rule, precision=p, **extra)
        for p in ("float32", precision)
    )
    assert narrow.isfinite().all()
    correlations = [
        torch.corrcoef(torch.stack([a.flatten().float(), b.flatten()]))[0, 1].item()
        for a, b in zip(narrow.flatten(0, 1), wide.flatten(0, 1), strict=True)
    ]
    assert min(correlations) > 0.99, correlations


@pytest.mark.parametrize("rule", RULES)
def test_float32_is_near_float64(rule: str) -> None:
    extra: dict[str, Any] = {}
    model, images, targets = exhibit("residual_downsample")
    if rule in ("z+", "epsilon_gamma_box"):
        extra = {"pixel_range": pixel_range(images)}
    wide = fastcam.relevance(model, images, targets, "input", rule=rule, **extra)
    single = ZOO["residual_downsample"].shared(torch.float32)
    narrow = fastcam.relevance(single, images.float(), targets, "input", rule=rule, **extra)
    assert narrow.dtype == torch.float32
    assert_same(narrow.double(), wide, 1e-3 if rule.startswith("epsilon") else 1e-4)


def test_a_change_of_parameter_or_of_weights_is_noticed() -> None:
    _, images, targets = exhibit("vgg_biases")
    model = ZOO["vgg_biases"].model()
    first = fastcam.relevance(model, images, targets, "input", rule="gamma")
    other = fastcam.relevance(model, images, targets, "input", rule="gamma", gamma=3.0)
    assert not torch.allclose(first, other)
    assert torch.equal(fastcam.relevance(model, images, targets, "input", rule="gamma"), first)
    with torch.no_grad():
        model.features[0].weight.mul_(-1)
    assert not torch.allclose(fastcam.relevance(model, images, targets, "input", rule="gamma"), first)


def test_composites_are_values() -> None:
    model, images, _ = exhibit("vgg_biases")
    network = network_for(model, images)
    nodes = [network.graph.images]
    one, same, other = (composite("epsilon_gamma_box", gamma=g, pixel_range=(-5, 5)) for g in (0.5, 0.5, 0.6))
    assert find_route(network, nodes, one) is find_route(network, nodes, same)
    assert find_route(network, nodes, one) is not find_route(network, nodes, other)


@pytest.mark.parametrize("first", ["w2", "flat", "zB", "z+"])
def test_a_dead_filter_of_the_first_layer_sends_nothing(first: str) -> None:
    model = nn.Sequential(conv(3, 4, bias=True), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias.fill_(0.5)
        model[3].weight.view(3, 4, 16)[:, [0, 2, 3]] = 0  # the dead filter alone is heard
    found = fastcam.relevance(
        model,
        torch.rand(1, 3, 4, 4).double(),
        0,
        "input",
        first=first,
        **({"pixel_range": (0, 1)} if first == "zB" else {}),
    )
    assert found.isfinite().all()
    # Flat asks for no weights: what is relevant is spread all the same.
    assert bool((found != 0).any()) is (first == "flat")


def test_folded_weights_are_wide_where_signals_are() -> None:
    # As on a processor that multiplies 16-bit numbers itself: convolutions in 16 bits, linear layers' ways back in 32.
    model, images, _ = exhibit("residual_downsample")
    network = network_for(model, images)
    precision = Precision(*[torch.bfloat16] * 4, tf32=False)
    weights = Weights(network.graph, dict(model.state_dict()), precision)
    for unit in find_units(network.graph).values():
        folded, exact = weights.folded(unit), network.weights.affine(unit).weight
        assert folded.dtype == (torch.float32 if unit.geometry is None else torch.bfloat16)
        torch.testing.assert_close(folded.double(), exact, rtol=2**-8, atol=0)
