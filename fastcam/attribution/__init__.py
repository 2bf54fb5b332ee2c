"""Methods: each a few lines of maths over the engine."""

from fastcam.methods.explainer import METHODS, Explainer
from fastcam.methods.explanation import Explanation
from fastcam.methods.functions import cam, explain, grad_cam, relevance_cam, score_cam

__all__ = ["METHODS", "Explainer", "Explanation", "cam", "explain", "grad_cam", "relevance_cam", "score_cam"]
