"""Shares by magnitude."""

from torch import Tensor

from fastcam.network.plan import Values, evaluate
from fastcam.propagation.products import adjoint, inverse, kept_output, layer_unit, relevance_of, weight, wide
from fastcam.propagation.rule import Call, Pullback, Rule, Signal, always_r, layer_input
from fastcam.propagation.transposed import product


def absolute(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """R_i = sum_j |x_i w_ij| / (sum_i |x_i w_ij|) R_j. Biases take no part."""
    unit = layer_unit(call)
    y = evaluate(call.step, values, call.network.weights)
    kept = kept_output(call, y)
    x, w = wide(values[unit.input]).abs(), weight(call).abs()
    q = inverse(product(unit, x, w))

    def pullback(signal: Tensor) -> list[Signal]:
        sent = x * adjoint(unit, relevance_of(signal, kept) * q, w, x)
        return [Signal(sent, fresh=True)]

    return y, pullback


ABSOLUTE = Rule(layer_input, always_r, absolute)
