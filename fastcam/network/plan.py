"""Running a part of a graph: which steps in which order, what may be overwritten, what can be let go."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fastcam.network.graph import Graph, aten, shape
from fastcam.network.units import Unit, find_units
from fastcam.network.weights import Weights
from fastcam.ops.activation import activate
from fastcam.ops.convolution import convolution

_IN_PLACE: dict[Any, Callable[..., Tensor]] = {
    aten.relu.default: aten.relu_.default,
    aten.relu6.default: aten.relu6_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.add.Tensor: aten.add_.Tensor,
}

Values = dict[fx.Node, Any]
# What to run in place of some ATen operations, with the same arguments.
Operations = Mapping[Any, Callable[..., Tensor]]
_AS_THEY_ARE: Operations = {}


@dataclass(frozen=True, eq=False)
class Step:
    """One value to make.

    overwrites: the operand, if any, whose memory may take the result: nothing reads it any more.
    releases: values that no later step reads.
    """

    node: fx.Node
    unit: Unit | None
    overwrites: fx.Node | None
    releases: tuple[fx.Node, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps that make `outputs`."""

    steps: tuple[Step, ...]
    outputs: tuple[fx.Node, ...]


def make_plan(
    graph: Graph,
    outputs: Iterable[fx.Node],
    *,
    feeds: Iterable[fx.Node] | None = None,
    apart: Collection[fx.Node] = (),
    alone: Collection[Any] = (),
) -> Plan:
    """Plan the computation of `outputs` from `feeds` (the images unless given).

    apart: additions that are steps of their own.
    alone: ATen operations that are steps of their own, wherever they stand.
    """
    wanted = tuple(dict.fromkeys(outputs))
    given = (graph.images,) if feeds is None else tuple(feeds)
    operands = [source for node in graph.nodes if node.target in alone for source in node.all_input_nodes]
    units = find_units(graph, keep=(*wanted, *given, *operands), apart=apart)
    reads = _reads(graph, wanted, given, units)
    ordered = [node for node in graph.nodes if node in reads and node not in given and node not in graph.weights]
    readers: dict[fx.Node, list[fx.Node]] = {}
    for node in ordered:
        for source in dict.fromkeys(reads[node]):
            readers.setdefault(source, []).append(node)
    released: dict[fx.Node, list[fx.Node]] = {}
    for source, those in readers.items():
        if source not in wanted and source not in graph.weights:
            released.setdefault(those[-1], []).append(source)
    kept = {*wanted, *given}
    steps = tuple(
        Step(node, units.get(node), _overwritten(node, units, readers, kept), tuple(released.get(node, ())))
        for node in ordered
    )
    return Plan(steps, wanted)


def run(
    plan: Plan,
    weights: Weights,
    feeds: Mapping[fx.Node, Tensor],
    *,
    leaves: Iterable[fx.Node] = (),
    operations: Operations = _AS_THEY_ARE,
) -> Values:
    """Run a plan and return the values of its outputs.

    leaves: outputs, or feeds, that gradients are wanted for. The first of them on each way start autograd's record:
        what comes before runs without one, whatever the caller's grad mode.
    operations: functions that take the place of operations which the plan has `alone`.
    """
    wanted = set(leaves)
    values: Values = {node: x.detach().requires_grad_() if node in wanted else x for node, x in feeds.items()}
    with torch.inference_mode(False), torch.set_grad_enabled(bool(wanted)):
        for step in plan.steps:
            value = evaluate(step, values, weights, operations)
            if step.node in wanted and not value.requires_grad:
                value = value.detach().requires_grad_()
            values[step.node] = value
            for node in step.releases:
                del values[node]
    return {node: values[node] for node in plan.outputs}


def evaluate(step: Step, values: Values, weights: Weights, operations: Operations = _AS_THEY_ARE) -> Any:
    """Compute one step's value."""
    if step.unit is not None:
        return compute(step.unit, values, weights, overwrite=step.overwrites is not None)
    node, names = step.node, weights.graph.weights

    def operand(source: fx.Node) -> Any:
        return weights.value(source) if source in names else values[source]

    args = fx.map_arg(node.args, operand)
    kwargs = fx.map_arg(node.kwargs, operand)
    function: Callable[..., Any] = node.target  # type: ignore[assignment]
    if node.target in operations:
        function = operations[node.target]
    elif step.overwrites is not None and not values[step.overwrites].requires_grad:
        function = _IN_PLACE[node.target]
        if node.args[0] is not step.overwrites:
            args = (args[1], args[0], *args[2:])
    return function(*args, **kwargs)


def compute(unit: Unit, values: Values, weights: Weights, *, overwrite: bool = False) -> Tensor:
    """activation(layer(x, W') + b' + residual), computed in the weights' dtype and rounded once to that of x.

    Logits that a linear layer makes are not rounded to 16 bits: of what one channel or a few pixels add to a score,
    eight bits would leave nothing.

    overwrite: the result may take the residual's memory.
    """
    x = values[unit.input]
    if unit.geometry is None:
        last = unit.output is weights.graph.logits
        affine = weights.wide(unit) if last else weights.affine(unit)
        y = activate(F.linear(x.to(affine.weight.dtype), affine.weight, affine.bias), unit.activation_name)
        return y if last else y.to(x.dtype)
    affine = weights.affine(unit)
    operand = x.to(affine.weight.dtype)
    given = None if unit.residual is None else values[unit.residual]
    residual = None if given is None else given.to(affine.weight.dtype)
    operands, own = (operand, affine.weight, affine.bias, residual), residual is not given
    y = convolution(*operands, *unit.geometry.arguments, unit.activation_name, overwrite=overwrite or own)
    return y.to(x.dtype)


def _reads(
    graph: Graph, wanted: tuple[fx.Node, ...], given: tuple[fx.Node, ...], units: Mapping[fx.Node, Unit]
) -> dict[fx.Node, list[fx.Node]]:
    """For each node that has to be computed, the nodes that its step reads."""
    found: dict[fx.Node, list[fx.Node]] = {}
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        if node in given or node in graph.weights:
            found[node] = []
        else:
            found[node] = list(units[node].reads if node in units else node.all_input_nodes)
        waiting.extend(found[node])
    return found


def _overwritten(
    node: fx.Node, units: Mapping[fx.Node, Unit], readers: Mapping[fx.Node, list[fx.Node]], kept: Collection[fx.Node]
) -> fx.Node | None:
    """The operand whose memory the result of `node` may take."""
    if node in units:
        return _overwritten_residual(node, units, readers, kept)
    return _overwritten_operand(node, units, kept)


def _overwritten_residual(
    node: fx.Node, units: Mapping[fx.Node, Unit], readers: Mapping[fx.Node, list[fx.Node]], kept: Collection[fx.Node]
) -> fx.Node | None:
    """The residual that a unit adds, if it is a unit's output, too, and this unit its last reader.

    Units make fresh tensors, and no views: where all readers are units, nothing else looks at that memory.
    """
    residual = units[node].residual
    if residual is None or residual in kept or residual not in units:
        return None
    return residual if readers[residual][-1] is node and all(reader in units for reader in readers[residual]) else None


def _overwritten_operand(node: fx.Node, units: Mapping[fx.Node, Unit], kept: Collection[fx.Node]) -> fx.Node | None:
    """The operand that an in-place form of `node` may write to.

    An addition writes to a unit's output, an activation to a unit's, an addition's or a batch norm's: fresh
    tensors that, with one reader, are no view of anything and are viewed by nothing.
    """
    if node.target not in _IN_PLACE:
        return None
    fresh = (aten.add.Tensor, aten.batch_norm.default)
    for operand in node.args[:2]:
        if not isinstance(operand, fx.Node) or operand in kept or len(operand.users) != 1:
            continue
        same_shape = shape(operand) == shape(node) and operand.meta["val"].dtype == node.meta["val"].dtype
        is_sum = node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs
        if same_shape and operand in units and (is_sum or node.target is not aten.add.Tensor):
            return operand
        if same_shape and operand.target in fresh and node.target is not aten.add.Tensor:
            return operand
    return None
