"""All methods, by name."""

from collections.abc import Mapping

from fastcam.attribution.ablation import ABLATION_CAM
from fastcam.attribution.abs_cam import ABS_CAM
from fastcam.attribution.activation import CAM, EIGEN_CAM, FAKE_CAM, RANDOM_CAM
from fastcam.attribution.cameras import CAMERAS
from fastcam.attribution.extremal import EXTREMAL_PERTURBATION
from fastcam.attribution.gradient import (
    ABS_CAM_INIT,
    GRAD_CAM,
    GRAD_CAM_PP,
    HIRES_CAM,
    LAYER_CAM,
    NORM_GRAD,
    WGRAD_CAM,
    XGRAD_CAM,
)
from fastcam.attribution.group_cam import GROUP_CAM
from fastcam.attribution.input_gradient import DECONVNET, FULL_GRAD, GRADIENT, GUIDED_BACKPROP
from fastcam.attribution.method import Method
from fastcam.attribution.relevance import RELEVANCE_CAM
from fastcam.attribution.rise import RISE
from fastcam.attribution.score import IS_CAM, SCORE_CAM, SS_CAM
from fastcam.attribution.smooth import SMOOTH_GRAD_CAM_PP

_ALL = (
    CAM,
    EIGEN_CAM,
    RANDOM_CAM,
    FAKE_CAM,
    ABS_CAM_INIT,
    DECONVNET,
    FULL_GRAD,
    GRAD_CAM,
    GRAD_CAM_PP,
    GRADIENT,
    GUIDED_BACKPROP,
    HIRES_CAM,
    LAYER_CAM,
    NORM_GRAD,
    SMOOTH_GRAD_CAM_PP,
    WGRAD_CAM,
    XGRAD_CAM,
    RELEVANCE_CAM,
    SCORE_CAM,
    SS_CAM,
    IS_CAM,
    GROUP_CAM,
    ABS_CAM,
    ABLATION_CAM,
    CAMERAS,
    RISE,
    EXTREMAL_PERTURBATION,
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def methods() -> tuple[Method, ...]:
    """Every method with its family, paper, cost per image and options, in the order of the families."""
    return tuple(METHODS.values())
