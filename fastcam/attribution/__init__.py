"""Methods: each a few lines of maths over the engine."""

from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.functions import (
    ablation_cam,
    abs_cam,
    cam,
    cameras,
    eigen_cam,
    explain,
    extremal_perturbation,
    fake_cam,
    grad_cam,
    group_cam,
    is_cam,
    random_cam,
    relevance_cam,
    rise,
    score_cam,
    ss_cam,
)
from fastcam.attribution.registry import METHODS, methods

__all__ = [
    "METHODS",
    "Explainer",
    "Explanation",
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
    "methods",
    "random_cam",
    "relevance_cam",
    "rise",
    "score_cam",
    "ss_cam",
]
