"""Explanations of CNN image classifiers: class activation maps and layer-wise relevance propagation."""

from fastcam import lrp, models, ops
from fastcam.attribution import (
    Explainer,
    Explanation,
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
    methods,
    random_cam,
    relevance_cam,
    rise,
    score_cam,
    ss_cam,
)
from fastcam.network.cache import clear_cache
from fastcam.ops.backend import use_backend

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "Explanation",
    "ablation_cam",
    "abs_cam",
    "cam",
    "cameras",
    "clear_cache",
    "eigen_cam",
    "explain",
    "extremal_perturbation",
    "fake_cam",
    "grad_cam",
    "group_cam",
    "is_cam",
    "lrp",
    "methods",
    "models",
    "ops",
    "random_cam",
    "relevance_cam",
    "rise",
    "score_cam",
    "ss_cam",
    "use_backend",
]
