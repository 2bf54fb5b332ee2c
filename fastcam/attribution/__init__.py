"""Methods: each a few lines of maths over the engine."""

from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.functions import cam, explain, grad_cam, relevance_cam, score_cam, ucag
from fastcam.attribution.registry import METHODS, methods
from fastcam.attribution.unfolding import Ucag

__all__ = [
    "METHODS",
    "Explainer",
    "Explanation",
    "Ucag",
    "cam",
    "explain",
    "grad_cam",
    "methods",
    "relevance_cam",
    "score_cam",
    "ucag",
]
