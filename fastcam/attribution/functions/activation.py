"""Functions of the activation family."""

from typing import Unpack

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
