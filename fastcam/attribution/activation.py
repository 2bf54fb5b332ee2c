"""Methods that need a forward pass alone."""

from collections.abc import Sequence

import torch
from torch import fx

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.network.graph import aten, shape
from fastcam.network.layers import Layer
from fastcam.network.network import Network

_POOLS = {aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim}
_MOVES = {
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}


def _cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    linears = [_classifier(case.network, layer) for layer in layers]
    wide = torch.promote_types(case.logits.dtype, torch.float32)
    # alpha_k = w_ck: the classifier's weight from channel k to class c
    weights = [case.network.weights.value(linear)[case.targets].to(wide) for linear in linears]
    parts = [Weighted(case.value(layer.node), alpha) for layer, alpha in zip(layers, weights, strict=True)]
    return Evidence(case.logits, case.targets, parts)


def _classifier(network: Network, layer: Layer) -> fx.Node:
    """The weight of the linear layer that reads the globally pooled `layer`, and nothing but it."""
    found, pooled = layer.node, False
    while True:
        readers = [user for user in found.users if user in network.graph.ancestors([network.graph.logits])]
        if len(readers) != 1:
            raise ValueError(_message(layer, f"{len(readers)} operations read it"))
        found = readers[0]
        if found.target in _POOLS and not pooled and _is_one_position(found):
            pooled = True
        elif found.target is aten.linear.default and pooled and found is network.graph.logits:
            (weight,) = [node for node in found.all_input_nodes[1:2] if node in network.graph.weights]
            if shape(weight)[1] == shape(layer.node)[1]:
                return weight
            raise ValueError(_message(layer, "the linear layer behind it reads more than its channels"))
        elif found.target not in _MOVES:
            raise ValueError(_message(layer, f"{found.target} stands between it and the logits"))


def _is_one_position(node: fx.Node) -> bool:
    size = shape(node)
    return len(size) == 2 or size[2:] == (1, 1)


def _message(layer: Layer, why: str) -> str:
    return (
        "method: cam needs a layer with global average pooling and one linear layer behind it; behind "
        f"{layer.name!r}, {why}; use grad_cam, which gives the same map where cam is defined"
    )


CAM = Method(name="cam", family="activation", paper="Zhou et al. 2016", find=_cam, relu=True, forwards="1")
