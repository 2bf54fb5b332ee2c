"""Functions of the gradient family."""

from typing import Unpack

from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """Grad-CAM (Selvaraju et al. 2017; relevance-cam eq. 1-2): relu(sum_k alpha_k A_k).

    alpha_k = 1/(h w) sum_xy dy_c / dA_k(x, y), with y_c the logit of the target class. Only the part of the model
    behind `layer` is differentiated. Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="grad_cam", **common)
