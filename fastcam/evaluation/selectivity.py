"""`fastcam.metrics.selectivity`, for methods by name."""

from typing import Any

from torch import Tensor, nn

from fastcam.attribution import Explanation
from fastcam.attribution.functions.common import explain
from fastcam.evaluation.checks import check_single
from fastcam.metrics.selectivity import Selectivity
from fastcam.metrics.selectivity import selectivity as of_weights
from fastcam.network.arguments import Size, Targets
from fastcam.network.cache import Output
from fastcam.network.layers import LayerName


def selectivity(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName = None,
    *,
    method: str = "relevance_cam",
    top: int = 3,
    size: Size = "input",
    precision: str | None = None,
    output: Output | None = None,
    **options: Any,
) -> Selectivity:
    """A method's channel weights at a layer, and the `top` most weighted activation maps.

    Args:
        model, images, targets, layer, precision, output, options: as in `fastcam.explain`; one layer.
        method: the name of a method whose map is a weighted sum of channels.
        top, size: see `fastcam.metrics.selectivity.selectivity`.

    Raises:
        ValueError, TypeError: for an argument that is not valid.
    """
    check_single(method, layer)
    info = explain(
        model,
        images,
        targets,
        layer,
        method=method,
        size="layer",
        precision=precision,
        output=output,
        return_info=True,
        **options,
    )
    assert isinstance(info, Explanation)
    if not isinstance(info.weights, Tensor):
        raise ValueError(f"method: {method!r} given, but its maps are no weighted sums of channels; grad_cam's are")
    return of_weights(
        model, images, info.weights, info.layer[0] if isinstance(info.layer, list) else info.layer,
        top=top, size=size, precision=precision, output=output,
    )  # fmt: skip
