"""Relevance itself, at any layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastcam.lrp.propagate import find_route, propagate
from fastcam.lrp.rule import Form
from fastcam.network.arguments import (
    DeferredChecks,
    Targets,
    check_choice,
    check_images,
    check_model,
    resolve_targets,
)
from fastcam.network.cache import Output, network_for
from fastcam.network.layers import LayerName, find_layers
from fastcam.ops.seeds import SEEDS


def relevance(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    seed: str = "one_hot",
    precision: str | None = None,
    output: Output | None = None,
) -> Tensor | list[Tensor]:
    """Relevance R of a layer by the z+ rule (relevance-cam eq. 5-6).

    Args:
        model, images, targets, layer, precision, output: see `fastcam.explain`.
        seed: "one_hot" (z_t at the target), "clrp" (eq. 7) or "sglrp" (the softmax's gradient times its outputs).

    Returns:
        R (N, K, h, w), signed, (N, T, K, h, w) for targets (N, T); a list for a list of layers.

    Raises:
        ValueError, TypeError: as `fastcam.explain`.
    """
    check_choice("seed", seed, tuple(SEEDS))
    model, checks = check_model(model), DeferredChecks()
    several = [False]

    def resolve(logits: Tensor) -> Tensor:
        resolved, several[0] = resolve_targets(targets, logits, checks)
        return resolved

    with torch.inference_mode(False), torch.no_grad():
        images = check_images(images, checks)
        network = network_for(model, images, precision=precision, output=output)
        nodes = [found.node for found in find_layers(network.graph, model, layer)]
        route = find_route(network, nodes)
        _, _, found = propagate(network, route, images, nodes, resolve, seed, _relevance)
        checks.settle()
    found = found if several[0] else [r.squeeze(1) for r in found]
    return found if isinstance(layer, list | tuple) else found[0]


def _relevance(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """R = t G: (T, N, K, h, w) -> (N, T, K, h, w), in memory of its own."""
    return (signal.clone() if form is Form.R else signal * activation).transpose(0, 1)
