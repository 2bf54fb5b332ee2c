"""Functions of the relevance family: propagation by rules that take relevance apart, shift it, add to it."""

from typing import Unpack

from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def agf(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    first: str = "zB",
    pixel_range: object = None,
    **common: Unpack[Common],
) -> Result:
    """Attribution guided factorisation (Gur et al. 2021): sum_k R_k(x, y), signed.

    R starts at the last layer's input as x ds/dx, with s = softmax(y_t exp(-((y - y_t) / sigma)^2 / 2))_t. Each
    convolution shares it by |x| |w| and adds, centred, what its inputs, their gradients and their factorisation into
    two clusters of positions tell; `fastcam.propagation.agf` has the formulas. The clusters are told by the signs of
    sums that may nearly cancel. Where 16 bits turn some, the map is another one: with real weights most maps correlate
    with float32's at 0.95 and more, but some at 0.5 or less, in either precision (given float32's clusters, at 0.99).

    Args:
        model, images, targets, common: see `fastcam.explain`.
        layer: None and "input" are the images; else see `fastcam.explain`.
        first: rule of the first layers, where relevance passes them: "zB", "flat", "w2" or "z+".
        pixel_range: (low, high) of the images' values for z^B, see `fastcam.propagation.relevance`.

    Raises ValueError where the logits are not made by one layer alone, for images outside `pixel_range`, and where an
    operation on the way has no rule.
    """
    return explain(model, images, targets, layer, method="agf", first=first, pixel_range=pixel_range, **common)


def rap(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    first: str = "zB",
    pixel_range: object = None,
    **common: Unpack[Common],
) -> Result:
    """Relative attributing propagation (Nam et al. 2020): sum_k R_k(x, y), signed.

    R starts with z_t at the target. Activators and inhibitors of a unit both get relevance by their magnitudes, and a
    uniform shift keeps the total, so that units that matter little turn negative; `fastcam.propagation.rap` has the
    formulas.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        layer: None and "input" are the images; else see `fastcam.explain`.
        first: rule of the first layers, where relevance passes them: "zB", "flat", "w2" or "z+".
        pixel_range: (low, high) of the images' values for z^B, see `fastcam.propagation.relevance`.

    Raises ValueError for images outside `pixel_range`, and where an operation on the way has no rule.
    """
    return explain(model, images, targets, layer, method="rap", first=first, pixel_range=pixel_range, **common)


def rsp(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    first: str = "zB",
    pixel_range: object = None,
    **common: Unpack[Common],
) -> Result:
    """Relative sectional propagation (Nam et al. 2021): sum_k R_k(x, y) at the images, signed.

    R starts at `layer` with A_k mean_xy(dy_c / dA_k) as a share of its maximum. Its positive and its negative part go
    down apart, through weights that each makes of itself; `fastcam.propagation.rsp` has the formulas.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        layer: where relevance starts, see `fastcam.explain`; the map is at the images whatever the layer.
        first: rule of the first layers: "zB", "flat", "w2" or "z+".
        pixel_range: (low, high) of the images' values for z^B, see `fastcam.propagation.relevance`.

    Raises ValueError for images outside `pixel_range`, and where an operation before `layer` has no rule.
    """
    return explain(model, images, targets, layer, method="rsp", first=first, pixel_range=pixel_range, **common)
