"""Which tensors of a graph are known to be nowhere below zero."""

import operator

import torch
from torch import fx

from fastcam.network.graph import Graph, aten

_ALWAYS = {
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softmax.int,
    aten.abs.default,
    aten.exp.default,
    aten.softplus.default,
}
# Non-negative where every tensor that they read is.
_IF_INPUTS_ARE = {
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.mean.dim,
    aten.amax.default,
    aten.sum.dim_IntList,
    aten.cat.default,
    aten.stack.default,
    aten.chunk.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.hardswish.default,
    aten.silu.default,
    aten.gelu.default,
}
_BOUNDED_BELOW = {aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default}
_ARITHMETIC = {aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor}


def nonnegative(graph: Graph) -> frozenset[fx.Node]:
    """Nodes whose value is >= 0 whatever the images are, as far as their operations prove it."""
    proven: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and _is_nonnegative(node, proven):
            proven.add(node)
    return frozenset(proven)


def _is_nonnegative(node: fx.Node, proven: set[fx.Node]) -> bool:
    if node.target in _ALWAYS:
        return True
    if node.target in _BOUNDED_BELOW:
        lower, upper = (*node.args[1:3], None, None)[:2]
        return _at_least_zero(lower) and (upper is None or _at_least_zero(upper))
    if node.target in _IF_INPUTS_ARE or node.target is operator.getitem:
        return all(source in proven for source in node.all_input_nodes if not _is_size(source))
    if node.target in _ARITHMETIC:
        return _at_least_zero(node.kwargs.get("alpha", 1)) and all(
            operand in proven if isinstance(operand, fx.Node) else _at_least_zero(operand) for operand in node.args[:2]
        )
    if node.target is aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        value = node.args[3] if len(node.args) > 3 else 0
        fills_below = mode == "constant" and value is not None and not _at_least_zero(value)
        return node.args[0] in proven and not fills_below
    return False


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def _at_least_zero(value: object) -> bool:
    return isinstance(value, int | float) and value >= 0
