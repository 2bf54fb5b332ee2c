"""What the adapters share: one of fastcam's methods at layers, at their own resolution, not normalised."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fastcam.attribution.activation import first_component
from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.method import Method, Weighted, Whole
from fastcam.attribution.registry import METHODS
from fastcam.network.arguments import DeferredChecks, Targets
from fastcam.network.network import Network, View


class _Explainer(Explainer):
    """With what the other packages' call forms ask for beyond `fastcam.explain`.

    view: a function of the logits, whose columns are explained in place of classes.
    projected: maps are the first principal component of the weighted channels in place of their sum.
    logits: of the last images.
    """

    view: View | None = None
    projected = False
    logits: Tensor | None = None

    def network(self, images: Tensor, checks: DeferredChecks | None = None) -> Network:
        network = super().network(images, checks)
        self.logits = None
        return network if self.view is None else network.through(self._viewed)

    def _viewed(self, logits: Tensor) -> Tensor:
        assert self.view is not None
        if self.logits is None:
            # Every method begins with the images themselves, which decide the targets.
            self.logits = logits.detach()
        return self.view(logits)

    def overflow(self) -> str:
        if self.logits is not None and self.logits.isfinite().all():
            return "targets: values for these images are NaN or infinite"
        return super().overflow()

    def map(self, method: Method, part: Weighted | Whole, images: Tensor) -> Tensor:
        return super().map(method, _projected(part) if self.projected else part, images)


def _projected(part: Weighted | Whole) -> Weighted | Whole:
    """The first principal component of alpha_k A_k over the positions; a map of its own stays."""
    if isinstance(part, Whole):
        return part
    weights = part.weights if part.weights.dim() == 5 else part.weights[..., None, None]
    products = weights * part.activation.unsqueeze(1)
    return Whole(first_component(products.flatten(0, 1)).view(*products.shape[:2], *products.shape[3:]))


def raw_maps(
    model: nn.Module,
    images: Tensor,
    targets: Targets,
    layers: Sequence[nn.Module | str] | None,
    *,
    method: str,
    view: View | None = None,
    projected: bool = False,
    relu: bool | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Maps (N, h, w), one per layer, and the logits (N, classes).

    layers: None is the method's default, also for methods that explain the images. view, projected: see `_Explainer`;
    with a view, targets are its columns. relu: whether maps are cut at 0; None is as the method has it.
    """
    layer = None if layers is None else list(layers)
    explainer = _Explainer(model, method=method, layer=layer, size="layer", normalize=False, **(options or {}))
    explainer.view, explainer.projected = view, projected
    if relu is not None:
        explainer.chosen = [replace(c, method=replace(c.method, relu=relu)) for c in explainer.chosen]
    found: Explanation = explainer(images, targets, return_info=True)
    maps = found.maps if isinstance(found.maps, list) else [found.maps]
    logits = found.logits if explainer.logits is None else explainer.logits
    return maps, logits.to(found.logits.dtype)


def explains_images(method: str) -> bool:
    """Whether a method takes no layer."""
    return METHODS[method].layer == "none"
