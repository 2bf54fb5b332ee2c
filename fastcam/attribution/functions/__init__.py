"""One function per method, all with one signature."""

from fastcam.attribution.functions.activation import cam
from fastcam.attribution.functions.common import explain
from fastcam.attribution.functions.gradient import (
    abs_cam_init,
    grad_cam,
    grad_cam_pp,
    hires_cam,
    layer_cam,
    norm_grad,
    smooth_grad_cam_pp,
    wgrad_cam,
    xgrad_cam,
)
from fastcam.attribution.functions.input_gradient import deconvnet, full_grad, gradient, guided_backprop
from fastcam.attribution.functions.relevance import relevance_cam
from fastcam.attribution.functions.score import score_cam
from fastcam.attribution.functions.unfolding import ucag

__all__ = [
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
    "norm_grad",
    "relevance_cam",
    "score_cam",
    "smooth_grad_cam_pp",
    "ucag",
    "wgrad_cam",
    "xgrad_cam",
]
