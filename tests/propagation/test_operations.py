"""Ways back through operations between the layers that may write over what comes to them."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastcam.network.cache import network_for
from fastcam.network.graph import aten
from fastcam.network.layers import find_layers
from fastcam.propagation.operations import Mask
from fastcam.propagation.propagate import find_route, propagate
from fastcam.propagation.rule import Call, Signal


@pytest.mark.parametrize("targets", [1, 2])
def test_a_mask_writes_over_the_signal_only_when_asked(targets: int) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 4, 5, 5, generator=generator).relu()
    signal = torch.randn(targets, 3, 4, 5, 5, generator=generator)
    given, expected = signal.clone(), signal * (y > 0)
    assert Mask.of(y).passing.dtype == torch.int8
    (apart,) = Mask.of(y)(signal)
    assert apart == Signal(apart.tensor, fresh=True)
    assert torch.equal(apart.tensor, expected)
    assert torch.equal(signal, given)
    (over,) = Mask.of(y).overwrite(signal)
    assert over.tensor.data_ptr() == signal.data_ptr()
    assert torch.equal(signal, expected)


class Shortcut(nn.Module):
    """relu(x + conv(x)): the sum is read by its ReLU alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(2))
        self.head = nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.conv(x)).relu().mean(dim=(2, 3)))


def test_a_sum_that_only_a_relu_reads_is_not_kept() -> None:
    model, images = Shortcut().eval(), torch.randn(2, 3, 4, 4)
    network = network_for(model, images)
    route = find_route(network, [find_layers(network.graph, model, "stem")[0].node])
    (step,) = (step for step in route.plan.steps if step.node.target is aten.add.Tensor)
    call = Call(step, route.form[step.node], route.receivers[step.node], network)
    values = {node: torch.randn(2, 3, 4, 4) for node in call.receivers}
    y, back = route.rules[step.node].forward(call, values)
    signal = torch.randn(1, 2, 3, 4, 4)
    assert [torch.equal(sent.tensor, signal) for sent in back(signal)] == [True, True]
    kept = weakref.ref(y)
    del y
    values.clear()
    assert kept() is None


class TwoRectified(nn.Module):
    """relu(a) + relu(b): one signal goes to both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(3))
        self.head = nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        a, b = (F.avg_pool2d(conv(x), 2) for conv in (self.first, self.second))
        return self.head((a.relu() + b.relu()).mean(dim=(2, 3)))


def test_a_signal_that_goes_to_two_is_overwritten_by_neither() -> None:
    torch.manual_seed(0)
    model = TwoRectified().double().eval()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    network = network_for(model, images)
    node = find_layers(network.graph, model, "stem")[0].node
    route = find_route(network, [node])
    targets = torch.tensor([[0], [1]])
    _, _, (found,) = propagate(network, route, images, [node], lambda _: targets, "one_hot")
    lost: dict = {}
    _, _, (apart,) = propagate(network, route, images, [node], lambda _: targets, "one_hot", lost=lost)
    torch.testing.assert_close(found, apart, rtol=1e-12, atol=1e-12)
