"""Relative sectional propagation (Nam, Choi, Lee, AAAI 2021), in the form of its authors' public code.

It starts at a feature map and goes down. Positive and negative relevance R+ and R- (a magnitude) go apart, and each
through weights of its own: the gradients by the weights of what the layer computes, gated by the relevance,

    V_ij = d/dw_ij sum_xy R_j conv(x, W)_j ,        so for a linear map  V_ij = sum_xy x_i R_j ,

which belong to one image, and are large where an input and the relevance occur together. With them

    C+- = x conv_transpose(R+- / conv(x, V+-), V+-) ,        R_i = 2 (C+ - C-) ,

and a uniform shift of all units that are not 0, so that the layer's total is kept. A convolution of one position sends
C+ - C- as it is.

As in the authors' code, only the positive part of the inputs takes part (they stand behind a ReLU there), and a
residual addition shares among the positive parts of its operands. Averages do so here too.
"""

from torch import Tensor
from torch.nn import functional as F

from fastcam.network.graph import shape
from fastcam.network.plan import Values, evaluate
from fastcam.network.units import Unit
from fastcam.propagation.composites import Composite
from fastcam.propagation.products import (
    convolution_adjoint,
    convolution_weight_gradient,
    inverse,
    keep_total,
    kept_output,
    layer_unit,
    passed_norm,
    relevance_of,
    weight,
    wide,
)
from fastcam.propagation.rule import Call, Pullback, Rule, Signal, always_r, layer_input
from fastcam.propagation.sums import BY_POSITIVE_PART, WithSums
from fastcam.propagation.transposed import product


def sectional(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """A convolution."""
    unit = layer_unit(call)
    y = evaluate(call.step, values, call.network.weights)
    kept = kept_output(call, y)
    given = wide(values[unit.input])
    passed = passed_norm(call, lambda: product(unit, given, weight(call)))
    x = given.clamp(min=0)

    def pullback(signal: Tensor) -> list[Signal]:
        relevance = relevance_of(signal, kept, passed)
        above, below = (_redistributed(unit, x, side) for side in (relevance.clamp(min=0), -relevance.clamp(max=0)))
        difference = above - below
        if shape(unit.weight)[2:] != (1, 1):
            difference = keep_total(2 * difference, relevance)
        return [Signal(difference, fresh=True)]

    return y, pullback


def _redistributed(unit: Unit, x: Tensor, relevance: Tensor) -> Tensor:
    """X conv_transpose(R / conv(x, V), V) for relevance R >= 0 (T, N, K, h, w).

    Every image has weights of its own: the images are groups of one convolution.
    """
    assert unit.geometry is not None
    stride, padding, dilation, groups = unit.geometry.arguments
    targets, images, outputs = relevance.shape[:3]
    many = targets * images
    # zero rows and columns in front of the kernel, see `Geometry.shift`
    rows, columns = unit.geometry.shift
    _, per_group, height, width = shape(unit.weight)
    size = [many * outputs, per_group, height + rows, width + columns]
    each = x.expand(targets, *x.shape).reshape(1, -1, *x.shape[2:])
    r = relevance.reshape(1, -1, *relevance.shape[3:])
    arguments = (stride, padding, dilation, groups * many)
    v = convolution_weight_gradient(each, size, r, *arguments)
    v[:, :, :rows], v[:, :, :, :columns] = 0, 0
    z = F.conv2d(each, v, None, *arguments).view(many, outputs, *relevance.shape[3:])
    sent = each * convolution_adjoint(each.shape, v, r * inverse(z).view_as(r), *arguments)
    return sent.view(targets, *x.shape)


SECTIONAL = Rule(layer_input, always_r, sectional)


def rsp_rules(first: Rule | None) -> WithSums:
    """The rules of RSP; first: of the layers that read the images.

    Linear layers, of which a CNN has none below a feature map but in its gates, take z+.
    """
    return WithSums(Composite(convolution=SECTIONAL, first=first), BY_POSITIVE_PART)
