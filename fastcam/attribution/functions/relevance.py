"""Functions of the relevance family."""

from typing import Unpack

from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def relevance_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """Relevance-CAM (Lee et al. 2021, eq. 8-9): sum_k alpha_k A_k with alpha_k = sum_xy R_k(x, y), not clipped.

    R is the layer's relevance by the z+ rule (eq. 5-6), propagated from the contrastive seed (eq. 7): |z_t| at the
    target's logit, -|z_t| / (classes - 1) at all others. Arguments and results are those of `fastcam.explain`.

    Raises ValueError where an operation behind `layer` has no z+ rule (layer norm, attention); it is named.
    """
    return explain(model, images, targets, layer, method="relevance_cam", **common)
