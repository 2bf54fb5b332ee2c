"""Rules of the first layer, whose inputs are pixels: z^B, flat and w^2 (Montavon 2017; Lapuschkin 2019).

They send relevance to inputs of 0 as well, so they send R, not G. Biases take no part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam.network.graph import shape
from fastcam.network.plan import Values, evaluate, run
from fastcam.network.units import Unit
from fastcam.ops.gate import gate
from fastcam.propagation.rule import Call, Form, Pullback, Rule, Signal, always_r, layer_input
from fastcam.propagation.transposed import gate_dtype, product, way_back

Bounds = tuple[tuple[float, ...], tuple[float, ...]]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# [0, 1] in ImageNet's normalisation.
IMAGENET_RANGE: Bounds = (
    tuple(-m / s for m, s in zip(_MEAN, _STD, strict=True)),
    tuple((1 - m) / s for m, s in zip(_MEAN, _STD, strict=True)),
)


@dataclass(frozen=True)
class Box:
    """z^B: R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) / (its sum over i) R_j, for pixels l <= x <= h.

    Since W = W+ + W-, that is (x - l) w+ + (x - h) w-: no number of it is negative, none is a difference of large ones.

    bounds: l and h, one number each or one per channel; None: ImageNet's, for images of three channels.
    folded: take the weight with its batch norm folded in. That changes the sign of the weights where gamma < 0.
    """

    bounds: Bounds | None
    folded: bool

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back."""
        unit, weights = call.step.unit, call.network.weights
        assert unit is not None
        x = values[unit.input]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        low, high = self._around(unit, call, values)
        from_low, from_high = wide - low, wide - high
        if self.folded:
            positive = weights.changed(unit, "folded, positive", lambda w: w.clamp(min=0), folded=True)
            negative = weights.changed(unit, "folded, negative", lambda w: w.clamp(max=0), folded=True)
        else:
            positive, negative = weights.positive(unit), weights.negative(unit)
        y = evaluate(call.step, values, weights)
        z = product(unit, from_low, positive) + product(unit, from_high, negative)
        q = gate(y, z, reciprocal=call.form is Form.R, dtype=gate_dtype(unit, x))
        above, below = way_back(unit, q, x, positive, None), way_back(unit, q, x, negative, None)

        def pullback(signal: Tensor) -> list[Signal]:
            (up,), (down,) = above(signal), below(signal)
            relevance = up.tensor * from_low + down.tensor * from_high
            return [Signal(relevance, fresh=True)]

        return y, pullback

    def images(self, channels: int) -> tuple[Tensor, Tensor]:
        """l and h as (1, C, 1, 1), float64. Raises ValueError where they do not fit the images."""
        if self.bounds is None and channels != 3:
            raise ValueError(
                f"pixel_range: not given, and images of {channels} channel(s) are none of ImageNet's; pass (low, high) "
                "as the images are normalised, numbers or one per channel, or another first-layer rule (first='flat')"
            )
        sides = []
        for side in self.bounds or IMAGENET_RANGE:
            if len(side) not in (1, channels):
                raise ValueError(
                    f"pixel_range: {len(side)} values given for images of {channels} channel(s); one number or one per "
                    "channel is valid"
                )
            sides.append(torch.tensor(side, dtype=torch.float64).view(1, -1, 1, 1).expand(1, channels, 1, 1))
        return sides[0], sides[1]

    def _around(self, unit: Unit, call: Call, values: Values) -> tuple[Tensor, Tensor]:
        """The bounds of the layer's input.

        What stands between it and the images (a normalisation, padding, slices) takes each value by itself, so its
        bounds are what becomes of those of the pixels.
        """
        network, graph = call.network, call.network.graph
        x = values[unit.input]
        wide = torch.promote_types(x.dtype, torch.float32)
        sides = tuple(side.to(device=x.device, dtype=wide) for side in self.images(shape(graph.images)[1]))
        if unit.input is graph.images:
            return sides[0], sides[1]

        def make() -> tuple[Tensor, Tensor]:
            _, _, *size = graph.images.meta["val"].shape
            batch = 1 if graph.dynamic_batch else x.shape[0]
            plan = network.plan([unit.input])
            ends = [
                run(plan, network.weights, {graph.images: network.prepare(side.expand(batch, -1, *size))})[unit.input]
                for side in sides
            ]
            return torch.minimum(*ends).to(wide), torch.maximum(*ends).to(wide)

        return network.once((unit.input, self.bounds, "pixel range"), make)


@dataclass(frozen=True)
class Constant:
    """Shares that do not depend on x: R_i = sum_j v_ij / (sum_i v_ij) R_j, over the inputs i inside the image.

    squares: v = w^2 (the w^2 rule), else v = 1 (flat).
    """

    squares: bool

    def __call__(self, call: Call, values: Values) -> tuple[Tensor, Pullback]:
        """The layer's result, and the way back."""
        unit, network = call.step.unit, call.network
        assert unit is not None
        x = values[unit.input]
        # A batch norm's scale, were it folded in, would cancel.
        name, change = ("squares", torch.square) if self.squares else ("ones", torch.ones_like)
        shares = network.weights.changed(unit, name, change)
        y = evaluate(call.step, values, network.weights)
        z = product(unit, torch.ones_like(x[:1]), shares)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        share = torch.where(z == 0, 0.0, z.reciprocal())
        q = torch.empty_like(y, dtype=gate_dtype(unit, x)).copy_(share if call.form is Form.R else y * share)
        return y, way_back(unit, q, x, shares, None)


def box(bounds: Bounds | None, *, folded: bool) -> Rule:
    """The z^B rule."""
    return Rule(layer_input, always_r, Box(bounds, folded))


FLAT = Rule(layer_input, always_r, Constant(squares=False))
W_SQUARE = Rule(layer_input, always_r, Constant(squares=True))
