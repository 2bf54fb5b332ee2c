"""Group-CAM: groups of gradient-weighted channels blend the image with its blur, and weigh by what that gains."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam import ops
from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_batch_size, check_number, check_whole
from fastcam.attribution.masks import live_channels, unit_masks
from fastcam.attribution.method import Evidence, Method, Options, Whole, the_layers
from fastcam.attribution.scoring import ask, score_of
from fastcam.network.layers import Layer
from fastcam.network.precision import matrix_precision
from fastcam.ops.blur import gaussian_blur

_TAPS, _SIGMA = 51, 50.0


def _group_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    network, targets = case.network, case.targets
    wide = torch.promote_types(case.images.dtype, torch.float32)
    with matrix_precision(network.precision, case.images.device):
        blurred = network.prepare(gaussian_blur(case.images.detach().to(wide), _TAPS, _SIGMA))
    prepared = network.prepare(case.images)
    batch = options["batch_size"] or network.portion(prepared.device)
    base = score_of(network.forward(blurred)[0]).gather(1, targets)
    parts = []
    for layer in layers:
        masks = _masks(case, layer, options)  # (N, T G, h, w)
        groups = masks.shape[1] // targets.shape[1]
        image, mask = live_channels(masks).nonzero(as_tuple=True)
        target = mask.div(groups, rounding_mode="floor")

        def build(chunk: slice, m: Tensor = masks, n: Tensor = image, k: Tensor = mask) -> Tensor:
            blended: Tensor = ops.masked_inputs(prepared, m, n[chunk], k[chunk], blurred)
            return blended

        found = ask(network, build, targets[image, target].unsqueeze(1), batch=batch)
        # A group that is 0 everywhere leaves the blurred image: its term is 0.
        gains = base.new_zeros(masks.shape[:2])
        gains[image, mask] = found.squeeze(1) - base[image, target]
        terms = gains[..., None, None] * unit_masks(masks, (prepared.shape[2], prepared.shape[3]), batch)
        parts.append(Whole(terms.view(*targets.shape, groups, *masks.shape[2:]).sum(dim=2)))
    return Evidence(case.logits, targets, parts)


def _masks(case: Case, layer: Layer, options: Options) -> Tensor:
    """Rectified sums of each group's mean(g_k) A_k, their lower values cut to 0: (N, T G, h, w)."""
    g, activation = case.gradient(layer.node), case.value(layer.node)
    weights = g.mean(dim=(3, 4), dtype=torch.promote_types(g.dtype, torch.float32))
    channels = activation.shape[1]
    groups = min(options["groups"], channels)
    index = torch.arange(channels, device=g.device) * groups // channels
    member = torch.arange(groups, device=g.device).unsqueeze(1) == index  # (G, K)
    spread = (weights.unsqueeze(2) * member).flatten(1, 2)  # (N, T G, K): the sums as one matrix product
    sums: Tensor = ops.cam_map(activation, spread, activation.shape[2:], True, False)
    floor = _percentile(sums.flatten(2), options["percentile"])
    return sums.masked_fill_(sums < floor.unsqueeze(3), 0)


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """The percentile of each row of (..., L), interpolated between ranks: (..., 1).

    As torch.quantile has it, but for tensors of any size.
    """
    ordered = values.sort(dim=-1).values
    place = percentile / 100 * (values.shape[-1] - 1)
    below, above = math.floor(place), math.ceil(place)
    return torch.lerp(ordered[..., below : below + 1], ordered[..., above : above + 1], place - below)


def _check(options: Options) -> None:
    check_whole("groups", options["groups"])
    check_number("percentile", options["percentile"], "a number from 0 to 100", lambda share: 0 <= share <= 100)
    check_batch_size(options["batch_size"])


GROUP_CAM = Method(
    name="group_cam",
    family="score",
    paper="Zhang et al. 2021",
    find=_group_cam,
    relu=True,
    forwards="2 + targets x groups that are not 0",
    backwards="1",
    leaves=the_layers,
    options={"groups": 32, "percentile": 70, "batch_size": None},
    check=_check,
)
