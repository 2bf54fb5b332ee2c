"""Abs-CAM: channels weighted by the magnitude of their gradients mask the image, whose score weights the masks."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastcam import ops
from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_batch_size
from fastcam.attribution.masks import live_channels, span_of, times, unit_masks, upsampled_range
from fastcam.attribution.method import Evidence, Method, Options, Weighted, Whole, the_layers
from fastcam.attribution.scoring import ask
from fastcam.network.arguments import check_choice
from fastcam.network.layers import Layer
from fastcam.ops.maps import upsample


def _abs_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    find = _READINGS[options["mask"]]
    prepared = case.network.prepare(case.images)
    batch = options["batch_size"] or case.network.portion(prepared.device)
    parts: list[Weighted | Whole] = []
    for layer in layers:
        g = case.gradient(layer.node)
        # W_k = mean_xy |g_k|
        weights = g.abs().mean(dim=(3, 4), dtype=torch.promote_types(g.dtype, torch.float32))
        parts.append(find(case, prepared, case.value(layer.node), weights, batch))
    return Evidence(case.logits, case.targets, parts)


def _by_channel(case: Case, prepared: Tensor, activation: Tensor, weights: Tensor, batch: int) -> Weighted:
    """M_k = min-max(U(W_k A_k)) = min-max(U(A_k)) for W_k > 0, and 0 for W_k = 0: one mask serves all targets."""
    targets = case.targets
    matters = live_channels(activation) & (weights > 0).any(dim=1)
    image, channel = matters.nonzero(as_tuple=True)
    found = ask(
        case.network,
        lambda chunk: ops.masked_inputs(prepared, activation, image[chunk], channel[chunk], None),
        targets[image],
        batch=batch,
    )
    scores = torch.zeros_like(weights)
    scores[image, :, channel] = found
    masks = unit_masks(activation, (prepared.shape[2], prepared.shape[3]), batch)
    return Weighted(masks, scores.masked_fill_(weights == 0, 0))


def _by_shared_range(case: Case, prepared: Tensor, activation: Tensor, weights: Tensor, batch: int) -> Whole:
    """M_k = (U(W_k A_k) - l) / (h - l), with l and h the extremes over all channels together."""
    size = (prepared.shape[2], prepared.shape[3])
    wide = activation.to(weights.dtype)
    low, high = (weights * ends.unsqueeze(1) for ends in upsampled_range(wide, size, batch))
    low, high = low.amin(dim=2), high.amax(dim=2)
    span = span_of(low, high)
    scale, shift = weights / span.unsqueeze(2), -low / span
    # Masks that are 0 everywhere have a term of 0.
    matters = (scale * live_channels(activation).unsqueeze(1) != 0) | (shift != 0).unsqueeze(2)
    image, target, channel = matters.nonzero(as_tuple=True)

    def build(chunk: slice) -> Tensor:
        n, t, k = image[chunk], target[chunk], channel[chunk]
        masks = wide[n, k] * scale[n, t, k, None, None] + shift[n, t, None, None]
        return times(prepared, n, upsample(masks.unsqueeze(1), size).squeeze(1))

    scores = torch.zeros_like(weights)
    classes = case.targets[image, target].unsqueeze(1)
    scores[image, target, channel] = ask(case.network, build, classes, batch=batch).squeeze(1)
    # sum_k p_k M_k = sum_k p_k scale_k A_k + shift sum_k p_k
    sums: Tensor = ops.cam_map(activation, scores * scale, activation.shape[2:], False, False)
    return Whole(sums + (shift * scores.sum(dim=2))[..., None, None])


def _by_joint_mask(case: Case, prepared: Tensor, activation: Tensor, weights: Tensor, batch: int) -> Whole:
    """M = min-max(U(sum_k W_k A_k)), the map p_c(M x) M."""
    joint: Tensor = ops.cam_map(activation, weights, activation.shape[2:], False, False)
    every = torch.ones(joint.shape[:2], dtype=torch.bool, device=joint.device)
    image, target = every.nonzero(as_tuple=True)
    found = ask(
        case.network,
        lambda chunk: ops.masked_inputs(prepared, joint, image[chunk], target[chunk], None),
        case.targets.reshape(-1, 1),
        batch=batch,
    )
    masks = unit_masks(joint, (prepared.shape[2], prepared.shape[3]), batch)
    return Whole(masks * found.view(*masks.shape[:2], 1, 1))


# (case, images in the network's format, A, W, images per forward pass) -> evidence
_READINGS: Mapping[str, Callable[[Case, Tensor, Tensor, Tensor, int], Weighted | Whole]] = {
    "channel": _by_channel,
    "shared": _by_shared_range,
    "joint": _by_joint_mask,
}


def _check(options: Options) -> None:
    check_choice("mask", options["mask"], tuple(_READINGS))
    check_batch_size(options["batch_size"])


ABS_CAM = Method(
    name="abs_cam",
    family="score",
    paper="Zeng et al. 2022",
    find=_abs_cam,
    relu=True,
    forwards="1 + channels that are not 0; with mask='shared' 1 + channels that are not 0 x targets, all channels "
    "where the layer's least value is not 0; with mask='joint' 1 + targets",
    backwards="1",
    leaves=the_layers,
    options={"mask": "channel", "batch_size": None},
    check=_check,
)
