"""Additions and averages that share by bounded shares, whatever the signs of what they add.

The z+ rule has them share in proportion to their signed inputs: x_i / y of R. Its R is y G with a bounded G, so R is
small where a sum y of inputs that cancel is. Rules that shift relevance give all units some, and x_i / y of it is
without bound. Where no input is negative, all of these shares are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from fastcam.network.graph import Graph, aten, is_tensor, shape
from fastcam.network.plan import Step, Values, evaluate
from fastcam.propagation.composites import Composite
from fastcam.propagation.operations import linear, operation_rule
from fastcam.propagation.products import kept_output, relevance_of, wide
from fastcam.propagation.rule import Call, Pullback, Rule, Signal, always_r

_AVERAGES = {
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.mean.default,
    aten.sum.dim_IntList,
}


@dataclass(frozen=True)
class Sum:
    """R_i = sum_j u_i m_ij / (sum_i u_i m_ij) R_j for y_j = sum_i x_i m_ij; u = measure(x) > 0 for some i of each j."""

    measure: Callable[[Tensor], Tensor]

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The operation's result, and the way back."""
        step = replace(call.step, overwrites=None)
        y = evaluate(step, values, call.network.weights)
        kept = kept_output(call, y)
        measured = {node: self.measure(wide(values[node])) for node in call.receivers}
        total, back = linear(replace(call, step=step), {**values, **measured})
        reciprocal = torch.where(total == 0, 0, total.reciprocal())

        def pullback(signal: Tensor) -> list[Signal]:
            sent = back(relevance_of(signal, kept) * reciprocal)
            return [Signal(g * u, fresh=True) for g, u in zip(sent, measured.values(), strict=True)]

        return y, pullback


def positive_part(x: Tensor) -> Tensor:
    """x+, and next to nothing where that is 0: where no input is positive, all have equal shares."""
    return x.clamp(min=1e-9)


def _tensors(step: Step, graph: Graph) -> tuple[fx.Node, ...]:
    return tuple(source for source in step.node.all_input_nodes if source not in graph.weights and is_tensor(source))


BY_MAGNITUDE = Rule(_tensors, always_r, Sum(torch.abs))
BY_POSITIVE_PART = Rule(_tensors, always_r, Sum(positive_part))


@dataclass(frozen=True)
class WithSums:
    """A composite in which averages, and additions of two feature maps, have a rule of their own."""

    layers: Composite
    sums: Rule

    def rule_for(self, step: Step, graph: Graph) -> Rule:
        """The rule of a step. Raises ValueError, naming the operation and its module, where there is none."""
        if step.unit is None and (step.node.target in _AVERAGES or _is_addition(step, graph)):
            return self.sums
        return operation_rule(step, graph) if step.unit is None else self.layers.rule_for(step, graph)


def _is_addition(step: Step, graph: Graph) -> bool:
    """Whether a step adds two different tensors of one shape."""
    node, operands = step.node, _tensors(step, graph)
    plain = node.target is aten.add.Tensor and not node.kwargs and len(node.args) == 2
    return plain and len(operands) == 2 and all(shape(operand) == shape(node) for operand in operands)
