"""All methods, by name."""

from collections.abc import Mapping

from fastcam.attribution.activation import CAM
from fastcam.attribution.attributing import AGF, RAP, RSP
from fastcam.attribution.contrastive import CLRP, EXCITATION_BACKPROP, SGLRP
from fastcam.attribution.gradient import GRAD_CAM
from fastcam.attribution.method import Method
from fastcam.attribution.relevance import LRP, RELEVANCE_CAM
from fastcam.attribution.score import SCORE_CAM

_ALL = (
    CAM,
    GRAD_CAM,
    RELEVANCE_CAM,
    LRP,
    CLRP,
    SGLRP,
    EXCITATION_BACKPROP,
    RAP,
    RSP,
    AGF,
    SCORE_CAM,
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def methods() -> tuple[Method, ...]:
    """Every method with its family, paper, cost per image and options, in the order of the families."""
    return tuple(METHODS.values())
