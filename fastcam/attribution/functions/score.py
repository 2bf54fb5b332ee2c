"""Functions of the score family."""

from typing import Unpack

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
