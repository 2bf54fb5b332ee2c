"""Relative attributing propagation (Nam, Gur, Choi, Wolf, Lee, AAAI 2020), in the form of its authors' public code.

The seed is one-hot. The class neuron's own layer is taken apart by magnitude: its contributions c_i = x_i w_i, the bias
b split over the positive and the negative of them in proportion to their sums, come to c_i y / (y - b), and give

    R_i = |c_i| / (sum |c|) y :

the bias cancels, and all units start with the sign of y. In every other layer a unit j with contributions
z_ij = x_i w_ij, Z+ and Z- the sums of the magnitudes of the positive and the negative ones, sends

    R_j > 0:    R_i = z_ij+ / Z+ R_j  +  |z_ij-| / (Z+ + Z-) R_j
    R_j < 0:    R_i = |z_ij-| / Z- R_j  +  |z_ij-| / (Z+ + Z-) R_j ,

the first term the whole of R_j and the second the share Z- / (Z+ + Z-) of it, among the inhibitors. What has been sent
too much is taken back by a uniform shift of all units that are not 0: the layer's total is kept, and units that
matter little turn negative.

The paper has x >= 0, behind a ReLU, where the activators are (x, W+) and the inhibitors (x, |W-|). For signed x the
sign of a contribution decides, not that of the weight: (x+, W+) and (x-, W-) are the activators. Additions and averages
of signed values share by magnitude, as the last layer does (`fastcam.propagation.sums` tells why).
"""

from torch import Tensor

from fastcam.network.plan import Values, evaluate
from fastcam.propagation.absolute import ABSOLUTE
from fastcam.propagation.composites import Composite
from fastcam.propagation.products import (
    adjoint,
    inverse,
    keep_total,
    kept_output,
    layer_unit,
    passed_norm,
    relevance_of,
    signed_weights,
    wide,
)
from fastcam.propagation.rule import Call, Pullback, Rule, Signal, always_r, layer_input
from fastcam.propagation.sums import BY_MAGNITUDE, WithSums
from fastcam.propagation.transposed import product


def relative(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """A convolution or linear layer below the last."""
    unit = layer_unit(call)
    y = evaluate(call.step, values, call.network.weights)
    kept = kept_output(call, y)
    given, (plus, minus) = wide(values[unit.input]), signed_weights(call)
    # (input, weights of its activators, weights of its inhibitors) for x+, and for x- where there is any
    sides = [(given.clamp(min=0), plus, minus)]
    if unit.input not in call.network.nonnegative:
        sides.append((given.clamp(max=0), minus, plus))
    activators = sum(product(unit, x, same) for x, same, _ in sides)
    inhibitors = sum(-product(unit, x, other) for x, _, other in sides)
    assert isinstance(activators, Tensor)
    assert isinstance(inhibitors, Tensor)
    passed = passed_norm(call, lambda: activators - inhibitors)
    by_activators, by_inhibitors, by_both = map(inverse, (activators, inhibitors, activators + inhibitors))

    def pullback(signal: Tensor) -> list[Signal]:
        relevance = relevance_of(signal, kept, passed)
        up = relevance.clamp(min=0) * by_activators
        down = relevance.clamp(max=0) * by_inhibitors + relevance * by_both
        sent = sum(x * (adjoint(unit, up, same, x) - adjoint(unit, down, other, x)) for x, same, other in sides)
        assert isinstance(sent, Tensor)
        return [Signal(keep_total(sent, relevance), fresh=True)]

    return y, pullback


RELATIVE = Rule(layer_input, always_r, relative)


def rap_rules(first: Rule | None) -> WithSums:
    """The rules of RAP; first: of the layers that read the images."""
    layers = Composite(convolution=RELATIVE, linear=RELATIVE, first=first, classifier=ABSOLUTE)
    return WithSums(layers, BY_MAGNITUDE)
