"""Explanations of CNN image classifiers: class activation maps and layer-wise relevance propagation."""

from fastcam import lrp, models, ops
from fastcam.attribution import (
    Explainer,
    Explanation,
    Ucag,
    cam,
    explain,
    grad_cam,
    methods,
    relevance_cam,
    score_cam,
    ucag,
)
from fastcam.network.cache import clear_cache
from fastcam.ops.backend import use_backend

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "Explanation",
    "Ucag",
    "cam",
    "clear_cache",
    "explain",
    "grad_cam",
    "lrp",
    "methods",
    "models",
    "ops",
    "relevance_cam",
    "score_cam",
    "ucag",
    "use_backend",
]
