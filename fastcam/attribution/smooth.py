"""Smooth Grad-CAM++: the moments of the gradient over noisy copies of the images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fastcam.attribution.case import Case, Pass
from fastcam.attribution.layer_gradient import wide
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.network.layers import Layer
from fastcam.network.portions import fitted

# Noisy images per pass, if so many do not fit one copy of the call's images. See _BATCH of fastcam.attribution.score.
_BATCH = {"cpu": 8, "cuda": 128}

# Sums of g, g^2, g^3 over the noisy copies, each (N, T, K, h, w).
Moments = list[Tensor]


def _smooth_grad_cam_pp(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    nodes = tuple(dict.fromkeys(layer.node for layer in layers))
    moments = _moments(case, nodes, options)
    parts = [
        Weighted(case.value(layer.node), _weights(case.value(layer.node), moments[layer.node], options["samples"]))
        for layer in layers
    ]
    return Evidence(case.logits, case.targets, parts)


def _weights(a: Tensor, sums: Moments, samples: int) -> Tensor:
    """sum_xy D2 / (2 D2 + S D3) relu(D1), Dp the mean of g^p, S = sum_xy A; 0 where the denominator is 0."""
    first, second, third = sums
    total = a.sum(dim=(2, 3), dtype=third.dtype)[:, None, :, None, None]
    below = (third * total).add_(second, alpha=2)
    singular = below == 0
    # The divisor of the mean cancels in the fraction.
    return (second / below).masked_fill_(singular, 0).mul_(first.clamp(min=0)).sum(dim=(3, 4)) / samples


def _moments(case: Case, nodes: tuple[fx.Node, ...], options: Options) -> dict[fx.Node, Moments]:
    """The sums of g^p at each node: as many noisy copies in a pass as a batch holds, at least one."""
    images, targets, network = case.images, case.targets, case.network
    batch = fitted(_BATCH.get(images.device.type, _BATCH["cuda"])) if network.graph.dynamic_batch else 1
    copies = max(batch // len(images), 1)
    sums: dict[fx.Node, Moments] = {}
    for start in range(0, options["samples"], copies):
        count = min(copies, options["samples"] - start)
        # Drawn copy by copy: the outcome does not depend on how many share a pass.
        noisy = torch.cat([images + options["std"] * _noise(images, options["generator"]) for _ in range(count)])
        gradients = Pass(network, noisy, (), nodes).gradients(targets.repeat(count, 1))
        for node, gradient in gradients.items():
            found = _powers(gradient.to(wide(gradient)).unflatten(0, (count, len(images))))
            sums[node] = found if node not in sums else [s.add_(f) for s, f in zip(sums[node], found, strict=True)]
    return sums


def _powers(g: Tensor) -> Moments:
    """The sums of g, g^2, g^3 over the first dimension."""
    power = g * g
    second = power.sum(dim=0)
    return [g.sum(dim=0), second, power.mul_(g).sum(dim=0)]


def _noise(images: Tensor, generator: torch.Generator | None) -> Tensor:
    device = images.device if generator is None else generator.device
    return torch.randn(images.shape, generator=generator, device=device, dtype=images.dtype).to(images.device)


def _check(options: Options) -> None:
    samples, std, generator = options["samples"], options["std"], options["generator"]
    if type(samples) is not int or samples < 1:
        raise ValueError(f"samples: {samples!r} given, a positive integer is valid")
    if type(std) not in (int, float) or not (std >= 0 and math.isfinite(std)):
        raise ValueError(f"std: {std!r} given, a finite number of at least 0 is valid")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} given, None or a torch.Generator is valid")


SMOOTH_GRAD_CAM_PP = Method(
    name="smooth_grad_cam_pp",
    family="gradient",
    paper="Omeiza et al. 2019",
    find=_smooth_grad_cam_pp,
    relu=True,
    forwards="1 + samples",
    backwards="samples",
    options={"samples": 4, "std": 0.3, "generator": None},
    check=_check,
)
