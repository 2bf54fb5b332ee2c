"""Methods that need the activations of a forward pass, and baselines that need less."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_generator
from fastcam.attribution.classifier import NoClassifierError, classifier_of
from fastcam.attribution.method import Evidence, Method, Options, Weighted, Whole
from fastcam.attribution.random_numbers import uniform
from fastcam.network.layers import Layer
from fastcam.ops.maps import flat_tolerance


def _cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    return Evidence(case.logits, case.targets, [_class_weighted(case, layer) for layer in layers])


def _class_weighted(case: Case, layer: Layer) -> Weighted:
    """alpha_k = w_ck: the classifier's weight from channel k to class c."""
    try:
        weight = classifier_of(case.network, layer)
    except NoClassifierError as error:
        raise ValueError(
            "method: cam needs a layer with global average pooling and one linear layer behind it; behind "
            f"{layer.name!r}, {error}; use grad_cam, which gives the same map where cam is defined"
        ) from None
    wide = torch.promote_types(case.logits.dtype, torch.float32)
    return Weighted(case.value(layer.node), case.network.weights.value(weight)[case.targets].to(wide))


CAM = Method(name="cam", family="activation", paper="Zhou et al. 2016", find=_cam, relu=True, forwards="1")


def _eigen_cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    count = case.targets.shape[1]
    parts = [Whole(first_component(case.value(layer.node)).repeat(1, count, 1, 1)) for layer in layers]
    return Evidence(case.logits, case.targets, parts)


def first_component(activation: Tensor) -> Tensor:
    """Projections (N, 1, h, w) of the positions' channel vectors, centred, on their first principal component.

    X (hw, K) centred over positions = U S V^T; the projections X v_1 = s_1 u_1, from an eigenvector of the smaller of
    X X^T (u_1, eigenvalue s_1^2) and X^T X (v_1), in float64, since both square the singular values. NaN for an image
    with a value that is not finite.
    """
    wide = torch.promote_types(activation.dtype, torch.float32)
    x = activation.flatten(2).mT.to(torch.float64)
    energy = x.square().sum(dim=(1, 2))
    # The decomposition would raise an error of its own.
    x = x.nan_to_num(0, 0, 0)
    x = x - x.mean(dim=1, keepdim=True)
    positions, channels = x.shape[1:]
    if positions <= channels:
        values, vectors = torch.linalg.eigh(x @ x.mT)
        projected = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        values, vectors = torch.linalg.eigh(x.mT @ x)
        projected = (x @ vectors[..., -1:]).squeeze(2)
    # What is left of a layer that is the same at all positions is rounding.
    flat = values[:, -1] <= flat_tolerance(wide) ** 2 * energy
    sign = torch.where(projected.amax(dim=1) < -projected.amin(dim=1), -1.0, 1.0)
    scale = torch.where(energy.isfinite(), torch.where(flat, 0, sign), torch.nan)
    projected = projected * scale.unsqueeze(1)
    maps: Tensor = projected.to(wide).view(-1, 1, *activation.shape[2:])
    return maps


EIGEN_CAM = Method(
    name="eigen_cam",
    family="activation",
    paper="Muhammad and Yeasin 2020",
    find=_eigen_cam,
    relu=True,
    forwards="1",
)


def _random_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    wide = torch.promote_types(case.logits.dtype, torch.float32)
    like = torch.empty((), dtype=wide, device=case.images.device)
    parts = []
    for layer in layers:
        activation = case.value(layer.node)
        weights = 2 * uniform((*case.targets.shape, activation.shape[1]), like, options["generator"]) - 1
        parts.append(Weighted(activation, weights))
    return Evidence(case.logits, case.targets, parts)


RANDOM_CAM = Method(
    name="random_cam",
    family="activation",
    paper="a baseline",
    find=_random_cam,
    relu=True,
    forwards="1",
    options={"generator": None},
    check=lambda options: check_generator(options["generator"]),
)


def _fake_cam(case: Case, layers: Sequence[Layer], _: Options) -> Evidence:
    wide = torch.promote_types(case.logits.dtype, torch.float32)
    shape = (*case.targets.shape, *case.images.shape[2:])
    maps = torch.ones(shape, dtype=wide, device=case.images.device)
    maps[..., 0, 0] = 0
    return Evidence(case.logits, case.targets, [Whole(maps)])


FAKE_CAM = Method(
    name="fake_cam",
    family="activation",
    paper="Poppi et al. 2021 (a baseline)",
    find=_fake_cam,
    relu=False,
    layer="none",
    forwards="1",
)
