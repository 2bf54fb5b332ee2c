"""Units: a convolution or linear layer with the batch norm and the activation behind it, run as one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx

from fastcam.network.graph import Graph, aten, shape

_ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.relu6.default: "relu6",
    aten.silu.default: "silu",
    aten.hardswish.default: "hardswish",
}


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, eq=False)
class Unit:
    """Node `layer` (a conv2d or a linear), then `norm`, then `activation`; the last of them is `output`.

    Inside a unit every tensor has one reader, so the batch norm can be folded into the weights and the
    activation applied in place.
    """

    layer: fx.Node
    norm: fx.Node | None
    activation: fx.Node | None
    geometry: Geometry | None

    @property
    def output(self) -> fx.Node:
        """The node whose value the unit makes."""
        return self.activation or self.norm or self.layer

    @property
    def input(self) -> fx.Node:
        """The node that the unit reads."""
        return _node(self.layer.args[0])

    @property
    def weight(self) -> fx.Node:
        """The placeholder of the layer's weight."""
        return _node(self.layer.args[1])

    @property
    def bias(self) -> fx.Node | None:
        """The placeholder of the layer's bias."""
        bias = self.layer.args[2] if len(self.layer.args) > 2 else self.layer.kwargs.get("bias")
        return bias if isinstance(bias, fx.Node) else None

    @property
    def activation_name(self) -> str:
        """The activation's name as the operators take it."""
        return "none" if self.activation is None else _activation(self.activation) or "none"


def find_units(graph: Graph, keep: Iterable[fx.Node] = ()) -> dict[fx.Node, Unit]:
    """All units of a graph by their output node, such that every node in `keep` is still computed."""
    kept = {*keep, graph.logits}
    units = {}
    for node in graph.nodes:
        if is_layer(node, graph):
            unit = _grow(node, graph, kept)
            units[unit.output] = unit
    return units


def is_layer(node: fx.Node, graph: Graph) -> bool:
    """Whether a node is a conv2d or linear operation over the model's own weight."""
    if node.target not in (aten.conv2d.default, aten.linear.default):
        return False
    if node.target is aten.conv2d.default and len(shape(_node(node.args[0]))) != 4:
        return False
    operands = (*node.args[1:3], node.kwargs.get("bias"))
    return all(operand in graph.weights for operand in operands if isinstance(operand, fx.Node))


def is_foldable(node: fx.Node, graph: Graph) -> bool:
    """Whether a node is a batch norm with fixed statistics."""
    if node.target is not aten.batch_norm.default:
        return False
    _, *parameters, training = node.args[:6]
    return training is False and all(p is None or p in graph.weights for p in parameters)


def _grow(layer: fx.Node, graph: Graph, kept: set[fx.Node]) -> Unit:
    norm = _sole_reader(layer, kept)
    if norm is None or not is_foldable(norm, graph) or layer.target is not aten.conv2d.default:
        norm = None
    activation = _sole_reader(norm or layer, kept)
    if activation is None or _activation(activation) is None:
        activation = None
    return Unit(layer, norm, activation, _geometry(layer) if layer.target is aten.conv2d.default else None)


def _sole_reader(node: fx.Node, kept: set[fx.Node]) -> fx.Node | None:
    return next(iter(node.users)) if node not in kept and len(node.users) == 1 else None


def _activation(node: fx.Node) -> str | None:
    if node.target is aten.hardtanh.default:
        bounds = [float(str(bound)) for bound in node.args[1:3]]
        return "relu6" if bounds == [0.0, 6.0] else None
    return _ACTIVATIONS.get(node.target)


def _geometry(conv: fx.Node) -> Geometry:
    given = list(conv.args[3:7])
    settings: list[Any] = [*given, *[1, 0, 1, 1][len(given) :]]
    stride, padding, dilation, groups = settings
    assert isinstance(groups, int)
    return Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = [int(v) for v in value]
    return (values[0], values[-1])


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument
