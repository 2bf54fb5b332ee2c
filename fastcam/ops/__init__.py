"""Operators: each with its maths, its PyTorch reference and its registration with the dispatcher."""

from fastcam.ops.cam_map import cam_map
from fastcam.ops.fold_patches import fold_patches
from fastcam.ops.masked_inputs import masked_inputs
from fastcam.ops.perturbed_inputs import perturbed_inputs, pixel_rank
from fastcam.ops.relevance_conv import relevance_conv, relevance_conv_backward, relevance_conv_weights
from fastcam.ops.relevance_linear import relevance_linear, relevance_linear_backward, relevance_linear_seeded
from fastcam.ops.unfold_patches import patch_offsets, unfold_patches

__all__ = [
    "cam_map",
    "fold_patches",
    "masked_inputs",
    "patch_offsets",
    "perturbed_inputs",
    "pixel_rank",
    "relevance_conv",
    "relevance_conv_backward",
    "relevance_conv_weights",
    "relevance_linear",
    "relevance_linear_backward",
    "relevance_linear_seeded",
    "unfold_patches",
]
