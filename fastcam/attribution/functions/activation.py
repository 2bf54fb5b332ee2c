"""Functions of the activation family."""

from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, Layers, explain
from fastcam.network.arguments import Targets


def cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """CAM (Zhou et al. 2016): relu(sum_k w_ck A_k), w the weights of the classifier behind global average pooling.

    Raises ValueError where anything but global average pooling and one linear layer stands between `layer` and the
    logits. Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="cam", **common)


def eigen_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    **common: Unpack[Common],
) -> Result:
    """Eigen-CAM (Muhammad and Yeasin 2020): relu of the activations' first principal component over positions.

    With X (positions, channels) the layer's activations less their mean over the positions, and X = U S V^T: the map
    is X v_1, its sign such that its largest magnitude is positive. It does not depend on the class: the maps of
    several targets are equal. Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, layer, method="eigen_cam", **common)


def fake_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    **common: Unpack[Common],
) -> Result:
    """Fake-CAM (Poppi et al. 2021, section 3.1), a baseline: 1 at every pixel but the top-left one, 0 there.

    It shows what average drop alone can be made to say. The map is made at the image's size, which "layer" stands
    for as well, and resized to any other `size`. It takes no layer. Arguments and results are those of
    `fastcam.explain`.
    """
    return explain(model, images, targets, method="fake_cam", **common)


def random_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: Layers = None,
    *,
    generator: torch.Generator | None = None,
    **common: Unpack[Common],
) -> Result:
    """A baseline: relu(sum_k alpha_k A_k) with alpha_k drawn from [-1, 1), for each image, target and channel.

    Args:
        model, images, targets, layer, common: see `fastcam.explain`.
        generator: the source of the random numbers, on any device; None: torch's own.
    """
    return explain(model, images, targets, layer, method="random_cam", generator=generator, **common)
