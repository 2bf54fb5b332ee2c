"""Units: a convolution or linear layer with what stands around it, run as one.

In front of a convolution its zero padding; behind a layer its batch norm, a residual addition, an activation.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
    """How a convolution moves over its input.

    shift: rows and columns by which the kernel starts before its own first weight. An operation that pads more at
        the end than at the start (TensorFlow's "same" padding) is one that pads both sides alike, with a kernel
        that has zeros in front.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    shift: tuple[int, int] = (0, 0)

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], int]:
        """Stride, padding, dilation and groups, as the operators take them."""
        return list(self.stride), list(self.padding), list(self.dilation), self.groups

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Height and width of the result of a kernel that includes the shift, on an input of that size."""
        rows, columns = (
            (full + 2 * pad - d * (k - 1) - 1) // step + 1
            for full, pad, d, k, step in zip(size, self.padding, self.dilation, kernel, self.stride, strict=True)
        )
        return rows, columns


@dataclass(frozen=True, eq=False)
class Unit:
    """Node `layer` (a conv2d or a linear), then `norm`, `addition`, `activation`; the last of them is `output`.

    Inside a unit every tensor has one reader, so the batch norm can be folded into the weights and the
    activation applied in place.
    """

    input: fx.Node
    layer: fx.Node
    norm: fx.Node | None
    addition: fx.Node | None
    activation: fx.Node | None
    geometry: Geometry | None

    @cached_property
    def output(self) -> fx.Node:
        """The node whose value the unit makes."""
        return self.activation or self.addition or self.norm or self.layer

    @cached_property
    def residual(self) -> fx.Node | None:
        """What is added to the layer's result: the addition's other operand."""
        if self.addition is None:
            return None
        first, second = map(_node, self.addition.args[:2])
        return second if first is (self.norm or self.layer) else first

    @cached_property
    def reads(self) -> tuple[fx.Node, ...]:
        """The nodes whose values the unit is made from."""
        return (self.input,) if self.residual is None else (self.input, self.residual)

    @cached_property
    def weight(self) -> fx.Node:
        """The placeholder of the layer's weight."""
        return _node(self.layer.args[1])

    @cached_property
    def bias(self) -> fx.Node | None:
        """The placeholder of the layer's bias."""
        bias = self.layer.args[2] if len(self.layer.args) > 2 else self.layer.kwargs.get("bias")
        return bias if isinstance(bias, fx.Node) else None

    @cached_property
    def activation_name(self) -> str:
        """The activation's name as the operators take it."""
        return "none" if self.activation is None else _activation(self.activation) or "none"


def find_units(graph: Graph, keep: Iterable[fx.Node] = (), apart: Collection[fx.Node] = ()) -> dict[fx.Node, Unit]:
    """All units of a graph by their output node, such that every node in `keep` is still computed.

    apart: nodes at which nothing is added inside a unit: relevance splits at an addition.
    """
    kept = {*keep, graph.logits}
    grown = (_grow(node, graph, kept) for node in graph.nodes if is_layer(node, graph))
    units = {unit.output: unit for unit in grown}
    for node in graph.nodes:
        unit = _with_residual(node, units, kept) if node not in apart else None
        if unit is not None:
            del units[unit.norm or unit.layer]
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
    source = _node(layer.args[0])
    if layer.target is not aten.conv2d.default:
        return Unit(source, layer, norm, None, activation, None)
    geometry = _geometry(layer)
    padded = _absorb_padding(source, geometry, layer, kept)
    if padded is not None:
        source, geometry = _node(source.args[0]), padded
    return Unit(source, layer, norm, None, activation, geometry)


def _absorb_padding(pad: fx.Node, geometry: Geometry, conv: fx.Node, kept: set[fx.Node]) -> Geometry | None:
    """The geometry with a zero padding of height and width in front of it built in; None where that does not pay."""
    if pad.target is not aten.pad.default or _sole_reader(pad, kept) is not conv:
        return None
    settings: list[Any] = [*pad.args[1:4], *["constant", None][len(pad.args) - 2 :]]
    sizes, mode, value = settings
    sides = [int(str(size)) for size in sizes] if isinstance(sizes, list | tuple) else []
    if len(sides) != 4 or min(sides) < 0 or mode != "constant" or value not in (None, 0, 0.0):
        return None
    left, right, top, bottom = sides
    shift = (bottom - top, right - left)
    kernel = shape(_node(conv.args[1]))
    # A longer kernel costs a depthwise convolution little: it is bound by memory.
    if min(shift) < 0 or (any(shift) and (kernel[1] != 1 or geometry.dilation != (1, 1))):
        return None
    height, width = geometry.padding
    built_in = replace(geometry, padding=(height + bottom, width + right), shift=shift)
    # The last window must end where it did: a longer kernel may leave no room for it, or a wider padding for one more.
    extent = [side + more for side, more in zip(kernel[2:], shift, strict=True)]
    fits = built_in.output_size(shape(_node(pad.args[0]))[2:], extent) == shape(conv)[2:]
    return built_in if fits else None


def _with_residual(addition: fx.Node, units: dict[fx.Node, Unit], kept: set[fx.Node]) -> Unit | None:
    """The unit of a convolution grown over the addition behind it, with the ReLU behind that."""
    if addition.target is not aten.add.Tensor or addition.kwargs or len(addition.args) != 2:
        return None
    first, second = addition.args
    if not (isinstance(first, fx.Node) and isinstance(second, fx.Node)) or first is second:
        return None
    if any(shape(operand) != shape(addition) for operand in (first, second)):
        return None
    if first.meta["val"].dtype != second.meta["val"].dtype:
        return None
    for operand in (first, second):
        unit = units.get(operand)
        if unit is None or unit.geometry is None or unit.addition is not None or unit.activation is not None:
            continue
        if _sole_reader(operand, kept) is addition:
            reader = _sole_reader(addition, kept)
            relu = reader if reader is not None and reader.target is aten.relu.default else None
            return replace(unit, addition=addition, activation=relu)
    return None


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
