"""Selectivity: which channels a method weighs most, and what these channels show."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.metrics.batch import Batch
from fastcam.metrics.given import check_float
from fastcam.network.arguments import Size, check_model, resolve_size
from fastcam.network.cache import Output
from fastcam.network.layers import LayerName, find_layers
from fastcam.ops.maps import upsample


@dataclass(frozen=True, eq=False)
class Selectivity:
    """A method's channel weights and the channels that they favour; (N, ...) or, for several targets, (N, T, ...).

    weights: alpha, (..., K). scaled: alpha / max |alpha|, in [-1, 1], on one scale for all methods; zeros stay.
    channels: the k channels of the largest weights, largest first, (..., k), int64; of equals the first comes first.
    maps: alpha_k A_k of these channels, (..., k, H, W), raw.
    """

    weights: Tensor
    scaled: Tensor
    channels: Tensor
    maps: Tensor


def selectivity(
    model: nn.Module,
    images: Tensor,
    weights: Tensor,
    layer: LayerName,
    *,
    top: int = 3,
    size: Size = "input",
    precision: str | None = None,
    output: Output | None = None,
) -> Selectivity:
    """The channel weights of a method at a layer, and the `top` most weighted activation maps.

    Weights come from `fastcam.explain(..., layer=layer, return_info=True)`; by the name of a method:
    `fastcam.evaluation.selectivity.selectivity`. The layer's activation costs one forward pass.

    Args:
        model: the classifier.
        images: float (N, C, H, W), preprocessed as the model expects.
        weights: `Explanation.weights` at that layer, (N, K) or (N, T, K).
        layer: a module's dotted name, a module, or None for the last feature map.
        top: how many channels.
        size: of their maps: "input", "layer" or (height, width); upsampled bilinearly.
        precision, output: as in `fastcam.explain`.

    Raises:
        ValueError, TypeError: for an argument that is not valid.

    Source: Lee et al., Relevance-CAM, CVPR 2021, section 4.2 and figure 4.
    """
    batch = Batch(model, images, precision=precision, output=output)
    (found,) = find_layers(batch.network.graph, check_model(model), layer)
    with torch.inference_mode(False), torch.no_grad():
        activation = batch.network.forward(batch.images, [found.node])[1][found.node]
    height, width = resolve_size(size, images, activation.shape[2:])
    result = most_weighted(activation, weights, top=top, size=(height, width))
    batch.settle()
    return result


def most_weighted(activations: Tensor, weights: Tensor, *, top: int = 3, size: tuple[int, int]) -> Selectivity:
    """`selectivity` of activations A (N, K, h, w) and weights alpha (N, K) or (N, T, K) that are at hand."""
    several = _check_weights(activations, weights, top)
    number = torch.promote_types(torch.promote_types(weights.dtype, activations.dtype), torch.float32)
    alpha = weights.detach().to(number)
    spread = alpha if several else alpha.unsqueeze(1)
    ordered, order = spread.sort(dim=2, descending=True, stable=True)
    channels, strengths = order[..., :top], ordered[..., :top]
    image = torch.arange(len(alpha), device=alpha.device).view(-1, 1, 1)
    weighted = activations.detach()[image, channels].to(number) * strengths[..., None, None]
    maps = upsample(weighted.flatten(1, 2), size).view(*channels.shape, *size)
    largest = alpha.abs().amax(dim=-1, keepdim=True)
    scaled = alpha / torch.where(largest > 0, largest, 1)
    if not several:
        channels, maps = channels.squeeze(1), maps.squeeze(1)
    return Selectivity(weights=alpha, scaled=scaled, channels=channels, maps=maps)


def _check_weights(activations: Tensor, weights: object, top: object) -> bool:
    """Whether there are weights for several targets per image."""
    hint = "; the method's map is no weighted sum of channels" if weights is None else ""
    weights = check_float("weights", weights, "a float tensor (N, K) or (N, T, K)", hint)
    images, channels = activations.shape[:2]
    fits = weights.dim() in (2, 3) and (len(weights), weights.shape[-1]) == (images, channels)
    if not fits or weights.numel() == 0:
        hint = "; weights per position are not one number per channel" if weights.dim() > 3 else ""
        raise ValueError(
            f"weights: shape {tuple(weights.shape)} given, ({images}, {channels}) or ({images}, T, {channels}) is "
            f"valid at this layer{hint}"
        )
    if weights.device != activations.device:
        raise ValueError(f"weights: on {weights.device}, but the images are on {activations.device}; move one of them")
    if isinstance(top, bool) or not isinstance(top, int):
        raise TypeError(f"top: {top!r} given, an integer is valid")
    if not 1 <= top <= channels:
        raise ValueError(f"top: {top} given, 1 to {channels} is valid for the layer's {channels} channels")
    return weights.dim() == 3
