"""One function per method, all with one signature."""

from fastcam.attribution.functions.activation import cam
from fastcam.attribution.functions.common import explain
from fastcam.attribution.functions.gradient import grad_cam
from fastcam.attribution.functions.relevance import relevance_cam
from fastcam.attribution.functions.score import score_cam
from fastcam.attribution.functions.unfolding import ucag

__all__ = ["cam", "explain", "grad_cam", "relevance_cam", "score_cam", "ucag"]
