"""The operators' references under the operators' names: plain PyTorch, any device, float64 included."""

from fastcam.ops.cam_map import cam_map_reference as cam_map
from fastcam.ops.fold_patches import fold_patches_reference as fold_patches
from fastcam.ops.masked_inputs import masked_inputs_reference as masked_inputs
from fastcam.ops.perturbed_inputs import perturbed_inputs_reference as perturbed_inputs
from fastcam.ops.relevance_conv import relevance_conv_backward_reference as relevance_conv_backward
from fastcam.ops.relevance_conv import relevance_conv_reference as relevance_conv
from fastcam.ops.relevance_conv import relevance_conv_weights_reference as relevance_conv_weights
from fastcam.ops.relevance_linear import relevance_linear_backward_reference as relevance_linear_backward
from fastcam.ops.relevance_linear import relevance_linear_reference as relevance_linear
from fastcam.ops.relevance_linear import relevance_linear_seeded_reference as relevance_linear_seeded
from fastcam.ops.unfold_patches import unfold_patches_reference as unfold_patches

__all__ = [
    "cam_map",
    "fold_patches",
    "masked_inputs",
    "perturbed_inputs",
    "relevance_conv",
    "relevance_conv_backward",
    "relevance_conv_weights",
    "relevance_linear",
    "relevance_linear_backward",
    "relevance_linear_seeded",
    "unfold_patches",
]
