"""The engine itself: to the images, from a layer, from seeds of one's own, by rules of one's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import fastcam
from fastcam import ops
from fastcam.network.cache import network_for
from fastcam.network.graph import Graph
from fastcam.network.layers import find_layers
from fastcam.network.network import Network
from fastcam.network.plan import Step, Values, run
from fastcam.ops.seeds import SEEDS
from fastcam.propagation.composites import Composite, composite
from fastcam.propagation.propagate import Seed, find_route, propagate
from fastcam.propagation.rule import Call, Form, Pullback, Rule, Signal
from tests import textbook
from tests.propagation.exhibits import exhibit
from tests.zoo import ZOO, choose_targets


def read(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    return (signal if form is Form.R else signal * activation).transpose(0, 1)


def captured(name: str) -> tuple[Network, Tensor, Tensor]:
    model, images, targets = exhibit(name)
    return network_for(model, images), images, targets


def layer(name: str, network: Network, module: str) -> fx.Node:
    return find_layers(network.graph, ZOO[name].shared(), module)[0].node


def near(found: Tensor, expected: Tensor) -> None:
    largest = expected.abs().flatten(2).amax(2)[(...,) + (None,) * (expected.dim() - 2)]
    assert found.shape == expected.shape
    assert bool(((found - expected).abs() <= 1e-9 * largest).all())


@pytest.mark.parametrize("name", ZOO)
def test_z_plus_to_the_images(name: str) -> None:
    network, images, targets = captured(name)
    expected = textbook.propagate(ZOO[name].shared(), images, targets)
    node = network.graph.images
    route = find_route(network, [node])
    _, values, (found,) = propagate(network, route, images, [node], lambda _: targets, "clrp", read)
    assert torch.equal(values[node], images)
    near(found, expected.input.relevance)
    _, _, (sums,) = propagate(network, route, images, [node], lambda _: targets, "clrp")
    near(sums, expected.input.weights)


def test_what_is_sent_to_the_last_layer_is_summed_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, targets = captured("residual_downsample")
    first, second = (layer("residual_downsample", network, f"block{i}") for i in (1, 2))
    calls: list[Any] = []
    for name in ("relevance_conv_backward", "relevance_conv_weights"):
        operator = getattr(ops, name)

        def spy(*arguments: Any, name: str = name, operator: Any = operator) -> Tensor:
            result: Tensor = operator(*arguments)
            calls.append((name, tuple(result.shape)))
            return result

        monkeypatch.setattr(ops, name, spy)
    route = find_route(network, [first, second])
    _, values, found = propagate(network, route, images, [first, second], lambda _: targets, "clrp")
    by_name = {name: [shape for called, shape in calls if called == name] for name, _ in calls}
    sent = targets.shape[1] * images.shape[0]
    # Two convolutions of the second block read the first block's result: one of its main way, one of its shortcut.
    assert by_name["relevance_conv_weights"] == [(sent, values[first].shape[1])] * 2
    assert (sent, *values[first].shape[1:]) not in by_name["relevance_conv_backward"]
    _, _, maps = propagate(network, route, images, [first, second], lambda _: targets, "clrp", read)
    for sums, relevance in zip(found, maps, strict=True):
        near(sums, relevance.sum(dim=(3, 4)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["vgg_biases", "signed_convolutional_head"])
def test_a_seed_of_ones_own_is_as_good_as_a_named_one(name: str, seed: str) -> None:
    network, images, targets = captured(name)
    nodes = [network.graph.images]
    route = find_route(network, nodes)
    named, own = (
        propagate(network, route, images, nodes, lambda _: targets, given, read)[2][0] for given in (seed, SEEDS[seed])
    )
    torch.testing.assert_close(own, named, rtol=1e-12, atol=1e-14)
    expected = textbook.propagate(
        ZOO[name].shared(), images, targets, seed=lambda *given: SEEDS[seed](*given).transpose(0, 1)
    )
    near(own, expected.input.relevance)


@pytest.mark.parametrize(
    ("name", "where"),
    [("vgg_biases", "features.4"), ("residual_downsample", "block1"), ("dense_blocks", "transition.2")],
)
def test_starting_at_a_layer_goes_on_as_if_from_the_logits(name: str, where: str) -> None:
    network, images, targets = captured(name)
    expected = textbook.propagate(ZOO[name].shared(), images, targets)
    start, nodes = layer(name, network, where), [network.graph.images]
    route = find_route(network, nodes, start=start)
    assert network.graph.logits not in {step.node for step in route.plan.steps}

    def seed(activation: Tensor, chosen: Tensor) -> Tensor:
        assert torch.equal(chosen, targets)
        near(activation.unsqueeze(1), expected[where].activation.unsqueeze(1))
        return expected[where].relevance

    # The targets may need the logits: the rest of the network runs from the layer.
    def resolve(activation: Tensor) -> Tensor:
        rest = network.plan([network.graph.logits], feeds=[start])
        return choose_targets(run(rest, network.weights, {start: activation})[network.graph.logits])

    activation, _, (found,) = propagate(network, route, images, nodes, resolve, seed, read)
    assert activation.shape == expected[where].activation.shape
    near(found, expected.input.relevance)


def test_a_start_may_be_its_own_layer() -> None:
    network, images, targets = captured("vgg_biases")
    start = layer("vgg_biases", network, "features.4")
    given = torch.randn(2, 3, 4, 6, 6).double()
    route = find_route(network, [start], start=start)
    _, _, (found,) = propagate(network, route, images, [start], lambda _: targets, lambda *_: given, read)
    assert torch.equal(found, given)


def test_a_layer_above_the_start_is_refused() -> None:
    network, *_ = captured("vgg_biases")
    above, start = layer("vgg_biases", network, "features.7"), layer("vgg_biases", network, "features.4")
    with pytest.raises(ValueError, match=r"no relevance reaches '.+' from '.+'"):
        find_route(network, [above], start=start)


@dataclass(frozen=True)
class Scaled:
    """The rules of another set, with what they send times a factor: rules of one's own, in both forms."""

    factor: float

    def rule_for(self, step: Step, graph: Graph) -> Rule:
        rule = Composite().rule_for(step, graph)
        return replace(rule, forward=_Times(rule, self.factor)) if step.unit is not None else rule


@dataclass(frozen=True)
class _Times:
    rule: Rule
    factor: float

    def __call__(self, call: Call, values: Values) -> tuple[Any, Pullback]:
        y, back = self.rule.forward(call, values)
        return y, lambda signal: [Signal(part.tensor * self.factor) for part in back(signal)]


def test_rules_of_ones_own() -> None:
    network, images, targets = captured("vgg_biases")
    nodes = [network.graph.images]

    def run_with(rules: Scaled | None, seed: Seed = "clrp") -> Tensor:
        route = find_route(network, nodes, rules)
        return propagate(network, route, images, nodes, lambda _: targets, seed, read)[2][0]

    # Six layers, each twice as much.
    torch.testing.assert_close(run_with(Scaled(2.0)), 64 * run_with(None), rtol=1e-12, atol=1e-14)
    assert find_route(network, nodes, Scaled(2.0)) is find_route(network, nodes, Scaled(2.0))
    assert find_route(network, nodes, Scaled(2.0)) is not find_route(network, nodes, Scaled(3.0))


def test_no_rule_is_told_with_node_and_module() -> None:
    class Norm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = (
                torch.nn.Conv2d(3, 4, 1),
                torch.nn.LayerNorm([4, 6, 6]),
                torch.nn.Linear(4, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.conv(x)).mean((2, 3)))

    with pytest.raises(ValueError, match=r"no rule for the way back through aten.layer_norm.* module 'norm'"):
        fastcam.relevance(Norm(), torch.rand(1, 3, 6, 6), 0, "conv")


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta"])
@pytest.mark.parametrize("name", ["residual_downsample", "signed_inputs"])
def test_sums_over_positions_are_those_of_the_relevance(name: str, rule: str) -> None:
    # Where the way ends at a layer, its sums are found without its relevance.
    network, images, targets = captured(name)
    for node in (network.graph.images, find_layers(network.graph, ZOO[name].shared(), None)[0].node):
        route = find_route(network, [node], composite(rule))
        (whole,), (sums,) = (
            propagate(network, route, images, [node], lambda _: targets, "one_hot", reader)[2]
            for reader in (read, None)
        )
        near(sums, whole.sum((3, 4)))
