"""CAMERAS: activations and gradients of the image at several sizes, brought to one resolution and averaged."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from fastcam.attribution.case import Case, Pass
from fastcam.attribution.checks import check_number, check_whole
from fastcam.attribution.method import Evidence, Method, Options, Weighted, the_layers
from fastcam.network.layers import Layer
from fastcam.ops.maps import upsample
from fastcam.propagation.products import wide


def sizes_of(size: Sequence[int], steps: int, largest: float) -> list[tuple[int, int]]:
    """The images' sizes: from their own to `largest` times that, in equal steps."""
    factors = [1 + (largest - 1) * i / max(1, steps - 1) for i in range(steps)]
    return [(round(size[0] * factor), round(size[1] * factor)) for factor in factors]


def _cameras(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    sizes = sizes_of(case.images.shape[2:], options["steps"], options["largest"])
    # The largest first: it gives the resolution that the others are brought to as they come, so that one size is in
    # memory at a time.
    sums: list[tuple[Tensor, Tensor]] = []
    for size in dict.fromkeys(reversed(sizes)):
        found = _at_size(case, layers, size)
        if not sums:
            sums = [(activation.clone(), g.clone()) for activation, g in found]
            continue
        for (total, total_g), (activation, g) in zip(sums, found, strict=True):
            at = (total.shape[2], total.shape[3])
            total += upsample(activation, at)
            total_g += upsample(g.flatten(0, 1), at).view_as(total_g)
    # relu(sum_k mean(A_k) mean(g_k)), the means taken over the sizes
    count = len(set(sizes))
    parts = [Weighted(total / count, total_g / count) for total, total_g in sums]
    return Evidence(case.logits, case.targets, parts)


def _at_size(case: Case, layers: Sequence[Layer], size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """A (N, K, h, w) and g (N, T, K, h, w) of each layer for the images at `size`."""
    if size == tuple(case.images.shape[2:]):
        return [(wide(case.value(layer.node)), wide(case.gradient(layer.node))) for layer in layers]
    images = F.interpolate(case.images.detach(), size=size, mode="bicubic", align_corners=False)
    network, nodes = case.at_size(images, layers)
    seen = Pass(network, images, keep=nodes, leaves=nodes)
    gradients = seen.gradients(case.targets)
    return [(wide(seen.value(node)), wide(gradients[node])) for node in nodes]


def _check(options: Options) -> None:
    check_whole("steps", options["steps"])
    check_number("largest", options["largest"], "a number of at least 1", lambda times: 1 <= times < float("inf"))


CAMERAS = Method(
    name="cameras",
    family="score",
    paper="Jalwana et al. 2021",
    find=_cameras,
    relu=True,
    forwards="steps, at up to 4.1 times the side",
    backwards="steps",
    leaves=the_layers,
    options={"steps": 8, "largest": 924 / 224},
    check=_check,
)
