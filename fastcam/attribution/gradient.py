"""Gradient methods: channel weights from the derivative g = dy_c / dA of a logit by the activations A."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.network.layers import Layer
from fastcam.network.network import Network


def _layers(network: Network, layers: Sequence[Layer]) -> tuple[fx.Node, ...]:
    return tuple(layer.node for layer in layers)


def _grad_cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    parts = [Weighted(case.value(layer.node), _mean(case.gradient(layer.node))) for layer in layers]
    return Evidence(case.logits, case.targets, parts)


def _mean(g: Tensor) -> Tensor:
    """alpha_k = 1/(h w) sum_xy g_k: (N, T, K, h, w) -> (N, T, K)."""
    return g.mean(dim=(3, 4), dtype=torch.promote_types(g.dtype, torch.float32))


GRAD_CAM = Method(
    name="grad_cam",
    family="gradient",
    paper="Selvaraju et al. 2017",
    find=_grad_cam,
    relu=True,
    forwards="1",
    backwards="1",
    leaves=_layers,
)
