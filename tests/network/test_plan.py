"""Running parts of a graph, with batch norms folded and memory reused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastcam.network.cache import network_for
from fastcam.network.network import Network
from fastcam.network.plan import run
from fastcam.network.units import find_units


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y))
        return (y + x).relu_()


def build() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), Block(), Block(), *head).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.normal_()
                module.bias.data.normal_()
    return model.double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build()


@pytest.fixture
def network(model: nn.Module, images: Tensor) -> Network:
    return network_for(model, images)


def test_units_take_batch_norm_and_activation(network: Network) -> None:
    units = find_units(network.graph).values()
    made = [(unit.norm is not None, unit.activation_name) for unit in units]
    assert made == [(False, "relu"), (True, "relu"), (True, "none"), (True, "relu"), (True, "none"), (False, "none")]


def test_a_kept_node_ends_its_unit(network: Network) -> None:
    conv = network.graph.layers["2.conv1"][0]
    units = find_units(network.graph, keep=[conv])
    assert units[conv].norm is None
    assert len(units) == 6


def test_every_layer_is_what_the_module_returns(model: nn.Module, network: Network, images: Tensor) -> None:
    names = [name for name in network.graph.layers if name not in ("", "4", "5", "6")]
    nodes = {name: network.graph.layers[name][0] for name in names}
    logits, values = network.forward(images, nodes.values())
    seen: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            seen[name] = output.clone()

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    with torch.no_grad():
        torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-12)
    for hook in hooks:
        hook.remove()
    assert set(names) >= {"0", "1", "2", "2.conv1", "2.bn1", "2.conv2", "2.bn2", "3"}
    for name, node in nodes.items():
        torch.testing.assert_close(values[node], seen[name], rtol=1e-12, atol=1e-12)


def test_memory_is_reused_where_nothing_else_reads(network: Network) -> None:
    steps = network.plan([network.graph.logits]).steps
    overwriting = [step.node.name for step in steps if step.overwrites is not None]
    assert overwriting == ["add", "relu__2", "add_1", "relu__4"]
    released = [node for step in steps for node in step.releases]
    assert len(released) == len(set(released)) == len(steps)  # the images and all values but the logits


def test_the_head_runs_from_an_activation(network: Network, images: Tensor) -> None:
    node = network.graph.layers["2"][0]
    logits, values = network.forward(images, [node])
    plan = network.plan([network.graph.logits], feeds=[node])
    assert len(plan.steps) < len(network.plan([network.graph.logits]).steps)
    head = run(plan, network.weights, {node: values[node]})
    torch.testing.assert_close(head[network.graph.logits], logits, rtol=1e-12, atol=1e-12)


def test_gradients_reach_leaves_and_no_further(network: Network, images: Tensor) -> None:
    first, second = (network.graph.layers[name][0] for name in ("2", "3"))
    with torch.enable_grad():
        logits, values = network.forward(images, [first, second], leaves=[first, second])
        a, b = torch.autograd.grad(logits[:, 1].sum(), [values[first], values[second]])
    assert values[first].is_leaf
    assert not values[second].is_leaf
    expected = network.weights.value(next(n for n, name in network.graph.weights.items() if name == "6.weight"))[1]
    torch.testing.assert_close(b, (expected / 49).view(1, 4, 1, 1).expand_as(b))
    assert a.abs().sum() > 0
