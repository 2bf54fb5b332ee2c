"""Relevance itself, at the images or at any layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fastcam.network.arguments import (
    DeferredChecks,
    Targets,
    check_choice,
    check_images,
    check_model,
    resolve_targets,
)
from fastcam.network.cache import Output, network_for
from fastcam.network.graph import Graph
from fastcam.network.layers import Layer, LayerName, find_layers, label
from fastcam.ops.seeds import SEEDS
from fastcam.propagation.composites import composite
from fastcam.propagation.pixels import Box
from fastcam.propagation.propagate import Lost, Route, find_route, propagate
from fastcam.propagation.rule import Form

# A tensor; a list of them for a list of layers; a `Relevance` with return_info=True.
Result: TypeAlias = Any

INPUT = "input"
# Pixels may be this share of the range beyond it: what rounding makes of a black or a white one.
_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance with what was computed on the way, and where it was lost.

    relevance: (N, K, h, w), or (N, T, K, h, w) where targets were (N, T); a list for a list of layers.
    logits: (N, classes). targets: (N,) or (N, T), the classes explained.
    layer: the name of the layer, or the list of names.
    seed: the sum of the relevance that the logits started with, (N,) or (N, T).
    total: the sum of the relevance at the layer, (N,) or (N, T); a list for a list of layers.
    lost: per operation, from the logits down, the relevance that came to it minus what it sent on, (N,) or (N, T): to
        biases, dead units and denominators of 0 (or, below 0, gained). Named as `layer` takes names: an operation by
        the module that returned its result, a convolution with what is fused into it by the last of them. On the way
        to one layer, seed = total + the sum of all that was lost.
    """

    relevance: Tensor | list[Tensor]
    logits: Tensor
    targets: Tensor
    layer: str | list[str]
    seed: Tensor
    total: Tensor | list[Tensor]
    lost: Mapping[str, Tensor]


def relevance(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    rule: str = "z+",
    seed: str = "one_hot",
    epsilon: float | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    first: str | None = None,
    pixel_range: object = None,
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
) -> Result:
    """Relevance R of the images or of a layer, by layer-wise relevance propagation (Bach et al. 2015).

    Args:
        model, images, targets, precision, output: see `fastcam.explain`.
        layer: see `fastcam.explain`; "input" is the images.
        rule: "z+" (relevance-cam eq. 5-6), "epsilon", "gamma", "alpha_beta", or a composite of several:
            "epsilon_plus" (z+ in convolutions, epsilon in linear layers), "epsilon_plus_flat" (and flat in the first
            layer), "epsilon_gamma_box" (z^B in the first layer, gamma in convolutions, epsilon in linear layers).
        seed: what the logits start with: "one_hot" (z_t at the target), "clrp" (eq. 7), "sglrp" (the softmax's gradient
            times its outputs) or "probability" (p_t at the target).
        epsilon: of the epsilon rule, above 0; 1e-6 unless given.
        gamma: of the gamma rule, at least 0; 0.25 unless given.
        alpha, beta: of the alpha-beta rule, at least 0, alpha - beta = 1; 2 and 1 unless given.
        first: the rule of the first layers, where relevance passes them: "zB", "flat", "w2" or "z+"; None: the
            composite's own, for z+ that is z^B.
        pixel_range: (low, high) for z^B: the values that pixels can have, numbers or one per channel; None: [0, 1] as
            ImageNet's mean and standard deviation leave it, for images of three channels.
        return_info: return a `Relevance`: with logits, targets, and what was lost where.

    Returns:
        R (N, K, h, w), signed, (N, T, K, h, w) for targets (N, T); a list for a list of layers.

    Raises:
        ValueError, TypeError: as `fastcam.explain`; for options that the rule has no use for; for images out of
            `pixel_range`; for an operation without a rule, which is named.
    """
    check_choice("seed", seed, tuple(SEEDS))
    rules = composite(rule, epsilon=epsilon, gamma=gamma, alpha=alpha, beta=beta, first=first, pixel_range=pixel_range)
    model, checks = check_model(model), DeferredChecks()
    several, resolved = [False], []

    def resolve(logits: Tensor) -> Tensor:
        found, several[0] = resolve_targets(targets, logits, checks)
        resolved.append(found)
        return found

    lost: Lost | None = {} if return_info else None
    with torch.inference_mode(False), torch.no_grad():
        images = check_images(images, checks)
        network = network_for(model, images, precision=precision, output=output, checks=checks)
        layers = find_targets(network.graph, model, layer)
        nodes = [found.node for found in layers]
        route = find_route(network, nodes, rules)
        check_pixels(route, images, checks)
        logits, _, found = propagate(network, route, images, nodes, resolve, seed, _relevance, lost)
        checks.settle()
    as_list = isinstance(layer, list | tuple)

    def shaped(tensor: Tensor) -> Tensor:
        return tensor if several[0] else tensor.squeeze(1)

    def listed(tensors: list[Tensor]) -> Tensor | list[Tensor]:
        return [shaped(t) for t in tensors] if as_list else shaped(tensors[0])

    if lost is None:
        return listed(found)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    names = [place.name for place in layers]
    return Relevance(
        relevance=listed(found),
        logits=wide,
        targets=shaped(resolved[0]),
        layer=names if as_list else names[0],
        seed=shaped(SEEDS[seed](wide, resolved[0]).sum(dim=2)),
        total=listed([r.sum(dim=(2, 3, 4), dtype=torch.promote_types(r.dtype, torch.float32)) for r in found]),
        lost={name: shaped(amount) for name, amount in by_label(lost, network.graph).items()},
    )


def find_targets(graph: Graph, model: nn.Module, layers: LayerName | Sequence[LayerName]) -> list[Layer]:
    """`fastcam.network.layers.find_layers`, with "input" for the images unless a module has that name."""

    def one(name: LayerName) -> Layer:
        if isinstance(name, str) and name == INPUT and INPUT not in dict(model.named_modules()):
            return Layer(INPUT, graph.images)
        return find_layers(graph, model, name)[0]

    if isinstance(layers, Sequence) and not isinstance(layers, str) and layers:
        return [one(name) for name in layers]
    return (
        [one(layers)]
        if not isinstance(layers, Sequence) or isinstance(layers, str)
        else find_layers(graph, model, layers)
    )


def by_label(lost: Lost, graph: Graph) -> dict[str, Tensor]:
    """What each operation on the way lost, by its name."""
    return {label(graph, node): amount for node, amount in lost.items()}


def check_pixels(route: Route, images: Tensor, checks: DeferredChecks) -> None:
    """Check, with the other checks of values, that images lie in the range of the z^B rule, if the route has one."""
    boxes = {rule.forward for rule in route.rules.values() if isinstance(rule.forward, Box)}
    for box in boxes:
        low, high = (side.to(images) for side in box.images(images.shape[1]))
        margin = _TOLERANCE * (high - low)
        outside = (images < low - margin) | (images > high + margin)

        def explain(low: Tensor = low, high: Tensor = high) -> str:
            return (
                f"images: values from {float(images.min()):.4g} to {float(images.max()):.4g} given, outside the "
                f"pixel_range {_shown(low)} to {_shown(high)} of the first layer's z^B rule; pass pixel_range=(low, "
                "high) as your images are normalised, or another first-layer rule (first='flat')"
            )

        checks.add(outside.any(), explain)


def _shown(side: Tensor) -> str:
    values = side.flatten().tolist()
    return f"{values[0]:.4g}" if len(set(values)) == 1 else "(" + ", ".join(f"{v:.4g}" for v in values) + ")"


def _relevance(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """R = t G: (T, N, K, h, w) -> (N, T, K, h, w), in memory of its own."""
    return (signal.clone() if form is Form.R else signal * activation).transpose(0, 1)
