"""Relevance itself, at any layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastcam.lrp.propagate import find_route, propagate
from fastcam.lrp.rules import Form
from fastcam.lrp.seeds import SEEDS
from fastcam.network.cache import Output, network_for
from fastcam.network.layers import LayerName, find_layers


def relevance(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    seed: str = "one_hot",
    precision: str | None = None,
    output: Output | None = None,
) -> Tensor | list[Tensor]:
    """Relevance R of a layer by the z+ rule (relevance-cam eq. 5-6).

    Args:
        model, images, layer, precision, output: see `fastcam.explain`.
        targets: classes (N, T).
        seed: "one_hot" (z_t at the target), "clrp" (eq. 7) or "sglrp" (the softmax's gradient times its outputs).

    Returns:
        R (N, T, K, h, w), signed; a list for a list of layers.
    """
    if seed not in SEEDS:
        raise ValueError(f"seed: {seed!r} given, one of {', '.join(map(repr, SEEDS))} is valid")
    with torch.inference_mode(False), torch.no_grad():
        network = network_for(model, images, precision=precision, output=output)
        nodes = [found.node for found in find_layers(network.graph, model, layer)]
        route = network.once(("route", *nodes), lambda: find_route(network, nodes))
        _, _, found = propagate(network, route, images, nodes, lambda logits: SEEDS[seed](logits, targets), _relevance)
    return found if isinstance(layer, list | tuple) else found[0]


def _relevance(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """R = t G: (T, N, K, h, w) -> (N, T, K, h, w), in memory of its own."""
    return (signal.clone() if form is Form.R else signal * activation).transpose(0, 1)
