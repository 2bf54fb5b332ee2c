"""Gradient methods: maps from the activations A of a layer and the derivative g = dy_c / dA of a logit by them.

All of them read the call's shared passes: asked for together, they cost one forward and one backward pass.
Shapes: A (N, K, h, w), g (N, T, K, h, w). Formulas are computed in at least float32, whatever the network's precision.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Weighted, Whole, the_layers
from fastcam.network.layers import Layer
from fastcam.ops.maps import min_max_

# A, g -> what is made of them
Formula = Callable[[Tensor, Tensor], Weighted | Whole]


def channel_weighted(weights: Callable[[Tensor, Tensor], Tensor]) -> Formula:
    """The formula sum_k alpha_k A_k, alpha = weights(A, g) of shape (N, T, K) or (N, T, K, h, w)."""
    return lambda a, g: Weighted(a, weights(a, g))


def wide(x: Tensor) -> torch.dtype:
    """The dtype of formulas over x: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def mean_gradient(_: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM: 1/(h w) sum_xy g."""
    return g.mean(dim=(3, 4), dtype=wide(g))


def plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM++: sum_xy g^2 / (2 g^2 + S g^3) relu(g), S = sum_xy A; 0 where the denominator is 0.

    Where g > 0 the fraction is 1 / (2 + S g), in which no small g underflows; elsewhere relu(g) is 0.
    """
    total = a.sum(dim=(2, 3), dtype=wide(g))[:, None, :, None, None]
    positive = g.to(wide(g)).clamp(min=0)
    below = (positive * total).add_(2)
    singular = below == 0
    return positive.div_(below).masked_fill_(singular, 0).sum(dim=(3, 4))


def axiomatic(a: Tensor, g: Tensor) -> Tensor:
    """XGrad-CAM: sum_xy g A / sum_xy A; 0 where the sum is 0."""
    total = a.sum(dim=(2, 3), dtype=wide(g)).unsqueeze(1)
    return torch.where(total == 0, 0, products(a, g) / total)


def weighted_gradient(a: Tensor, g: Tensor) -> Tensor:
    """WGrad-CAM: mean_xy of g A, min-max over the channels; the mean's divisor cancels."""
    return min_max_(products(a, g).unsqueeze(2)).squeeze(2)


def absolute_gradient(_: Tensor, g: Tensor) -> Tensor:
    """Abs-CAM's initialisation: 1/(h w) sum_xy |g|."""
    total = g.abs().sum(dim=(3, 4), dtype=wide(g))
    return total / (g.shape[3] * g.shape[4])


def gradient_itself(_: Tensor, g: Tensor) -> Tensor:
    """HiResCAM: g at each position, in memory of its own."""
    return g.to(wide(g), copy=True)


def positive_gradient(_: Tensor, g: Tensor) -> Tensor:
    """LayerCAM: relu(g) at each position."""
    return g.to(wide(g)).clamp(min=0)


def norms(a: Tensor, g: Tensor) -> Whole:
    """NormGrad: |g| |A|, Euclidean norms over the channels at each position."""
    of_g = torch.linalg.vector_norm(g, dim=2, dtype=wide(g))
    return Whole(of_g * torch.linalg.vector_norm(a, dim=1, dtype=wide(g)).unsqueeze(1))


def products(a: Tensor, g: Tensor) -> Tensor:
    """sum_xy g A: (N, T, K)."""
    return torch.einsum("ntkhw,nkhw->ntk", g.to(wide(g)), a.to(wide(g)))


def _method(name: str, paper: str, formula: Formula, **more: Any) -> Method:
    def find(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
        parts = [formula(case.value(layer.node), case.gradient(layer.node)) for layer in layers]
        return Evidence(case.logits, case.targets, parts)

    return Method(
        name=name,
        family="gradient",
        paper=paper,
        find=find,
        forwards="1",
        backwards="1",
        leaves=the_layers,
        **{"relu": True, **more},
    )


GRAD_CAM = _method("grad_cam", "Selvaraju et al. 2017", channel_weighted(mean_gradient))
GRAD_CAM_PP = _method("grad_cam_pp", "Chattopadhay et al. 2018", channel_weighted(plus_plus))
XGRAD_CAM = _method("xgrad_cam", "Fu et al. 2020", channel_weighted(axiomatic))
HIRES_CAM = _method("hires_cam", "Draelos and Carin 2020", channel_weighted(gradient_itself))
LAYER_CAM = _method("layer_cam", "Jiang et al. 2021", channel_weighted(positive_gradient))
WGRAD_CAM = _method("wgrad_cam", "Zhang, Rao and Yang 2021", channel_weighted(weighted_gradient))
ABS_CAM_INIT = _method("abs_cam_init", "Zeng et al. 2022", channel_weighted(absolute_gradient))
NORM_GRAD = _method("norm_grad", "Rebuffi et al. 2019", norms, relu=False)
