"""Functions of the gradient family, at a layer."""

from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def abs_cam_init(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """Abs-CAM's initial map (Zeng et al. 2022, eq. 1-3): relu(sum_k alpha_k A_k), alpha_k = mean_xy |g_k|.

    g_k = dy_c / dA_k, with y_c the logit of the target class.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="abs_cam_init", **common)


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


def grad_cam_pp(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """Grad-CAM++ (Chattopadhay et al. 2018, eq. 19): relu(sum_k alpha_k A_k) with alpha_k = sum_xy a relu(g).

    a = g^2 / (2 g^2 + S g^3) at each position, 0 where the denominator is 0; S = sum_xy A_k; g = dy_c / dA_k, with
    y_c the logit of the target class. (torchcam sums A g^3 in place of S g^3.)
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="grad_cam_pp", **common)


def hires_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """HiResCAM (Draelos and Carin 2020): relu(sum_k g_k A_k), element by element, g = dy_c / dA.

    y_c is the logit of the target class. `Explanation.weights` are g, (N, K, h, w) or (N, T, K, h, w).
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="hires_cam", **common)


def layer_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """LayerCAM (Jiang et al. 2021, eq. 6-7): relu(sum_k relu(g_k) A_k), element by element, g = dy_c / dA.

    y_c is the logit of the target class. `Explanation.weights` are relu(g), (N, K, h, w) or (N, T, K, h, w). The
    paper's scaling of shallow layers by tanh (eq. 9) is for fusing layers and takes no part.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="layer_cam", **common)


def norm_grad(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """NormGrad (Rebuffi et al. 2019): |g| |A|, Euclidean norms over the channels at each position.

    g = dy_c / dA, with y_c the logit of the target class. No map is negative; there are no channel weights.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="norm_grad", **common)


def smooth_grad_cam_pp(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    samples: int = 4,
    std: float = 0.3,
    generator: torch.Generator | None = None,
    **common: Unpack[Common],
) -> Result:
    """Smooth Grad-CAM++ (Omeiza et al. 2019): Grad-CAM++ with the means of g, g^2, g^3 over noisy images.

    relu(sum_k alpha_k A_k) with alpha_k = sum_xy D2 / (2 D2 + S D3) relu(D1), the fraction 0 where its denominator is
    0; Dp is the mean of g^p over images + noise, A and S = sum_xy A_k are those of the images without noise.
    (torchcam sums A D3 in place of S D3, and takes the last sample's g for D1.)

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        samples: the number of noisy copies of each image; some share a pass, as memory allows.
        std: standard deviation of the normal noise, in the units of the (normalised) images.
        generator: makes the noise, on its own device; None: PyTorch's default one. The same state gives the same maps.
    """
    return explain(
        model,
        images,
        targets,
        layer,
        method="smooth_grad_cam_pp",
        samples=samples,
        std=std,
        generator=generator,
        **common,
    )


def wgrad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """WGrad-CAM (Zhang, Rao and Yang 2021): relu(sum_k alpha_k A_k) with alpha_k = minmax_k mean_xy(g_k A_k).

    The min-max is over the channels, to [0, 1]; where all are equal, alpha_k = 0. g = dy_c / dA, with y_c the logit
    of the target class. This is what one public version computes; the paper's own text was not at hand.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="wgrad_cam", **common)


def xgrad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """XGrad-CAM (Fu et al. 2020, eq. 8): relu(sum_k alpha_k A_k) with alpha_k = sum_xy g_k A_k / sum_xy A_k.

    alpha_k is 0 where sum_xy A_k is 0; g = dy_c / dA, with y_c the logit of the target class.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="xgrad_cam", **common)
