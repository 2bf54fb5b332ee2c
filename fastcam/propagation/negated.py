"""Two seeds of one propagation, the second through the negated classifier (Gu, Yang, Tresp 2018)."""

from torch import Tensor, cat

from fastcam.network.plan import Values
from fastcam.propagation.rule import Call, Pullback, Rule, Signal, always_g, layer_input
from fastcam.propagation.z_plus import ZPlus


def half_negated(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """The z+ rule for the first half of the signals (2 T, N, ...), and with -W for W for the second half."""
    y, own = ZPlus()(call, values)
    _, other = ZPlus(negated=True)(call, values)

    def pullback(signal: Tensor) -> list[Signal]:
        halves = (back(half)[0].tensor for back, half in zip((own, other), signal.chunk(2), strict=True))
        return [Signal(cat(tuple(halves)), fresh=True)]

    return y, pullback


HALF_NEGATED = Rule(layer_input, always_g, half_negated)
