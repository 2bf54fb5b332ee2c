"""Functions of the score family."""

from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def score_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    baseline: str | None = "zeros",
    score: str = "probability",
    weights: str = "increase",
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """Score-CAM (Wang et al. 2020; adcc section 2): relu(sum_k alpha_k A_k) with the increase of confidence alpha_k.

    alpha_k = p_c(x * M_k) - p_c(0), M_k the min-max of A_k upsampled to the image. Channels that are 0 everywhere
    in an image are skipped, since their term is exactly 0 (`Explanation.left_out["skipped_channels"]` counts them).

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        baseline: "zeros" subtracts the score of an image of zeros (the mean colour); None does not (the public code).
        score: "probability" p_c, or "logit" y_c.
        weights: "increase", the scores themselves, or "softmax" over the channels (the paper's algorithm); skipped
            channels count in its denominator.
        batch_size: masked images per forward pass; no more are held in memory at a time. None: 6 on a
            CPU, 128 elsewhere.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="score_cam",
        baseline=baseline,
        score=score,
        weights=weights,
        batch_size=batch_size,
        **common,
    )


def ss_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    samples: int = 35,
    std: float = 2.0,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """SS-CAM (Wang, Naidu et al. 2020), as torchcam has it: relu(sum_k alpha_k A_k) with smoothed scores alpha_k.

    alpha_k = softmax over k of the mean over samples of y_c(x * (M_k + noise)). M_k is the min-max of A_k, then
    upsampled to the image (score_cam normalises behind the upsampling); the noise is normal, drawn for each pixel of
    each mask. What the paper subtracts from y_c is the same for all channels: the softmax does not see it.

    Channels that are 0 everywhere in an image have noise alone for a mask, and a term of 0. One of them is scored and
    stands for all in the softmax (`Explanation.left_out["skipped_channels"]` counts the others).

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        samples: noisy masks per channel.
        std: the noise's standard deviation; masks are of the range [0, 1].
        generator: the source of the random numbers, on any device; None: torch's own. Which numbers a mask is given
            depends on `batch_size`.
        batch_size: masked images per forward pass; no more are held in memory at a time. None: 6 on a
            CPU, 128 elsewhere.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="ss_cam",
        samples=samples,
        std=std,
        generator=generator,
        batch_size=batch_size,
        **common,
    )


def is_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    samples: int = 10,
    scales: str = "linear",
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """IS-CAM (Naidu et al. 2020): relu(sum_k alpha_k A_k) with scores alpha_k integrated from a faint mask to the full.

    alpha_k = softmax over k of the mean over i of y_c(x * c_i M_k), c_i = i / samples for i = 1 ... samples. M_k is
    the min-max of A_k, then upsampled to the image (score_cam normalises behind the upsampling). Channels that are 0
    everywhere in an image are skipped: their masked image is 0, and so is their term
    (`Explanation.left_out["skipped_channels"]` counts them).

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        samples: scales per channel.
        scales: "linear", as above; "cumulative": c_i = (1 + 2 + ... + i) / samples, beyond 1 from the fifth of ten,
            as torchcam has it.
        batch_size: masked images per forward pass; no more are held in memory at a time. None: 6 on a
            CPU, 128 elsewhere.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="is_cam",
        samples=samples,
        scales=scales,
        batch_size=batch_size,
        **common,
    )


def group_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    groups: int = 32,
    percentile: float = 70,
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """Group-CAM (Zhang et al. 2021): relu(sum_j (p_c(x M_j + b (1 - M_j)) - p_c(b)) M_j), b the blurred image.

    The masks come from contiguous groups j of channels: relu(sum_k mean(dy_c/dA_k) A_k) over the group's channels,
    what is below the percentile set to 0, upsampled to the image, min-max. The blur has 51 x 51 weights of sigma 50
    (fewer for images of under 26 pixels, which cannot be reflected so far). Groups that are 0 everywhere are skipped.

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        groups: how many, as equal as the layer's channels allow; at most one per channel.
        percentile: from 0 (keeps everything) to 100 (keeps the largest values alone).
        batch_size: blended images per forward pass; no more are held in memory at a time. None: 6 on a
            CPU, 128 elsewhere.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="group_cam",
        groups=groups,
        percentile=percentile,
        batch_size=batch_size,
        **common,
    )


def abs_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    mask: str = "channel",
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """Abs-CAM (Zeng et al. 2022, eq. 1-5, algorithm 1): relu(sum_k p_c(M_k x) M_k).

    M_k is the min-max of W_k A_k upsampled to the image, with W_k = 1/(h w) sum_xy |dy_c / dA_k(x, y)|. Channels that
    are 0 everywhere have a mask and a term of 0 and are not scored. The maps keep the resolution of the layer, since
    min-max and upsampling are both affine.

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        mask: how the paper's normalisation is read. "channel": each mask by itself, where W_k cancels out (unless it
            is 0). "shared": one minimum and one maximum over all channels. "joint": one mask, from sum_k W_k A_k; its
            map is p_c(M x) M, equal to abs_cam_init's once both are normalised, for activations that are not negative.
        batch_size: masked images per forward pass; no more are held in memory at a time. None: 6 on a
            CPU, 128 elsewhere.
    """
    return explain(model, images, targets, layer, method="abs_cam", mask=mask, batch_size=batch_size, **common)


def ablation_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """Ablation-CAM (Desai and Ramaswamy 2020): relu(sum_k alpha_k A_k), alpha_k = (y_c - y_c without k) / y_c.

    "Without k": channel k of the layer set to 0. Only what lies behind the layer is run again, and for global average
    pooling and one linear layer nothing: there y_c - y_c(without k) = w_ck mean(A_k). Channels that are 0 everywhere
    lose nothing and are skipped (`Explanation.left_out["skipped_channels"]` counts them). For y_c = 0, alpha_k is the
    loss itself; for y_c < 0 the quotient turns its sign, as the paper's formula has it.

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        batch_size: ablated copies of the layer's activation at a time; no more are held in memory. None: as many as
            make 2^20 numbers on a CPU, 2^26 elsewhere.
    """
    return explain(model, images, targets, layer, method="ablation_cam", batch_size=batch_size, **common)


def cameras(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    steps: int = 8,
    largest: float = 924 / 224,
    **common: Unpack[Common],
) -> Result:
    """CAMERAS (Jalwana et al. 2021): relu(sum_k A_k g_k), A and g = dy_c/dA averaged over several sizes of the image.

    The image is enlarged bicubically in equal steps, for 224 pixels: 224, 324, ..., 924. Each size's A and g are
    upsampled bilinearly to the layer's resolution at the largest. The targets are those of the image at its own size,
    and size="layer" is the resolution at the largest. The model is captured once for each size.

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        steps: the number of sizes, the image's own among them.
        largest: the largest size, in multiples of the image's own.
    """
    return explain(model, images, targets, layer, method="cameras", steps=steps, largest=largest, **common)


def rise(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    masks: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """RISE (Petsiuk et al. 2018, eq. 6): sum_i p_c(x * M_i) M_i / (N p) over N random masks, at the image's size.

    A mask is a grid of cells x cells, each 1 with probability p and 0 otherwise, enlarged bilinearly to
    (cells + 1) * ceil(H / cells) pixels per axis and cut to the image's size at a random shift of less than a cell.
    All images of a call are given the same masks. It takes no layer.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        masks: N.
        cells: of the grid, per axis.
        keep: p, between 0 and 1.
        generator: the source of the random numbers, on any device; None: torch's own.
        batch_size: masked images per forward pass; no more are held in memory at a time. None: 6 on a
            CPU, 128 elsewhere. The masks do not depend on it.
    """
    return explain(
        model,
        images,
        targets,
        method="rise",
        masks=masks,
        cells=cells,
        keep=keep,
        generator=generator,
        batch_size=batch_size,
        **common,
    )


def extremal_perturbation(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    area: float = 0.1,
    steps: int = 800,
    batch_size: int | None = None,
    **common: Unpack[Common],
) -> Result:
    """Extremal perturbation (Fong et al. 2019): the smooth mask of a given area that keeps p_c highest.

    argmax over m of log p_c(x perturbed by m) - lambda mean((vecsort(m) - r_a)^2): each pixel of x is blurred by a
    Gaussian of sigma in proportion to 1 - m, up to 20 pixels of 224; r_a is 1 for a share `area` of the pixels and 0
    for the others (the ranked-area constraint); m is the smooth max-convolution of at most 32 x 32 parameters with a
    Gaussian that has fallen to e^-2 at 21 pixels of 224. Gradient descent from m = 1 with momentum 0.9
    and rate 0.3; lambda grows from 10 to 160. The same call gives the same mask. It takes no layer.

    Args:
        model, images, targets, common: see `fastcam.explain`.
        area: the mask's share of the image, between 0 and 1.
        steps: of the descent; each a forward and a backward pass.
        batch_size: masks that are found side by side. None: up to 8 on a CPU, 128 elsewhere.
    """
    return explain(
        model,
        images,
        targets,
        method="extremal_perturbation",
        area=area,
        steps=steps,
        batch_size=batch_size,
        **common,
    )
