"""Rules of the operations between the layers, common to all sets of rules.

Whatever convolutions and linear layers do, a max pool gives everything to its winner, an addition and an average share
in proportion to their signed inputs, an activation passes relevance on, a gate is held fixed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fastcam.network.graph import Graph, aten, is_tensor, place, shape
from fastcam.network.plan import Step, Values, evaluate
from fastcam.propagation.rule import Call, Form, Pullback, Rule, Signal, always_g, always_r, unchanged


def movement(call: Call, values: Values) -> tuple[Any, Pullback]:
    """Reshaping, slicing, concatenation, padding, max pooling: the signal goes back to where its value came from.

    These operations pick values, so their rule is their vector-Jacobian product, in either form; a max pool's
    goes to the winner (the first of equals).
    """
    y, back = linear(call, values)
    return y, lambda signal: [Signal(g) for g in back(signal)]


def share(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """Average pooling, mean, sum: each input's share of the output is x / y, so G passes as a gradient would."""
    y, back = linear(call, values)
    return y, lambda signal: [Signal(g, fresh=True) for g in back(_as_g(signal, y, call.form))]


def addition(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """y = a + c b: shares a / y and c b / y, so G passes to a and c G to b, 0 where y is 0."""
    step = call.step
    shapes = [values[node].shape for node in call.receivers]
    factors = [_factor(step.node, node) for node in call.receivers]
    y = evaluate(step, values, call.network.weights)
    # An activation with f(0) = 0 that is the only reader has set G to 0 there already: y need not be kept.
    masked = call.form is Form.G and _is_masked_by_reader(step.node)
    total = None if masked else y

    def pullback(signal: Tensor) -> list[Signal]:
        g = signal if total is None else _as_g(signal, total, call.form)
        sent = [g if factor == 1 else g * factor for factor in factors]
        return [Signal(_sum_to(s, size)) for s, size in zip(sent, shapes, strict=True)]

    return y, pullback


def activation(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """An activation with f(0) = 0 on its own: R passes where x is not 0, so G_x = (y / x) G_y, |y / x| bounded."""
    (source,) = call.receivers
    if call.step.node.target is aten.relu.default:
        y = evaluate(call.step, values, call.network.weights)
        if call.form is Form.R:
            return y, lambda signal: [Signal(signal)]
        return y, Mask.of(y)
    x = values[source]
    y = evaluate(replace(call.step, overwrites=None), values, call.network.weights)
    if call.form is Form.R:
        return y, lambda signal: [Signal(signal * _nonzero(x), fresh=True)]
    slope = torch.where(x == 0, torch.zeros_like(x), y / x)
    return y, lambda signal: [Signal(signal * slope, fresh=True)]


@dataclass(frozen=True, eq=False)
class Mask:
    """The way back through a ReLU, in form G: what comes, where the ReLU's result is not 0.

    passing: 1 there, else 0, in int8: kept in place of the result, it leaves three quarters of the memory.
    """

    passing: Tensor

    @classmethod
    def of(cls, y: Tensor) -> "Mask":
        """The mask of a ReLU's result (N, ...)."""
        # On a CPU, PyTorch is faster to convert to bool than to compare, and to multiply by int8 than by bool.
        return cls(y.to(torch.bool).view(torch.int8))

    def __call__(self, signal: Tensor) -> list[Signal]:
        """G (T, N, ...) for signals (T, N, ...)."""
        return [Signal(signal * self.passing, fresh=True)]

    def overwrite(self, signal: Tensor) -> list[Signal]:
        """The same, in the signal's own memory."""
        return [Signal(signal.mul_(self.passing), fresh=True)]


def passing(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """Batch norm on its own, and activations with f(0) != 0: R passes unchanged where x is not 0."""
    (source,) = call.receivers
    x = values[source]
    y = evaluate(replace(call.step, overwrites=None), values, call.network.weights)

    def pullback(signal: Tensor) -> list[Signal]:
        relevance = signal if call.form is Form.R else signal * y
        return [Signal(relevance * _nonzero(x), fresh=True)]

    return y, pullback


def gated(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """y = x * gate with the gate held fixed: R passes to x, so G_x = gate * G."""
    (source,) = call.receivers
    node = call.step.node
    held = next(operand for operand in node.args[:2] if operand is not source)
    y = evaluate(replace(call.step, overwrites=None), values, call.network.weights)
    if call.form is Form.R:
        return y, lambda signal: [Signal(signal)]
    gate: Any = held
    if isinstance(held, fx.Node):
        weights = call.network.weights
        gate = weights.value(held) if held in weights.graph.weights else values[held]
    if node.target is aten.div.Tensor:
        return y, lambda signal: [Signal(signal / gate, fresh=True)]
    return y, lambda signal: [Signal(signal * gate, fresh=True)]


def operation_rule(step: Step, graph: Graph) -> Rule:
    """The rule of an operation. Raises ValueError, naming the operation and its module, where there is none."""
    rule = _RULES.get(step.node.target)
    if rule is None:
        raise ValueError(
            f"relevance: there is no rule for the way back through {step.node.target} (node {step.node.name!r}) in "
            f"{place(step.node)}; choose a layer behind it, or a gradient method such as grad_cam"
        )
    return rule


def _tensors(step: Step, graph: Graph) -> tuple[fx.Node, ...]:
    sources = [source for source in step.node.all_input_nodes if source not in graph.weights and is_tensor(source)]
    return tuple(sources)


def first_tensor(step: Step, graph: Graph) -> tuple[fx.Node, ...]:
    """Receivers: the first operand that is a tensor and no weight."""
    return _tensors(step, graph)[:1]


def _not_the_gate(step: Step, graph: Graph) -> tuple[fx.Node, ...]:
    """The operand of a product that is no gate.

    A gate is a constant, an operand that is broadcast over the other, or a sigmoid or hardsigmoid.
    """
    node, tensors = step.node, _tensors(step, graph)
    if node.target is aten.div.Tensor and node.args[0] not in tensors[:1]:
        tensors = ()
    if len(tensors) == 2 and node.target is aten.mul.Tensor:
        broadcast = [t for t in tensors if shape(t) != shape(node)]
        sigmoids = [t for t in tensors if t.target in (aten.sigmoid.default, aten.hardsigmoid.default)]
        gates = broadcast or sigmoids
        tensors = tuple(t for t in tensors if t not in gates) if len(gates) == 1 else tensors
    if len(tensors) != 1:
        raise ValueError(
            f"relevance: there is no rule for the way back through {node.target} (node {node.name!r}) in "
            f"{place(node)}: neither operand is a gate (a constant, broadcast, a sigmoid or a hardsigmoid)"
        )
    return tensors


def linear(call: Call, values: Values) -> tuple[Any, Callable[[Tensor], list[Tensor]]]:
    """Evaluate a step under autograd; return its value and its vector-Jacobian product.

    In float32 where values are float16: the product has the dtype of what it is by, and signals leave float16's range.
    """
    half = call.step.node.target is not aten.to.dtype and any(
        values[node].dtype == torch.float16 for node in call.receivers
    )
    detached = {node: values[node].detach() for node in call.receivers}
    leaves = {node: value.float() if half else value for node, value in detached.items()}
    with torch.enable_grad():
        for leaf in leaves.values():
            leaf.requires_grad_()
        y = evaluate(call.step, {**values, **leaves}, call.network.weights)
    inputs = list(leaves.values())

    def back(signal: Tensor) -> list[Tensor]:
        if signal.shape[0] == 1:
            return [g.unsqueeze(0) for g in torch.autograd.grad(y, inputs, signal[0])]
        return list(torch.autograd.grad(y, inputs, signal, is_grads_batched=True))

    return y.detach().half() if half else y.detach(), back


def _as_g(signal: Tensor, y: Tensor, form: Form) -> Tensor:
    """A signal as G, 0 where y is 0."""
    if form is Form.G:
        return signal * _nonzero(y)
    return torch.where(y == 0, torch.zeros_like(signal), signal / y)


def _nonzero(x: Tensor) -> Tensor:
    """1 where x is not 0, else 0 (by arithmetic, which is faster on a CPU than a comparison)."""
    return x.sign().abs_()


def _is_masked_by_reader(node: fx.Node) -> bool:
    readers = list(node.users)
    return len(readers) == 1 and _RULES.get(readers[0].target) is _ACTIVATION


def _factor(node: fx.Node, operand: fx.Node) -> float:
    """What an operand is multiplied by in a + alpha b or a - alpha b; both, in x + x."""
    alpha = float(str(node.kwargs.get("alpha", 1)))
    sign = -1.0 if node.target is aten.sub.Tensor else 1.0
    return (node.args[0] is operand) + sign * alpha * (node.args[1] is operand)


def _sum_to(signal: Tensor, size: torch.Size) -> Tensor:
    """Sum a signal (T, N, ...) over the dimensions in which an operand of shape `size` was broadcast."""
    return signal if signal.shape[1:] == size else signal.sum_to_size(signal.shape[0], *size)


_MOVEMENT = Rule(_tensors, unchanged, movement)
_SHARE = Rule(first_tensor, always_g, share)
_ADDITION = Rule(_tensors, always_g, addition)
_ACTIVATION = Rule(first_tensor, unchanged, activation)
_PASSING = Rule(first_tensor, always_r, passing)
_GATED = Rule(_not_the_gate, unchanged, gated)

_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.cat.default,
            aten.stack.default,
            aten.expand.default,
            aten.slice.Tensor,
            aten.select.int,
            aten.permute.default,
            aten.transpose.int,
            aten.reshape.default,
            aten.flatten.using_ints,
            aten.unflatten.int,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.unsqueeze.default,
            aten.pad.default,
            aten.max_pool2d.default,
            aten.to.dtype,
        ),
        _MOVEMENT,
    ),
    **dict.fromkeys(
        (
            aten.avg_pool2d.default,
            aten.adaptive_avg_pool2d.default,
            aten.mean.dim,
            aten.mean.default,
            aten.sum.dim_IntList,
        ),
        _SHARE,
    ),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor), _ADDITION),
    **dict.fromkeys(
        (
            aten.relu.default,
            aten.relu6.default,
            aten.hardtanh.default,
            aten.leaky_relu.default,
            aten.prelu.default,
            aten.elu.default,
            aten.selu.default,
            aten.celu.default,
            aten.gelu.default,
            aten.silu.default,
            aten.mish.default,
            aten.hardswish.default,
            aten.tanh.default,
        ),
        _ACTIVATION,
    ),
    **dict.fromkeys(
        (aten.batch_norm.default, aten.sigmoid.default, aten.hardsigmoid.default, aten.softplus.default),
        _PASSING,
    ),
    **dict.fromkeys((aten.mul.Tensor, aten.div.Tensor), _GATED),
}
