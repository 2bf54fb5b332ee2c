"""`explain`, and the arguments that every method's function shares."""

from collections.abc import Sequence
from typing import Any, TypedDict

from torch import Tensor, nn

from fastcam.attribution.explainer import Explainer, Result
from fastcam.network.arguments import Size, Targets
from fastcam.network.cache import Output
from fastcam.network.layers import LayerName

Layers = LayerName | Sequence[LayerName]


class Common(TypedDict, total=False):
    """What every method takes besides model, images, targets and layer; see `fastcam.explain`."""

    size: Size
    normalize: bool
    normalize_at: str
    precision: str | None
    output: Output | None
    return_info: bool


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    method: str | Sequence[str] = "relevance_cam",
    size: Size = "input",
    normalize: bool = True,
    normalize_at: str = "input",
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
    **options: Any,
) -> Result:
    """Explain a classifier's decisions by maps of what they rest on.

    Most maps are sum_k alpha_k A_k over the channels of the target layer's activation A, upsampled bilinearly
    (align_corners false), clipped at 0 where the method says so, and min-max normalised. `fastcam.methods()` lists
    the methods.

    Args:
        model: any CNN classifier; explained as in eval mode, and never changed. Forward hooks of your own do not run.
        images: float (N, C, H, W), preprocessed as the model expects, on the model's device.
        targets: the classes to explain: None (the predicted class), an int, (N,) or (N, T) integers.
        layer: None (the last tensor with channels at more than one position before it is pooled or flattened), a
            module's dotted name, a module, or a list of these. A module called several times: "name@0", "name@1";
            the bare name is its last call. A layer's activation is what the module returned, before any later
            in-place operation. Methods that explain the images themselves take none; for relevance at the images
            None and "input" are the images.
        method: a method's name, or a list of names: then a dict of results by name, for which one forward pass, and
            one backward pass per target, serve all gradient and activation methods together but those whose passes are
            not the model's own (guided_backprop, deconvnet) or see other images (smooth_grad_cam_pp).
        size: of the maps: "input", "layer", or (height, width).
        normalize: per map min-max to [0, 1], a flat map gives zeros; signed relevance is divided by its largest
            magnitude instead. False gives raw values.
        normalize_at: "input" normalises after upsampling, "layer" before it, as some public code has it.
        precision: None (the model's own dtype, TF32 off), "float32", "tf32", "bfloat16" or "float16". "float16" is
            the forward pass; relevance goes back in bfloat16.
        output: picks the logits (N, classes) from what the model returns, if that is something else.
        return_info: return an `Explanation` (maps, logits, probabilities, targets, layer, channel weights, what was
            left out) in place of the maps.
        options: the method's own, see its function; with several methods, each takes those that it knows.

    Returns:
        Maps (N, H, W), or (N, T, H, W) for targets (N, T), float32 (float64 for a float64 model), on the images'
        device; for a list of layers a list of them, from one pass.

    Raises:
        ValueError, TypeError: for an argument that is not valid; it names the argument, what was given and what is
            valid, and nothing is changed.
    """
    explainer = Explainer(
        model,
        method=method,
        layer=layer,
        size=size,
        normalize=normalize,
        normalize_at=normalize_at,
        precision=precision,
        output=output,
        **options,
    )
    return explainer(images, targets, return_info=return_info)
