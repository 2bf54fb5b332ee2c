"""Rules that share relevance over a layer's affine map z = W x + b itself: epsilon and gamma.

The bias stands in the denominator and keeps its share: relevance is lost to it. A batch norm behind a convolution is
folded into W and b. One that stands alone (BN-ReLU-conv, as in DenseNet) is an affine map of its own, and takes the
epsilon rule with its shift as the bias: so, up to epsilon, a convolution and its batch norm give the same relevance
folded and one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastcam.network.plan import Values, compute, evaluate
from fastcam.ops.activation import activate
from fastcam.propagation.operations import first_tensor
from fastcam.propagation.rule import Call, Form, Pullback, Rule, Signal, always_g, layer_input
from fastcam.propagation.transposed import added, gate_dtype, signed_product, way_back

# Added to gamma's denominators, away from 0.
STABILISER = 1e-6


@dataclass(frozen=True)
class Epsilon:
    """R_i = sum_j x_i w_ij / (z_j + epsilon sign(z_j)) R_j, sign(0) = 1   (Bach 2015, eq. 58).

    For R_j = a_j G_j, a = activation(z): G_x = conv_transpose(Q G_a, W), Q = a / (z + epsilon sign(z)).
    """

    epsilon: float

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back."""
        unit, network = call.step.unit, call.network
        assert unit is not None
        x = values[unit.input]
        y, z = _result(call, values)
        q = _over(y, _stabilised(z, self.epsilon), call.form).to(gate_dtype(unit, x))
        return y, way_back(unit, q, x, network.weights.folded(unit), None)


@dataclass(frozen=True)
class Gamma:
    """The gamma rule for inputs and outputs of either sign (Andeol 2021).

    With contributions z_ij = x_i w_ij, and b_j for the bias,

        R_i = sum_j (z_ij + gamma z_ij+) / (sum_i (z_ij + gamma z_ij+) + b_j + gamma b_j+) R_j   where z_j > 0
        R_i = sum_j (z_ij + gamma z_ij-) / (sum_i (z_ij + gamma z_ij-) + b_j + gamma b_j-) R_j   where z_j < 0

    and nothing where z_j = 0. For x >= 0 and z > 0 it is the rule of Montavon 2019, W + gamma W+ in place of W.
    """

    gamma: float

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back."""
        unit, network = call.step.unit, call.network
        assert unit is not None
        x, signed = values[unit.input], unit.input not in network.nonnegative
        y, z = _result(call, values)
        # x_i w_ij > 0 where both have one sign: for x > 0 positive weights are raised, for x < 0 negative ones.
        plus = self._weight(call, "min")
        minus = self._weight(call, "max")
        bias = network.weights.affine(unit).bias
        parts = []
        for sign, same, other in ((1.0, plus, minus), (-1.0, minus, plus)):
            if sign < 0 and call.form is Form.G and unit.activation_name in ("relu", "relu6"):
                continue  # y = 0 where z < 0
            opposite = other() if signed else None
            d = sign * signed_product(unit, x, same(), opposite)
            if bias is not None:
                d += (sign * bias + self.gamma * (sign * bias).clamp(min=0)).view(-1, *[1] * (d.dim() - 2))
            d = d.to(torch.promote_types(d.dtype, torch.float32)).clamp_(min=0).add_(STABILISER)
            q = _over(y, sign * d, call.form) * (sign * z > 0)
            parts.append(way_back(unit, q.to(gate_dtype(unit, x)), x, same(), opposite))
        return y, added(parts)

    def _weight(self, call: Call, side: str) -> Callable[[], Tensor]:
        """W + gamma W+, or W + gamma W-, of the folded weight."""
        unit, weights = call.step.unit, call.network.weights
        assert unit is not None

        def change(w: Tensor) -> Tensor:
            return w + self.gamma * (w.clamp(min=0) if side == "min" else w.clamp(max=0))

        return lambda: weights.changed(unit, f"gamma, {side}", change, parameter=self.gamma, folded=True)


@dataclass(frozen=True)
class EpsilonNorm:
    """A batch norm y = s x + t on its own: R_x = s x / (y + epsilon sign(y)) R_y."""

    epsilon: float

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back."""
        y = evaluate(replace(call.step, overwrites=None), values, call.network.weights)
        scale = call.network.weights.scale(call.step.node)
        q = _over(y, _stabilised(y, self.epsilon), call.form) * scale.view(-1, *[1] * (y.dim() - 2))
        return y, lambda signal: [Signal((signal * q).to(signal.dtype), fresh=True)]


def epsilon(value: float) -> Rule:
    """The epsilon rule of convolutions and linear layers."""
    return Rule(layer_input, always_g, Epsilon(value))


def gamma(value: float) -> Rule:
    """The gamma rule of convolutions and linear layers."""
    return Rule(layer_input, always_g, Gamma(value))


def epsilon_norm(value: float) -> Rule:
    """The epsilon rule of a batch norm on its own."""
    return Rule(first_tensor, always_g, EpsilonNorm(value))


def _result(call: Call, values: Values) -> tuple[Tensor, Tensor]:
    """y = activation(z) and z, which may be y itself where only its positive values are asked for."""
    unit, weights = call.step.unit, call.network.weights
    assert unit is not None
    if unit.activation is None or (unit.activation_name == "relu" and call.form is Form.G):
        y = compute(unit, values, weights)
        return y, y
    z = compute(replace(unit, activation=None), values, weights)
    return activate(z.clone(), unit.activation_name), z


def _stabilised(z: Tensor, epsilon: float) -> Tensor:
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return torch.where(wide < 0, wide - epsilon, wide + epsilon)


def _over(y: Tensor, denominator: Tensor, form: Form) -> Tensor:
    """What a signal is multiplied by: y / denominator for G, 1 / denominator for R."""
    return denominator.reciprocal() if form is Form.R else y / denominator
