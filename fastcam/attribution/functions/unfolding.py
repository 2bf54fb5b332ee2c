"""UCAG, which wraps the methods of all families."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Layers
from fastcam.attribution.unfolding import Ucag
from fastcam.network.arguments import Targets


def ucag(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    method: str | Sequence[str] = "grad_cam",
    patches: int = 6,
    crop: int | tuple[int, int] | None = None,
    scale: float = 2.6,
    batch_size: int | None = None,
    return_info: bool = False,
    **settings: Any,
) -> Result:
    """UCAG (Hong et al. 2023, "Towards Better Visualizing the Decision Basis of Networks via Unfold and Conquer").

    U(y, x) = sum_m s_m E_m(y, x) / D(y, x) over the patches m that cover the pixel, D of them (eq. 5-6). A patch is a
    crop of the image, enlarged bicubically; E_m is what `method` finds in it for the class, neither clipped nor
    normalised, resized to the crop; s_m = exp(p_c(patch m)) (eq. 4). The class is that of the whole image. U is then
    clipped and normalised as the method has it: at 0 and by min-max for CAM methods; relevance stays signed.

    Args:
        model, images, targets, layer: see `fastcam.explain`.
        method: any of `fastcam.methods()`, or a list of them, which then share the patches' passes: a dict of results.
        patches: along each axis; patches ** 2 in all, at offsets round(linspace(0, H - crop, patches)).
        crop: side of the patches in pixels of the image, or (height, width). None: 124/224 of each side, rounded.
        scale: a patch is enlarged to round(crop * scale); 322 for the default crop of images of 224.
        batch_size: patches per forward pass, of all images together; no more are held in memory at a time. Methods
            with a batch size of their own (the score family) get it too. None: as many as make 8 images of 224 x 224
            on a CPU, 128 elsewhere.
        return_info: return an `Explanation`: logits, probabilities and targets are those of the whole images, and
            left_out["confidences"] holds s (N, P), or (N, T, P) for targets (N, T), beside what the method left out
            in each patch, (N, P) or (N, T, P); weights are None.
        settings: size, normalize, normalize_at, precision and output as in `fastcam.explain`, and the method's own
            options. U has the images' size: that is what size "layer" means here.

    Returns:
        As `fastcam.explain`. `Ucag(model, ...)` holds the settings for many calls.

    Raises:
        ValueError, TypeError: as `fastcam.explain`; also for patches below 1 or more than the images' larger side, a
            crop below 1 or larger than the images, a scale that is not positive or makes patches of more than 2^26
            pixels, patches of a size that the model does not take.
    """
    wrapped = Ucag(
        model,
        method=method,
        patches=patches,
        crop=crop,
        scale=scale,
        batch_size=batch_size,
        layer=layer,
        **settings,
    )
    return wrapped(images, targets, return_info=return_info)
