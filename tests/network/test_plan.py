"""Running parts of a graph, with batch norms folded and memory reused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fastcam
from fastcam.network.cache import network_for
from fastcam.network.graph import aten
from fastcam.network.network import Network
from fastcam.network.plan import make_plan, run
from fastcam.network.units import Unit, find_units


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


def parts(units: dict[fx.Node, Unit]) -> list[tuple[str, bool, bool, str]]:
    """For each unit its layer, whether it has a norm and a residual, its activation; in the order of the graph."""
    found = [(u.layer.name, u.norm is not None, u.residual is not None, u.activation_name) for u in units.values()]
    return sorted(found)


def test_units_take_batch_norm_residual_and_activation(network: Network) -> None:
    conv, relu, conv_relu = ("conv2d", False, False, "relu"), (True, False, "relu"), (True, True, "relu")
    assert parts(find_units(network.graph)) == [
        conv,
        ("conv2d_1", *relu),
        ("conv2d_2", *conv_relu),
        ("conv2d_3", *relu),
        ("conv2d_4", *conv_relu),
        ("linear", False, False, "none"),
    ]


def test_where_relevance_splits_an_addition_stands_apart(network: Network) -> None:
    apart = [node for node in network.graph.nodes if node.name == "add_1"]
    assert len(apart) == 1
    residuals = {layer: (residual, name) for layer, _, residual, name in parts(find_units(network.graph, apart=apart))}
    assert residuals["conv2d_2"] == (True, "relu")
    assert residuals["conv2d_4"] == (False, "none")


@pytest.mark.parametrize("first", [True, False], ids=["x-last", "x-first"])
def test_a_residual_is_the_operand_that_the_convolution_did_not_make(images: Tensor, first: bool) -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            # Both operands are convolutions, one of them read twice: the addition belongs to the other.
            z = self.b(y)
            return self.head(y + z if first else z + y)

    model = Add().double().eval()
    network = network_for(model, images)
    (unit,) = (unit for unit in find_units(network.graph).values() if unit.residual is not None)
    assert unit.layer.name == "conv2d_1"
    with torch.no_grad():
        torch.testing.assert_close(network.forward(images)[0], model(images), rtol=1e-12, atol=1e-12)


PADS = {
    # (left, right, top, bottom), kernel, stride, groups, image: whether the unit reads what the padding reads
    "symmetric": ((1, 1, 2, 2), 3, 1, 1, (8, 9), True),
    "symmetric-dense-stride": ((1, 1, 1, 1), 3, 2, 1, (8, 9), True),
    "end-depthwise": ((0, 1, 0, 1), 3, 2, 6, (8, 8), True),
    "end-depthwise-5": ((1, 2, 1, 2), 5, 2, 6, (8, 10), True),
    "end-one-axis": ((1, 1, 0, 1), 3, 2, 6, (8, 9), True),
    "end-dense": ((0, 1, 0, 1), 3, 2, 1, (8, 8), False),
    "start": ((1, 0, 1, 0), 3, 2, 6, (8, 8), False),
    "negative": ((-1, 1, -1, 1), 3, 2, 6, (8, 8), False),
}


@pytest.mark.parametrize(("sides", "kernel", "stride", "groups", "size", "absorbed"), PADS.values(), ids=PADS.keys())
@pytest.mark.parametrize("value", [0.0, 0.5], ids=["zeros", "halves"])
def test_zero_padding_becomes_the_convolutions_own(
    sides: tuple[int, ...], kernel: int, stride: int, groups: int, size: tuple[int, int], absorbed: bool, value: float
) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, kernel, stride, groups=groups)
            self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(F.pad(x, sides, value=value)))

    torch.manual_seed(0)
    model, x = Padded().double().eval(), torch.randn(2, 6, *size, dtype=torch.float64)
    network = network_for(model, x)
    (unit,) = (unit for unit in find_units(network.graph).values() if unit.geometry is not None)
    assert (unit.input is network.graph.images) is (absorbed and value == 0)
    with torch.no_grad():
        torch.testing.assert_close(network.forward(x)[0], model(x), rtol=1e-12, atol=1e-12)
        image = F.conv2d(F.pad(x, sides, value=value), model.conv.weight, model.conv.bias, stride, groups=groups)
    maps = fastcam.relevance_cam(model, x, [0, 1], layer="conv", size="layer", normalize=False)
    assert maps.shape[1:] == image.shape[2:]


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


def _overwritten(network: Network, layers: list[str]) -> dict[str, str]:
    kept = [network.graph.layers[name][0] for name in layers]
    steps = network.plan([network.graph.logits, *kept]).steps
    return {step.node.name: step.overwrites.name for step in steps if step.overwrites is not None}


class Branches(nn.Module):
    """A residual that somebody else looks at: another operation, another unit behind the addition, a view."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.reader = reader

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        if self.reader == "operation":
            return (self.third(y) + x + F.max_pool2d(x, 1)).mean(dim=(2, 3))
        if self.reader == "view":
            rows = x.flatten(2)
            return (self.third(y) + x).mean(dim=(2, 3)) + rows.sum(dim=2)
        return (self.third(y) + x).mean(dim=(2, 3)) + self.second(x).amax(dim=(2, 3))


@pytest.mark.parametrize("reader", ["operation", "behind", "view"])
def test_a_residual_that_somebody_else_reads_is_not_overwritten(reader: str) -> None:
    torch.manual_seed(0)
    model, images = Branches(reader).eval(), torch.randn(2, 4, 5, 5)
    network = network_for(model, images)
    (residual,) = network.graph.layers["first"]
    assert residual.name not in _overwritten(network, []).values()
    with torch.no_grad():
        torch.testing.assert_close(network.forward(images)[0], model(images))


class Fused(nn.Module):
    """Three branches added up, as HRNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.branches
        return F.relu(first(x) + second(x) + third(x)).mean(dim=(2, 3))


def test_a_sum_of_several_convolutions() -> None:
    torch.manual_seed(0)
    model, images = Fused().eval().double(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    network = network_for(model, images)
    with torch.no_grad():
        torch.testing.assert_close(network.forward(images)[0], model(images))
    assert len(find_units(network.graph)) == 3


def test_memory_is_reused_where_nothing_else_reads(network: Network) -> None:
    # The second block adds the first one's output, which its first convolution has read by then.
    assert _overwritten(network, []) == {"relu__2": "relu_", "relu__4": "relu__2"}
    assert _overwritten(network, ["2"]) == {"relu__2": "relu_"}
    steps = make_plan(network.graph, [network.graph.logits], apart=network.graph.nodes).steps
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


def test_an_operation_alone_can_be_replaced(model: nn.Module, network: Network, images: Tensor) -> None:
    relu = aten.relu.default
    rectifiers = [node for node in network.graph.nodes if node.target is relu]
    alone = network.plan([network.graph.logits], alone=(relu,))
    assert {step.node for step in alone.steps if step.unit is None} >= set(rectifiers)
    assert all(step.unit.activation is None for step in alone.steps if step.unit is not None)

    calls: list[Tensor] = []

    def doubled(x: Tensor) -> Tensor:
        calls.append(x)
        return 2 * torch.relu(x)

    logits, values = network.forward(images, [rectifiers[0]], operations={relu: doubled})
    assert len(calls) == len(rectifiers)
    torch.testing.assert_close(values[rectifiers[0]], 2 * calls[0].relu())
    with torch.no_grad():
        torch.testing.assert_close(network.forward(images)[0], model(images), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(logits, model(images))


def test_the_bias_that_a_batch_norm_implies() -> None:
    norm = nn.BatchNorm2d(3).double().eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -1.0, 0.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.5, 3.0]))
        norm.running_mean.copy_(torch.tensor([4.0, -2.0, 7.0]))
        norm.running_var.copy_(torch.tensor([4.0, 1.0, 1.0]) - norm.eps)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    network = network_for(nn.Sequential(norm, nn.Flatten()), images)
    (node,) = network.graph.layers["0"]
    expected = torch.tensor([1 - 4.0, 0.5 - 2, 3], dtype=torch.float64)
    torch.testing.assert_close(network.weights.implied_bias(node), expected)


@pytest.mark.parametrize(
    ("channels", "dtype", "portion"),
    [(1, torch.float32, 8), (12, torch.float32, 5), (12, torch.float64, 2), (200, torch.float32, 1)],
    ids=["small", "wide", "twice_the_bytes", "larger_than_memory_kept"],
)
def test_as_many_images_at_a_time_as_keep_the_largest_activation_within_32_mib(
    channels: int, dtype: torch.dtype, portion: int
) -> None:
    model = nn.Sequential(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    network = network_for(model.eval().to(dtype), torch.zeros(1, 3, 360, 360, dtype=dtype))
    assert network.portion(torch.device("cpu")) == portion
    assert network.portion(torch.device("cuda")) == 128
