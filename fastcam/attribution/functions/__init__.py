"""One function per method, all with one signature."""

from fastcam.attribution.functions.activation import cam, eigen_cam, fake_cam, random_cam
from fastcam.attribution.functions.attributing import agf, rap, rsp
from fastcam.attribution.functions.common import explain
from fastcam.attribution.functions.input_gradient import deconvnet, full_grad, gradient, guided_backprop
from fastcam.attribution.functions.layer_gradient import (
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
from fastcam.attribution.functions.relevance import clrp, excitation_backprop, lrp, relevance_cam, sglrp
from fastcam.attribution.functions.score import (
    ablation_cam,
    abs_cam,
    cameras,
    extremal_perturbation,
    group_cam,
    is_cam,
    rise,
    score_cam,
    ss_cam,
)
from fastcam.attribution.functions.unfolding import ucag

__all__ = [
    "ablation_cam",
    "abs_cam",
    "abs_cam_init",
    "agf",
    "cam",
    "cameras",
    "clrp",
    "deconvnet",
    "eigen_cam",
    "excitation_backprop",
    "explain",
    "extremal_perturbation",
    "fake_cam",
    "full_grad",
    "grad_cam",
    "grad_cam_pp",
    "gradient",
    "group_cam",
    "guided_backprop",
    "hires_cam",
    "is_cam",
    "layer_cam",
    "lrp",
    "norm_grad",
    "random_cam",
    "rap",
    "relevance_cam",
    "rise",
    "rsp",
    "score_cam",
    "sglrp",
    "smooth_grad_cam_pp",
    "ss_cam",
    "ucag",
    "wgrad_cam",
    "xgrad_cam",
]
