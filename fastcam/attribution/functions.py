"""One function per method, all with one signature."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from fastcam.methods.explainer import Explainer
from fastcam.network.arguments import Size, Targets
from fastcam.network.cache import Output
from fastcam.network.layers import LayerName

# A tensor of maps; a list of them for a list of layers; an Explanation with return_info=True. A union of the
# three would have to be taken apart at every call.
Result: TypeAlias = Any


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    method: str = "relevance_cam",
    size: Size = "input",
    normalize: bool = True,
    normalize_at: str = "input",
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
    **options: Any,
) -> Result:
    """Explain a classifier's decisions by maps of what they rest on.

    The maps of every method are sum_k alpha_k A_k over the channels of the target layer's activation A, upsampled
    bilinearly (align_corners false), clipped at 0 where the method says so, and min-max normalised.

    Args:
        model: any CNN classifier; explained as in eval mode, and never changed.
        images: float (N, C, H, W), preprocessed as the model expects, on the model's device.
        targets: the classes to explain: None (the predicted class), an int, (N,) or (N, T) integers.
        layer: None (the last tensor with channels at more than one position before it is pooled or flattened), a
            module's dotted name, a module, or a list of these. A module called several times: "name@0", "name@1";
            the bare name is its last call. A layer's activation is what the module returned, before any later
            in-place operation.
        method: "cam", "grad_cam", "relevance_cam" or "score_cam".
        size: of the maps: "input", "layer", or (height, width).
        normalize: per map min-max to [0, 1], a flat map gives zeros; False gives raw values.
        normalize_at: "input" normalises after upsampling, "layer" before it, as some public code has it.
        precision: None (the model's own dtype, TF32 off), "float32", "tf32", "bfloat16" or "float16". "float16" is
            the forward pass; relevance goes back in bfloat16.
        output: picks the logits (N, classes) from what the model returns, if that is something else.
        return_info: return an `Explanation` (maps, logits, probabilities, targets, layer, channel weights, what was
            left out) in place of the maps.
        options: the method's own, see its function.

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


def cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    size: Size = "input",
    normalize: bool = True,
    normalize_at: str = "input",
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
) -> Result:
    """CAM (Zhou et al. 2016): relu(sum_k w_ck A_k), w the weights of the classifier behind global average pooling.

    Raises ValueError where anything but global average pooling and one linear layer stands between `layer` and the
    logits. Arguments and results are those of `fastcam.explain`.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="cam",
        size=size,
        normalize=normalize,
        normalize_at=normalize_at,
        precision=precision,
        output=output,
        return_info=return_info,
    )


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    size: Size = "input",
    normalize: bool = True,
    normalize_at: str = "input",
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
) -> Result:
    """Grad-CAM (Selvaraju et al. 2017; relevance-cam eq. 1-2): relu(sum_k alpha_k A_k).

    alpha_k = 1/(h w) sum_xy dy_c / dA_k(x, y), with y_c the logit of the target class. Only the part of the model
    behind `layer` is differentiated. Arguments and results are those of `fastcam.explain`.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="grad_cam",
        size=size,
        normalize=normalize,
        normalize_at=normalize_at,
        precision=precision,
        output=output,
        return_info=return_info,
    )


def relevance_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    size: Size = "input",
    normalize: bool = True,
    normalize_at: str = "input",
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
) -> Result:
    """Relevance-CAM (Lee et al. 2021, eq. 8-9): sum_k alpha_k A_k with alpha_k = sum_xy R_k(x, y), not clipped.

    R is the layer's relevance by the z+ rule (eq. 5-6), propagated from the contrastive seed (eq. 7): |z_t| at the
    target's logit, -|z_t| / (classes - 1) at all others. Arguments and results are those of `fastcam.explain`.

    Raises ValueError where an operation behind `layer` has no z+ rule (layer norm, attention); it is named.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="relevance_cam",
        size=size,
        normalize=normalize,
        normalize_at=normalize_at,
        precision=precision,
        output=output,
        return_info=return_info,
    )


def score_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName | Sequence[LayerName] = None,
    *,
    size: Size = "input",
    normalize: bool = True,
    normalize_at: str = "input",
    precision: str | None = None,
    output: Output | None = None,
    return_info: bool = False,
    baseline: str | None = "zeros",
    score: str = "probability",
    weights: str = "increase",
    batch_size: int | None = None,
) -> Result:
    """Score-CAM (Wang et al. 2020; adcc section 2): relu(sum_k alpha_k A_k) with the increase of confidence alpha_k.

    alpha_k = p_c(x * M_k) - p_c(0), M_k the min-max of A_k upsampled to the image. Channels that are 0 everywhere
    in an image are skipped, since their term is exactly 0 (`Explanation.left_out["skipped_channels"]` counts them).

    Args:
        model, images, targets, layer, size, normalize, normalize_at, precision, output, return_info: see
            `fastcam.explain`.
        baseline: "zeros" subtracts the score of an image of zeros (the mean colour); None does not (the public code).
        score: "probability" p_c, or "logit" y_c.
        weights: "increase", the scores themselves, or "softmax" over the channels (the paper's algorithm); skipped
            channels count in its denominator.
        batch_size: masked images per forward pass; no more are held in memory at a time. None: 4 on a
            CPU, 128 elsewhere.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="score_cam",
        size=size,
        normalize=normalize,
        normalize_at=normalize_at,
        precision=precision,
        output=output,
        return_info=return_info,
        baseline=baseline,
        score=score,
        weights=weights,
        batch_size=batch_size,
    )
