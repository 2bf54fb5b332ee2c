"""Methods: each a few lines of maths over the engine."""

from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.functions import (
    agf,
    cam,
    clrp,
    excitation_backprop,
    explain,
    grad_cam,
    lrp,
    rap,
    relevance_cam,
    rsp,
    score_cam,
    sglrp,
)
from fastcam.attribution.registry import METHODS, methods

__all__ = [
    "METHODS",
    "Explainer",
    "Explanation",
    "agf",
    "cam",
    "clrp",
    "excitation_backprop",
    "explain",
    "grad_cam",
    "lrp",
    "methods",
    "rap",
    "relevance_cam",
    "rsp",
    "score_cam",
    "sglrp",
]
