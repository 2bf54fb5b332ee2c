"""Gradients at the images themselves: plain, with other rules for rectifiers, and with those of the biases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fastcam.attribution.case import Case, Pass
from fastcam.attribution.method import Evidence, Method, Options, Whole
from fastcam.network.graph import aten, is_feature_map
from fastcam.network.layers import Layer
from fastcam.network.network import Network
from fastcam.network.plan import Operations
from fastcam.network.units import Unit, find_units, is_foldable
from fastcam.ops.maps import min_max_, upsample


def _images(network: Network, _: Sequence[Layer]) -> tuple[fx.Node, ...]:
    return (network.graph.images,)


def _largest(g: Tensor) -> Tensor:
    """max_c |g_c|: (N, T, C, H, W) -> (N, T, H, W)."""
    # Not torch's vector norm, which takes fifty times as long on a CPU.
    return g.abs().amax(dim=2)


def _gradient(case: Case, _: Sequence[Layer], __: Options) -> Evidence:
    return Evidence(case.logits, case.targets, [Whole(_largest(case.gradient(case.network.graph.images)))])


# -- other rules for rectifiers


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), top), with a derivative that lets positive gradients alone pass.

    guided: where x is not clipped; else everywhere, whatever x is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None, guided: bool) -> Tensor:
        y = torch.relu(x) if top is None else x.clamp(0, top)
        ctx.top = top
        if guided:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (g,) = gradients
        if not ctx.saved_tensors:
            return g.clamp(min=0), None, None
        (y,) = ctx.saved_tensors
        # where 0 < y < top
        passed = aten.threshold_backward(g, y, 0) if ctx.top is None else aten.hardtanh_backward(g, y, 0, ctx.top)
        return passed.clamp_(min=0), None, None


# Operations that clip from 0 on, or may: their bounds where a call leaves them out.
_CLIPS: Mapping[Any, tuple[float | None, float | None]] = {
    aten.relu.default: (0, None),
    aten.relu6.default: (0, 6),
    aten.hardtanh.default: (-1, 1),
    aten.clamp.default: (None, None),
    aten.clamp_min.default: (None, None),
}


def _rectifiers(*, guided: bool) -> Operations:
    """All rectifiers with the derivative of `_Rectify`; what clips elsewhere than from 0 on keeps its own."""

    def rectifier(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, *bounds: float | None) -> Tensor:
            low, high = (*bounds, *_CLIPS[operation][len(bounds) :])
            y: Tensor = operation(x, *bounds) if low != 0 else _Rectify.apply(x, high, guided)
            return y

        return run

    return {operation: rectifier(operation) for operation in _CLIPS}


def _rectified(case: Case, _: Sequence[Layer], __: Options, *, rules: Operations) -> Evidence:
    images = case.network.graph.images
    run = Pass(case.network, case.images, (), (images,), rules)
    targets = case.resolve(run.logits)
    return Evidence(run.logits, targets, [Whole(_largest(run.gradients(targets)[images]))])


# -- the biases' gradients


@dataclass(frozen=True, eq=False)
class Biased:
    """A feature map to each of whose channels a bias was added: by a convolution, a batch norm, or both."""

    node: fx.Node
    by: Unit | None

    def bias(self, network: Network) -> Tensor:
        """(K,)."""
        if self.by is None:
            return network.weights.implied_bias(self.node)
        bias = network.weights.affine(self.by).bias
        assert bias is not None
        return bias


def biased_maps(network: Network) -> list[Biased]:
    """All of a network's feature maps behind a bias, once each.

    A convolution and the batch norm behind it are one affine operation, with one bias at its end.
    """
    return network.once(("biased maps",), lambda: _biased_maps(network))


def _biased_maps(network: Network) -> list[Biased]:
    graph = network.graph
    units = [unit for unit in find_units(graph).values() if unit.geometry is not None]
    biased = {unit.norm or unit.layer: unit for unit in units if unit.norm is not None or unit.bias is not None}
    return [
        Biased(node, biased.get(node))
        for node in graph.nodes
        if node in graph.used and is_feature_map(graph, node) and (node in biased or is_foldable(node, graph))
    ]


def _images_and_biases(network: Network, _: Sequence[Layer]) -> tuple[fx.Node, ...]:
    return (network.graph.images, *(biased.node for biased in biased_maps(network)))


def _full_grad(case: Case, _: Sequence[Layer], __: Options) -> Evidence:
    """sum_c minmax(|x_c g_c|) + sum over maps and channels with a bias of minmax(|b_c g_c|), upsampled.

    min-max takes |b_c| out of the second term: a channel counts wherever its bias is not 0.
    """
    network, images = case.network, case.network.graph.images
    x = case.value(images)
    size = (x.shape[2], x.shape[3])
    found = _magnitude(case.gradient(images)).mul_(x.unsqueeze(1).abs())
    total = min_max_(found).sum(dim=2)
    for biased in biased_maps(network):
        counts = (biased.bias(network) != 0).to(total.dtype)
        maps = min_max_(_magnitude(case.gradient(biased.node)))
        # Upsampling is linear: the sum is taken before it.
        total += upsample(torch.einsum("ntkhw,k->nthw", maps, counts), size)
    return Evidence(case.logits, case.targets, [Whole(total)])


def _magnitude(g: Tensor) -> Tensor:
    """|g| in at least float32, in memory of its own."""
    return g.to(torch.promote_types(g.dtype, torch.float32)).abs()


def _method(name: str, paper: str, find: Any, leaves: Any = None) -> Method:
    shared = {} if leaves is None else {"leaves": leaves}
    return Method(
        name=name,
        family="gradient",
        paper=paper,
        find=find,
        relu=False,
        forwards="1",
        backwards="1",
        layer="none",
        **shared,
    )


GRADIENT = _method("gradient", "Simonyan et al. 2013", _gradient, _images)
GUIDED_BACKPROP = _method(
    "guided_backprop", "Springenberg et al. 2014", partial(_rectified, rules=_rectifiers(guided=True))
)
DECONVNET = _method("deconvnet", "Zeiler and Fergus 2013", partial(_rectified, rules=_rectifiers(guided=False)))
FULL_GRAD = _method("full_grad", "Srinivas and Fleuret 2019", _full_grad, _images_and_biases)
