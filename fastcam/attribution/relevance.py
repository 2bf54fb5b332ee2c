"""Relevance methods: channel weights from layer-wise relevance propagation."""

from collections.abc import Sequence

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.lrp.propagate import find_route, propagate
from fastcam.network.layers import Layer


def _relevance_cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    nodes = [layer.node for layer in layers]
    route = find_route(case.network, nodes)
    logits, values, weights = propagate(case.network, route, case.images, nodes, case.resolve, "clrp")
    parts = [Weighted(values[node], alpha) for node, alpha in zip(nodes, weights, strict=True)]
    return Evidence(logits, case.resolve(logits), parts)


RELEVANCE_CAM = Method(
    name="relevance_cam",
    family="relevance",
    paper="Lee et al. 2021",
    find=_relevance_cam,
    relu=False,
    forwards="1",
    backwards="1",
)
