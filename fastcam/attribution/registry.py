"""All methods, by name."""

from collections.abc import Mapping

from fastcam.attribution.activation import CAM
from fastcam.attribution.gradient import GRAD_CAM
from fastcam.attribution.method import Method
from fastcam.attribution.relevance import RELEVANCE_CAM
from fastcam.attribution.score import SCORE_CAM

METHODS: Mapping[str, Method] = {method.name: method for method in (CAM, GRAD_CAM, RELEVANCE_CAM, SCORE_CAM)}


def methods() -> tuple[Method, ...]:
    """Every method with its family, paper, cost per image and options, in the order of the families."""
    return tuple(METHODS.values())
