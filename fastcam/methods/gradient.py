"""Gradient methods: channel weights from the derivative of a logit by the activations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcam.methods.method import Evidence, Method, Resolve
from fastcam.network.layers import Layer
from fastcam.network.network import Network
from fastcam.network.precision import matrix_precision


def _grad_cam(
    network: Network, images: Tensor, layers: Sequence[Layer], resolve: Resolve, _: Mapping[str, Any]
) -> Evidence:
    nodes = [layer.node for layer in layers]
    logits, values = network.forward(images, nodes, leaves=nodes)
    targets = resolve(logits.detach())
    activations = [values[node] for node in nodes]
    with torch.inference_mode(False), torch.enable_grad(), matrix_precision(network.precision, images.device):
        scores = logits.gather(1, targets).sum(dim=0).unbind()
    # alpha_k = 1/(h w) sum_xy dy_c / dA_k(x, y)
    weights = [
        [g.mean(dim=(2, 3), dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
        for gradients in _gradients(scores, activations, network, images)
    ]
    return Evidence(
        logits=logits.detach(),
        targets=targets,
        activations=[activation.detach() for activation in activations],
        weights=[torch.stack(per_target, dim=1) for per_target in zip(*weights, strict=True)],
    )


def _gradients(
    scores: Sequence[Tensor], activations: Sequence[Tensor], network: Network, images: Tensor
) -> list[tuple[Tensor, ...]]:
    """For each target's score, its derivative by every activation: one pass through the head per target."""
    last = len(scores) - 1
    with matrix_precision(network.precision, images.device):
        return [torch.autograd.grad(score, list(activations), retain_graph=t < last) for t, score in enumerate(scores)]


GRAD_CAM = Method(name="grad_cam", relu=True, find=_grad_cam)
