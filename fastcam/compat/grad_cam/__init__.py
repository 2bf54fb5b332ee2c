"""The call form of pytorch-grad-cam 1.5.7: `from fastcam.compat.grad_cam import GradCAM` in place of its own import.

    with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(281)])  # numpy float32 (N, H, W) in [0, 1]

`utils.model_targets` and `utils.image` lie where theirs do. The package itself is not needed; its target objects are
accepted too. What differs is told at `BaseCAM`.
"""

from fastcam.compat.grad_cam.cams import (
    AblationCAM,
    BaseCAM,
    EigenCAM,
    EigenGradCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)

__all__ = [
    "AblationCAM",
    "BaseCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
    "XGradCAM",
]
