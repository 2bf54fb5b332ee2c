"""Methods: each a few lines of maths over the engine."""

from fastcam.attribution.explainer import Explainer
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.registry import METHODS
from fastcam.attribution.unfolding import Ucag

__all__ = ["METHODS", "Explainer", "Explanation", "Ucag"]
