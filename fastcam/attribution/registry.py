"""All methods, by name."""

from collections.abc import Mapping

from fastcam.attribution.ablation import ABLATION_CAM
from fastcam.attribution.abs_cam import ABS_CAM
from fastcam.attribution.activation import CAM, EIGEN_CAM, FAKE_CAM, RANDOM_CAM
from fastcam.attribution.attributing import AGF, RAP, RSP
from fastcam.attribution.cameras import CAMERAS
from fastcam.attribution.contrastive import CLRP, EXCITATION_BACKPROP, SGLRP
from fastcam.attribution.extremal import EXTREMAL_PERTURBATION
from fastcam.attribution.group_cam import GROUP_CAM
from fastcam.attribution.input_gradient import DECONVNET, FULL_GRAD, GRADIENT, GUIDED_BACKPROP
from fastcam.attribution.layer_gradient import (
    ABS_CAM_INIT,
    GRAD_CAM,
    GRAD_CAM_PP,
    HIRES_CAM,
    LAYER_CAM,
    NORM_GRAD,
    WGRAD_CAM,
    XGRAD_CAM,
)
from fastcam.attribution.method import Method
from fastcam.attribution.relevance import LRP, RELEVANCE_CAM
from fastcam.attribution.rise import RISE
from fastcam.attribution.score import IS_CAM, SCORE_CAM, SS_CAM
from fastcam.attribution.smooth import SMOOTH_GRAD_CAM_PP

_GRADIENT = (
    GRAD_CAM,
    GRAD_CAM_PP,
    SMOOTH_GRAD_CAM_PP,
    XGRAD_CAM,
    HIRES_CAM,
    LAYER_CAM,
    WGRAD_CAM,
    ABS_CAM_INIT,
    NORM_GRAD,
    FULL_GRAD,
    GRADIENT,
    GUIDED_BACKPROP,
    DECONVNET,
)
_ACTIVATION = (CAM, EIGEN_CAM, FAKE_CAM, RANDOM_CAM)
_SCORE = (SCORE_CAM, SS_CAM, IS_CAM, GROUP_CAM, ABS_CAM, ABLATION_CAM, RISE, EXTREMAL_PERTURBATION, CAMERAS)
_RELEVANCE = (RELEVANCE_CAM, LRP, CLRP, SGLRP, EXCITATION_BACKPROP, RAP, RSP, AGF)

METHODS: Mapping[str, Method] = {method.name: method for method in (*_GRADIENT, *_ACTIVATION, *_SCORE, *_RELEVANCE)}


def methods() -> tuple[Method, ...]:
    """Every method with its family, paper, cost per image and options, family by family."""
    return tuple(METHODS.values())
