"""Additions and averages that share by magnitude or by positive part, in numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastcam.network.cache import network_for
from fastcam.network.graph import aten
from fastcam.network.layers import find_layers
from fastcam.propagation.agf import agf_rules
from fastcam.propagation.propagate import find_route, propagate
from fastcam.propagation.rap import rap_rules
from fastcam.propagation.rsp import rsp_rules
from fastcam.propagation.rule import Form, RuleSet
from tests.zoo import ZOO

STARTS = {"sum": aten.add.Tensor, "pool": aten.avg_pool2d.default}
BY_MAGNITUDE = {"rap": rap_rules(None), "agf": agf_rules(None)}


def scaled(factors: list[float]) -> nn.Conv2d:
    layer = nn.Conv2d(1, len(factors), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(factors).view(-1, 1, 1, 1))
    return layer


class Branches(nn.Module):
    """y = a + b, then averages of two neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = scaled([3.0, -1.0]), scaled([-2.0, -1.0])
        self.pool, self.last = nn.AvgPool2d((1, 2)), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.a(x) + self.b(x))).sum((2, 3))


def relevance(rules: RuleSet, start: str, given: list[list[list[float]]]) -> tuple[Tensor, Tensor]:
    """Relevance of a and of b, given that of their sum or of its averages."""
    model = Branches().double().eval()
    images = torch.tensor([[[[1.0, -3.0]]]]).double()
    network = network_for(model, images)
    (at,) = (node for node in network.graph.nodes if node.target is STARTS[start])
    a, b = (layer.node for layer in find_layers(network.graph, model, ["a", "b"]))
    route = find_route(network, [a, b], rules, start=at)

    def read(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
        return (signal if form is Form.R else signal * activation).transpose(0, 1)

    def seed(*_: Tensor) -> Tensor:
        return torch.tensor([[given]]).double()

    targets = torch.zeros(1, 1, dtype=torch.long)
    _, _, found = propagate(network, route, images, [a, b], lambda _: targets, seed, read)
    return found[0][0, 0], found[1][0, 0]


# Channel 0: a = (3, -9), b = (-2, 6); channel 1: a = b = (-1, 3).
GIVEN = [[[10.0, -5.0]], [[4.0, 1.0]]]
AVERAGED = [[[8.0]], [[-4.0]]]


@pytest.mark.parametrize("name", BY_MAGNITUDE)
def test_an_addition_by_magnitude(name: str) -> None:
    a, b = relevance(BY_MAGNITUDE[name], "sum", GIVEN)
    torch.testing.assert_close(a, torch.tensor([[[6.0, -3.0]], [[2.0, 0.5]]]).double())
    torch.testing.assert_close(b, torch.tensor([[[4.0, -2.0]], [[2.0, 0.5]]]).double())


def test_an_addition_by_positive_part() -> None:
    a, b = relevance(rsp_rules(None), "sum", GIVEN)
    torch.testing.assert_close(a, torch.tensor([[[10.0, 0.0]], [[2.0, 0.5]]]).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(b, torch.tensor([[[0.0, -5.0]], [[2.0, 0.5]]]).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", BY_MAGNITUDE)
def test_an_average_by_magnitude(name: str) -> None:
    # The sum is (1, -3) and (-2, 6): averages -1 and 2, shares 1/4 and 3/4.
    a, b = relevance(BY_MAGNITUDE[name], "pool", AVERAGED)
    torch.testing.assert_close(a + b, torch.tensor([[[2.0, 6.0]], [[-1.0, -3.0]]]).double())


def test_an_average_by_positive_part() -> None:
    a, b = relevance(rsp_rules(None), "pool", AVERAGED)
    torch.testing.assert_close(a + b, torch.tensor([[[8.0, 0.0]], [[0.0, -4.0]]]).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**24], ids=["small", "large"])
@pytest.mark.parametrize("name", ["residual_downsample", "linear_bottleneck"])
def test_signals_leave_the_range_of_float16(name: str, factor: float) -> None:
    # The z+ rule is linear in its seed, and a power of two rounds nothing: max pools and averages of float16 values
    # must not put what passes them into float16.
    exhibit = ZOO[name]
    model, images = exhibit.shared(torch.float32), exhibit.images(dtype=torch.float32)
    network = network_for(model, images, precision="float16")
    nodes = [network.graph.images]
    route = find_route(network, nodes)
    targets = torch.zeros(2, 1, dtype=torch.long)

    def maps(scale: float) -> Tensor:
        def seed(logits: Tensor, _: Tensor) -> Tensor:
            return torch.full_like(logits, scale).unsqueeze(1)

        def read(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
            wide = signal.double()
            return wide if form is Form.R else wide * activation

        return propagate(network, route, images, nodes, lambda _: targets, seed, read)[2][0]

    expected = maps(1.0)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(maps(factor) / factor, expected, rtol=1e-6, atol=1e-9)
