"""Methods that need a forward pass alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fastcam.methods.method import Evidence, Method, Resolve
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


def _cam(network: Network, images: Tensor, layers: Sequence[Layer], resolve: Resolve, _: Mapping[str, Any]) -> Evidence:
    linears = [_classifier(network, layer) for layer in layers]
    nodes = [layer.node for layer in layers]
    logits, values = network.forward(images, nodes)
    targets = resolve(logits)
    wide = torch.promote_types(logits.dtype, torch.float32)
    # alpha_k = w_ck: the classifier's weight from channel k to class c
    weights = [network.weights.value(linear)[targets].to(wide) for linear in linears]
    return Evidence(logits, targets, [values[node] for node in nodes], weights)


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


CAM = Method(name="cam", relu=True, find=_cam)
