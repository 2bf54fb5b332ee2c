"""Relevance methods: channel weights from layer-wise relevance propagation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcam.lrp import seeds
from fastcam.lrp.propagate import find_route, propagate
from fastcam.lrp.rules import Form
from fastcam.methods.method import Evidence, Method, Resolve
from fastcam.network.layers import Layer
from fastcam.network.network import Network


def _relevance_cam(
    network: Network, images: Tensor, layers: Sequence[Layer], resolve: Resolve, _: Mapping[str, Any]
) -> Evidence:
    nodes = [layer.node for layer in layers]
    route = network.once(("route", *nodes), lambda: find_route(network, nodes))
    found: list[Tensor] = []

    def seed(logits: Tensor) -> Tensor:
        found.append(resolve(logits))
        return seeds.clrp(logits, found[0])

    logits, values, weights = propagate(network, route, images, nodes, seed, _channel_sum)
    return Evidence(logits, found[0], [values[node] for node in nodes], weights)


def _channel_sum(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """alpha_k = sum_xy R_k(x, y), R = A G (relevance-cam eq. 9): (T, N, K, h, w) -> (N, T, K)."""
    relevance = signal if form is Form.R else signal * activation
    wide = torch.promote_types(relevance.dtype, torch.float32)
    return relevance.sum(dim=(3, 4), dtype=wide).transpose(0, 1)


RELEVANCE_CAM = Method(name="relevance_cam", relu=False, find=_relevance_cam)
