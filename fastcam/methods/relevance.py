"""Relevance methods: channel weights from layer-wise relevance propagation."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastcam.lrp.propagate import find_route, propagate
from fastcam.methods.method import Evidence, Method, Resolve
from fastcam.network.layers import Layer
from fastcam.network.network import Network


def _relevance_cam(
    network: Network, images: Tensor, layers: Sequence[Layer], resolve: Resolve, _: Mapping[str, Any]
) -> Evidence:
    nodes = [layer.node for layer in layers]
    route = find_route(network, nodes)
    found: list[Tensor] = []

    def targets(logits: Tensor) -> Tensor:
        found.append(resolve(logits))
        return found[0]

    logits, values, weights = propagate(network, route, images, nodes, targets, "clrp")
    return Evidence(logits, found[0], [values[node] for node in nodes], weights)


RELEVANCE_CAM = Method(name="relevance_cam", relu=False, find=_relevance_cam)
