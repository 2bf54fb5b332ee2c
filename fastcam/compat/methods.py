"""What the adapters share: one of fastcam's methods at layers, at their own resolution, not normalised."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.registry import METHODS
from fastcam.network.arguments import Targets
from fastcam.network.cache import Output


def raw_maps(
    model: nn.Module,
    images: Tensor,
    targets: Targets,
    layers: Sequence[nn.Module | str] | None,
    *,
    method: str,
    output: Output | None = None,
    relu: bool | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[list[Tensor], Explanation]:
    """Maps (N, h, w), one per layer, and all that was found with them.

    layers: None is the method's default, also for methods that explain the images. relu: whether maps are cut at 0;
    None is as the method has it.
    """
    layer = None if layers is None else list(layers)
    explainer = Explainer(
        model, method=method, layer=layer, size="layer", normalize=False, output=output, **(options or {})
    )
    if relu is not None:
        explainer.chosen = [replace(c, method=replace(c.method, relu=relu)) for c in explainer.chosen]
    found: Explanation = explainer(images, targets, return_info=True)
    return found.maps if isinstance(found.maps, list) else [found.maps], found


def explains_images(method: str) -> bool:
    """Whether a method takes no layer."""
    return METHODS[method].layer == "none"
