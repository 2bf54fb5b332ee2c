"""All methods, by name."""

from collections.abc import Mapping

from fastcam.attribution.ablation import ABLATION_CAM
from fastcam.attribution.abs_cam import ABS_CAM
from fastcam.attribution.activation import CAM, EIGEN_CAM, FAKE_CAM, RANDOM_CAM
from fastcam.attribution.cameras import CAMERAS
from fastcam.attribution.extremal import EXTREMAL_PERTURBATION
from fastcam.attribution.gradient import GRAD_CAM
from fastcam.attribution.group_cam import GROUP_CAM
from fastcam.attribution.method import Method
from fastcam.attribution.relevance import RELEVANCE_CAM
from fastcam.attribution.rise import RISE
from fastcam.attribution.score import IS_CAM, SCORE_CAM, SS_CAM

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        CAM,
        EIGEN_CAM,
        RANDOM_CAM,
        FAKE_CAM,
        GRAD_CAM,
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
}


def methods() -> tuple[Method, ...]:
    """Every method with its family, paper, cost per image and options, in the order of the families."""
    return tuple(METHODS.values())
