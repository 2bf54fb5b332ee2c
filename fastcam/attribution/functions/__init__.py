"""One function per method, all with one signature."""

from fastcam.attribution.functions.activation import cam
from fastcam.attribution.functions.attributing import agf, rap, rsp
from fastcam.attribution.functions.common import explain
from fastcam.attribution.functions.gradient import grad_cam
from fastcam.attribution.functions.lrp_package import LrpPackage
from fastcam.attribution.functions.relevance import clrp, excitation_backprop, lrp, relevance_cam, sglrp
from fastcam.attribution.functions.score import score_cam

__all__ = [
    "LrpPackage",
    "agf",
    "cam",
    "clrp",
    "excitation_backprop",
    "explain",
    "grad_cam",
    "lrp",
    "rap",
    "relevance_cam",
    "rsp",
    "score_cam",
    "sglrp",
]
