"""Methods: each a few lines of maths over the engine."""

from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.functions import (
    abs_cam_init,
    cam,
    deconvnet,
    explain,
    full_grad,
    grad_cam,
    grad_cam_pp,
    gradient,
    guided_backprop,
    hires_cam,
    layer_cam,
    norm_grad,
    relevance_cam,
    score_cam,
    smooth_grad_cam_pp,
    ucag,
    wgrad_cam,
    xgrad_cam,
)
from fastcam.attribution.registry import METHODS, methods
from fastcam.attribution.unfolding import Ucag

__all__ = [
    "METHODS",
    "Explainer",
    "Explanation",
    "Ucag",
    "abs_cam_init",
    "cam",
    "deconvnet",
    "explain",
    "full_grad",
    "grad_cam",
    "grad_cam_pp",
    "gradient",
    "guided_backprop",
    "hires_cam",
    "layer_cam",
    "methods",
    "norm_grad",
    "relevance_cam",
    "score_cam",
    "smooth_grad_cam_pp",
    "ucag",
    "wgrad_cam",
    "xgrad_cam",
]
