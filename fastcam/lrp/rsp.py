"""Relative sectional propagation (Nam, Choi, Lee, AAAI 2021), in the form of its authors' public code.

It starts at a feature map and goes down. Positive and negative relevance R+ and R- (a magnitude) go apart, and each
through weights of its own: the gradients by the weights of what the layer computes, gated by the relevance,

    V_ij = d/dw_ij sum_xy R_j conv(x, W)_j ,        so for a linear map  V_ij = sum_xy x_i R_j ,

which belong to one image, and are large where an input and the relevance occur together. With them

    C+- = x conv_transpose(R+- / conv(x, V+-), V+-) ,        R_i = 2 (C+ - C-) ,

and a uniform shift of all units that are not 0, so that the layer's total is kept. A convolution of one position sends
C+ - C- as it is.

As in the authors' code, only the positive part of the inputs takes part (they stand behind a ReLU there), and a
residual addition shares among the positive parts of its operands, equally where there are none.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fastcam.lrp.composites import Composite
from fastcam.lrp.operations import operation_rule
from fastcam.lrp.products import (
    convolution_adjoint,
    convolution_weight_gradient,
    inverse,
    keep_total,
    kept_output,
    layer_unit,
    relevance_of,
    wide,
)
from fastcam.lrp.rule import Call, Pullback, Rule, Signal, always_r, layer_input
from fastcam.network.graph import Graph, aten, shape
from fastcam.network.plan import Step, Values, evaluate
from fastcam.network.units import Unit


def sectional(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """A convolution."""
    unit = layer_unit(call)
    y = evaluate(call.step, values, call.network.weights)
    kept = kept_output(call, y)
    x = wide(values[unit.input]).clamp(min=0)

    def pullback(signal: Tensor) -> list[Signal]:
        relevance = relevance_of(signal, kept)
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


def positive_addition(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """y = a + b: R_a = a+ / (a+ + b+) R, R_b the rest; half each where neither is positive."""
    y = evaluate(replace(call.step, overwrites=None), values, call.network.weights)
    kept = kept_output(call, y)
    a, b = (wide(values[node]).clamp(min=0) for node in call.receivers)
    share = torch.where(a + b == 0, 0.5, a / torch.where(a + b == 0, 1, a + b))

    def pullback(signal: Tensor) -> list[Signal]:
        relevance = relevance_of(signal, kept)
        first = relevance * share
        return [Signal(first, fresh=True), Signal(relevance - first, fresh=True)]

    return y, pullback


def _operands(step: Step, _: Graph) -> tuple[fx.Node, ...]:
    return tuple(step.node.all_input_nodes)


SECTIONAL = Rule(layer_input, always_r, sectional)
POSITIVE_ADDITION = Rule(_operands, always_r, positive_addition)


@dataclass(frozen=True)
class Sectional:
    """The rules of RSP.

    first: of the layers that read the images. Linear layers, of which there are none below a feature map of a CNN but
    in its gates, take z+.
    """

    first: Rule | None

    def rule_for(self, step: Step, graph: Graph) -> Rule:
        """The rule of a step. Raises ValueError, naming the operation and its module, where there is none."""
        if step.unit is not None:
            return Composite(convolution=SECTIONAL, first=self.first).rule_for(step, graph)
        return POSITIVE_ADDITION if _is_residual(step.node, graph) else operation_rule(step, graph)


def _is_residual(node: fx.Node, graph: Graph) -> bool:
    """Whether a node adds two different feature maps of one shape."""
    if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
        return False
    operands = [source for source in node.all_input_nodes if source not in graph.weights]
    return len(operands) == 2 and all(shape(source) == shape(node) for source in operands)
