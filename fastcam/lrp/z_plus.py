"""The z+ rule of convolutions and linear layers, in the form of a gated backward pass."""

from torch import Tensor

from fastcam import ops
from fastcam.lrp.rule import Call, Form, Pullback, Rule, always_g, layer_input
from fastcam.lrp.transposed import Spread, Transposed
from fastcam.network.plan import Values


def z_plus(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """Convolution or linear layer, with batch norm and activation: S = Q G, G_x = conv_transpose(S, W+)."""
    unit, network = call.step.unit, call.network
    assert unit is not None
    x, affine = values[unit.input], network.weights.affine(unit)
    positive = network.weights.positive(unit)
    signed = unit.input not in network.nonnegative
    negative = network.weights.negative(unit) if signed else None
    kept = x if signed else None
    reciprocal = call.form is Form.R
    if unit.geometry is not None:
        geometry = unit.geometry.arguments
        y, gate = ops.relevance_conv(
            x, affine.weight, affine.bias, positive, negative, None, *geometry, unit.activation_name, reciprocal
        )
        return y, Transposed(gate, kept, positive, negative, (x.shape[2], x.shape[3]), geometry)

    y, gate = ops.relevance_linear(x, affine.weight, affine.bias, positive, negative, unit.activation_name, reciprocal)
    return y, Spread(gate, kept, positive, negative)


Z_PLUS = Rule(layer_input, always_g, z_plus)
