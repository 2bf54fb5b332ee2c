"""Functions of the gradient family, at the images."""

from typing import Unpack

from torch import Tensor, nn

from fastcam.attribution.explainer import Result
from fastcam.attribution.functions.common import Common, explain
from fastcam.network.arguments import Targets


def deconvnet(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    **common: Unpack[Common],
) -> Result:
    """Deconvolutional network (Zeiler and Fergus 2013): the gradient at the images, by its own sign alone at each ReLU.

    max over the image's channels of |R|: R = dy_c / dx with the backward of each rectifier replaced by relu(R),
    whatever its input was. Rectifiers are ReLU, ReLU6 and whatever else clips from 0 on; other activations (SiLU,
    hardswish, GELU) keep their ordinary derivative, as max pooling does. Takes no layer.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, None, method="deconvnet", **common)


def full_grad(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    **common: Unpack[Common],
) -> Result:
    """FullGrad (Srinivas and Fleuret 2019, eq. 7): |x dy_c/dx| and the gradient map of every bias, summed.

    sum_c minmax(|x_c dy/dx_c|) + sum over biased maps z and their channels k of minmax(|b_k dy/dz_k|), each channel's
    map min-max, upsampled bilinearly to the image. Biases are those of convolutions and what batch norms with fixed
    statistics add, beta - mu gamma / sigma; a convolution and the batch norm behind it are one operation with one
    bias. min-max takes |b_k| itself out: a channel counts wherever its bias is not 0. Biases of linear layers have
    no place in the image. Takes no layer.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, None, method="full_grad", **common)


def gradient(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    **common: Unpack[Common],
) -> Result:
    """The image's gradient (Simonyan et al. 2013): max over the image's channels of |dy_c / dx|.

    y_c is the logit of the target class. Takes no layer.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, None, method="gradient", **common)


def guided_backprop(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    **common: Unpack[Common],
) -> Result:
    """Guided backpropagation (Springenberg et al. 2014): the gradient at the images, masked by both signs at each ReLU.

    max over the image's channels of |R|: R = dy_c / dx with the backward of each rectifier replaced by relu(R) where
    its input was not clipped, 0 elsewhere. Rectifiers are ReLU, ReLU6 and whatever else clips from 0 on; other
    activations (SiLU, hardswish, GELU) keep their ordinary derivative. Takes no layer.
    Arguments and results are those of `fastcam.explain`.
    """
    return explain(model, images, targets, None, method="guided_backprop", **common)
