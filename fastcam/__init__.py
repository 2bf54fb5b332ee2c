"""Explanations of CNN image classifiers: class activation maps and layer-wise relevance propagation."""

from fastcam import lrp, models, ops
from fastcam.attribution import (
    Explainer,
    Explanation,
    Ucag,
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
    methods,
    norm_grad,
    relevance_cam,
    score_cam,
    smooth_grad_cam_pp,
    ucag,
    wgrad_cam,
    xgrad_cam,
)
from fastcam.network.cache import clear_cache
from fastcam.ops.backend import use_backend

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "Explanation",
    "Ucag",
    "abs_cam_init",
    "cam",
    "clear_cache",
    "deconvnet",
    "explain",
    "full_grad",
    "grad_cam",
    "grad_cam_pp",
    "gradient",
    "guided_backprop",
    "hires_cam",
    "layer_cam",
    "lrp",
    "methods",
    "models",
    "norm_grad",
    "ops",
    "relevance_cam",
    "score_cam",
    "smooth_grad_cam_pp",
    "ucag",
    "use_backend",
    "wgrad_cam",
    "xgrad_cam",
]
