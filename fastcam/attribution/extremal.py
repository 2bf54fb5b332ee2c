"""Extremal perturbation: the smooth mask of a given area that keeps the class's score highest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_batch_size, check_number, check_whole
from fastcam.attribution.method import Evidence, Method, Options, Whole
from fastcam.network.layers import Layer
from fastcam.network.portions import chunks
from fastcam.network.precision import matrix_precision
from fastcam.ops.blur import soft_blur

# Of an image's side, as the paper's numbers at 224 pixels: parameters 7 pixels apart, a kernel that has fallen to
# e^-2 at 21 pixels, blurs of up to 20 pixels in 8 levels.
_CELLS, _KERNEL, _BLUR, _LEVELS = 32, 10.5 / 224, 20 / 224, 8
# exp(f / T) of the smooth maximum.
_TEMPERATURE = 1 / 20
_RATE, _MOMENTUM = 0.3, 0.9
# The weight of the area's loss at the first step, and what it has grown by at the last.
_AREA_WEIGHT, _GROWTH = 10.0, 16.0


@dataclass(frozen=True, eq=False)
class SmoothMasks:
    """m(u) = smax_v k(u - v) p(v) from parameters p (B, gh, gw), the paper's smooth max-convolution.

    The kernel k is a Gaussian with k(0) = 1, so that it can be taken along one axis after the other. rows: (H, gh),
    columns: (W, gw), its values between pixels and parameters.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of_size(cls, size: Sequence[int], like: Tensor) -> "SmoothMasks":
        """For images of `size`."""
        return cls(_kernel(size[0], like), _kernel(size[1], like))

    def start(self, count: int) -> Tensor:
        """Parameters of `count` masks that show the whole image."""
        return self.rows.new_ones((count, self.rows.shape[1], self.columns.shape[1]))

    def __call__(self, parameters: Tensor) -> Tensor:
        """(B, gh, gw) -> (B, H, W)."""
        along = _smooth_max(self.columns * parameters.unsqueeze(2))  # (B, gh, W, gw) -> (B, gh, W)
        return _smooth_max(self.rows.unsqueeze(1) * along.mT.unsqueeze(1))  # (B, H, W, gh) -> (B, H, W)


def _kernel(side: int, like: Tensor) -> Tensor:
    count = min(_CELLS, side)
    pixel = torch.arange(side, dtype=like.dtype, device=like.device) + 0.5
    centre = (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) * side / count
    return torch.exp(-0.5 * ((pixel.unsqueeze(1) - centre) / (_KERNEL * side)).square())


def _smooth_max(values: Tensor) -> Tensor:
    """smax f = sum f exp(f / T) / sum exp(f / T) over the last axis."""
    return (torch.softmax(values / _TEMPERATURE, dim=-1) * values).sum(dim=-1)


def _blurred(images: Tensor) -> Tensor:
    """The images at all levels of blur, the sharpest last: (B, L, C, H, W)."""
    side = max(images.shape[2:])
    return torch.stack([soft_blur(images, _BLUR * side * (1 - i / (_LEVELS - 1))) for i in range(_LEVELS)], dim=1)


def _perturbed(levels: Tensor, masks: Tensor) -> Tensor:
    """Each pixel blurred with a sigma in proportion to 1 - m: interpolated between the two nearest levels."""
    place = (levels.shape[1] - 1) * masks.unsqueeze(1)
    level = torch.arange(levels.shape[1], dtype=masks.dtype, device=masks.device).view(1, -1, 1, 1)
    share = (1 - (place - level).abs()).clamp(min=0)
    return (share.unsqueeze(2) * levels).sum(dim=1)


def _optimise(case: Case, images: Tensor, classes: Tensor, area: float, steps: int) -> Tensor:
    """The masks (B, H, W) of images (B, C, H, W) for one class each (B,)."""
    levels, smooth = _blurred(images), SmoothMasks.of_size(images.shape[2:], images)
    p = smooth.start(len(images))
    speed = torch.zeros_like(p)
    for step in range(steps):
        with torch.inference_mode(False), torch.enable_grad():
            p.requires_grad_()
            masks = smooth(p)
            held = masks.detach().requires_grad_()
            perturbed = _perturbed(levels, held)
        gain = torch.autograd.grad(perturbed, held, _log_probability_gradient(case, perturbed, classes))[0]
        # d/dm of the ranked-area loss, mean (m - r_a)^2
        excess = 2 * (held.detach() - _ranked(held.detach(), gain, area)) / held[0].numel()
        weight = _AREA_WEIGHT * _GROWTH ** (step / steps)
        down = torch.autograd.grad(masks, p, weight * excess - gain)[0]
        speed = _MOMENTUM * speed + (1 - _MOMENTUM) * down
        p = (p.detach() - _RATE * speed).clamp_(0, 1)
    return smooth(p)


def _log_probability_gradient(case: Case, images: Tensor, classes: Tensor) -> Tensor:
    """d log p_c / dx, in the images' dtype. (The gradient of p_c itself vanishes wherever p_c is small.)"""
    network, leaf = case.network, case.network.graph.images
    logits, values = network.forward(images, (leaf,), leaves=(leaf,))
    with torch.inference_mode(False), torch.enable_grad(), matrix_precision(network.precision, images.device):
        scores = logits.to(images.dtype).log_softmax(dim=1).gather(1, classes.unsqueeze(1)).sum()
        return torch.autograd.grad(scores, values[leaf])[0].to(images.dtype)


def _ranked(masks: Tensor, gain: Tensor, area: float) -> Tensor:
    """r_a, as it lies under each mask (B, H, W): 1 at its highest values, a share `area` of all, 0 elsewhere.

    Values that are equal, as all are at the start, are ranked by what the score gains with them.
    """
    flat, slope = masks.flatten(1), gain.flatten(1)
    largest = slope.abs().amax(dim=1, keepdim=True)
    order = flat + 1e-5 * slope / torch.where(largest > 0, largest, 1)
    count = min(max(1, round(area * flat.shape[1])), flat.shape[1])
    top = order.topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter_(1, top, 1).view_as(masks)


def _extremal_perturbation(case: Case, _: Sequence[Layer], options: Options) -> Evidence:
    targets = case.targets
    images = case.images.detach().to(torch.promote_types(case.network.precision.forward, torch.float32))
    classes = targets.flatten()
    image = torch.arange(len(targets), device=targets.device).repeat_interleave(targets.shape[1])
    batch = options["batch_size"] or case.network.portion(images.device)
    with matrix_precision(case.network.precision, images.device):
        found = [
            _optimise(case, images[image[chunk]], classes[chunk], options["area"], options["steps"])
            for chunk in chunks(len(classes), batch)
        ]
    return Evidence(case.logits, targets, [Whole(torch.cat(found).view(*targets.shape, *images.shape[2:]))])


def _check(options: Options) -> None:
    check_number("area", options["area"], "a share between 0 and 1", lambda area: 0 < area < 1)
    check_whole("steps", options["steps"])
    check_batch_size(options["batch_size"])


EXTREMAL_PERTURBATION = Method(
    name="extremal_perturbation",
    family="score",
    paper="Fong et al. 2019",
    find=_extremal_perturbation,
    relu=False,
    layer="none",
    forwards="1 + steps x targets",
    backwards="steps, to the image",
    options={"area": 0.1, "steps": 800, "batch_size": None},
    check=_check,
)
