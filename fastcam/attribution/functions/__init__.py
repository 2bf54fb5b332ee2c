"""One function per method, all with one signature."""

from fastcam.attribution.functions.activation import cam, eigen_cam, fake_cam, random_cam
from fastcam.attribution.functions.common import explain
from fastcam.attribution.functions.gradient import grad_cam
from fastcam.attribution.functions.relevance import relevance_cam
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

__all__ = [
    "ablation_cam",
    "abs_cam",
    "cam",
    "cameras",
    "eigen_cam",
    "explain",
    "extremal_perturbation",
    "fake_cam",
    "grad_cam",
    "group_cam",
    "is_cam",
    "random_cam",
    "relevance_cam",
    "rise",
    "score_cam",
    "ss_cam",
]
