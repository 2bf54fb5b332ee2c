"""Explanations of CNN image classifiers: class activation maps and layer-wise relevance propagation."""

from fastcam import lrp, models, ops
from fastcam.attribution import (
    Explainer,
    Explanation,
    agf,
    cam,
    clrp,
    excitation_backprop,
    explain,
    grad_cam,
    methods,
    rap,
    relevance_cam,
    rsp,
    score_cam,
    sglrp,
)
from fastcam.network.cache import clear_cache
from fastcam.ops.backend import use_backend

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "Explanation",
    "agf",
    "cam",
    "clear_cache",
    "clrp",
    "excitation_backprop",
    "explain",
    "grad_cam",
    "lrp",
    "methods",
    "models",
    "ops",
    "rap",
    "relevance_cam",
    "rsp",
    "score_cam",
    "sglrp",
    "use_backend",
]
