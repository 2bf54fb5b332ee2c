"""Rules that tell positive contributions x_i w_ij from negative ones: z+ and alpha-beta.

Biases take no part in them, and a batch norm behind a convolution passes relevance unchanged: contributions are those
to the convolution's own output.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from fastcam import ops
from fastcam.network.plan import Values, compute
from fastcam.ops.gate import gate
from fastcam.propagation.rule import Call, Form, Pullback, Rule, always_g, layer_input
from fastcam.propagation.transposed import Spread, Transposed, added, gate_dtype, signed_product, way_back


@dataclass(frozen=True)
class ZPlus:
    """Convolution or linear layer, with batch norm and activation: S = Q G, G_x = conv_transpose(S, W+).

    R_i = sum_j z_ij+ / (sum_i z_ij+) R_j, z_ij+ = max(x_i w_ij, 0)   (Montavon 2017)

    negated: take -W for W, as excitation backprop does at the classifier (Zhang 2018).
    """

    negated: bool = False

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Transposed | Spread]:
        """The layer's result, and the way back through its positive contributions."""
        unit, network = call.step.unit, call.network
        assert unit is not None
        x, affine = values[unit.input], network.weights.affine(unit)
        signed = unit.input not in network.nonnegative
        if self.negated:
            positive = network.weights.changed(unit, "negated, positive", lambda w: (-w).clamp(min=0))
            negative = (
                network.weights.changed(unit, "negated, negative", lambda w: (-w).clamp(max=0)) if signed else None
            )
        else:
            positive = network.weights.positive(unit)
            negative = network.weights.negative(unit) if signed else None
        operands = (x, affine.weight, affine.bias, positive, negative)
        reciprocal, name = call.form is Form.R, unit.activation_name
        if unit.geometry is not None:
            y, q = ops.relevance_conv(*operands, None, *unit.geometry.arguments, name, reciprocal)
        else:
            y, q = ops.relevance_linear(*operands, name, reciprocal)
            if unit.output is network.graph.logits and y.dtype.itemsize < 4:
                y = compute(unit, values, network.weights)  # the operator rounds to 16 bits, the logits are not
        return y, way_back(unit, q, x, positive, negative)


@dataclass(frozen=True)
class Contrastive:
    """What the z+ rule gives, minus what it gives with -W for W (contrastive excitation backprop, Zhang 2018)."""

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back."""
        y, own = ZPlus()(call, values)
        _, other = ZPlus(negated=True)(call, values)
        return y, added([own, replace(other, gate=-other.gate)])


@dataclass(frozen=True)
class AlphaBeta:
    """R_i = sum_j (alpha z_ij+ / (sum_i z_ij+) - beta z_ij- / (sum_i z_ij-)) R_j   (Bach 2015, eq. 60).

    A part whose denominator is 0 sends nothing. alpha - beta = 1; with beta = 0 it is the z+ rule.
    """

    alpha: float
    beta: float

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back: with D = |sum_i z_ij-|, - z_ij- / (sum_i z_ij-) = x_i w_ij / D."""
        unit, network = call.step.unit, call.network
        assert unit is not None
        y, above = ZPlus()(call, values)
        if self.beta == 0:
            return y, above
        x, signed = values[unit.input], unit.input not in network.nonnegative
        negative = network.weights.negative(unit)
        positive = network.weights.positive(unit) if signed else None
        d = -signed_product(unit, x, negative, positive)
        q = gate(y, d, reciprocal=call.form is Form.R, dtype=gate_dtype(unit, x))
        below = way_back(unit, q * self.beta, x, negative, positive)
        return y, added([replace(above, gate=above.gate * self.alpha), below])


Z_PLUS = Rule(layer_input, always_g, ZPlus())
NEGATED = Rule(layer_input, always_g, ZPlus(negated=True))
CONTRASTIVE = Rule(layer_input, always_g, Contrastive())


def alpha_beta(alpha: float, beta: float) -> Rule:
    """The alpha-beta rule."""
    return Rule(layer_input, always_g, AlphaBeta(alpha, beta))
