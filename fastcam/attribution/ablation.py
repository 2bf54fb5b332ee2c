"""Ablation-CAM: a channel's weight is what the class's logit loses without it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_batch_size
from fastcam.attribution.classifier import NoClassifierError, classifier_of
from fastcam.attribution.masks import live_channels
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.attribution.scoring import scores_of
from fastcam.network.graph import shape
from fastcam.network.layers import Layer
from fastcam.network.plan import Values
from fastcam.network.portions import fitted

# Numbers of the layer in memory at a time, copied once per ablated channel.
_NUMBERS = {"cpu": 2**20, "cuda": 2**26}


def _ablation_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    wide = torch.promote_types(case.logits.dtype, torch.float32)
    y = case.logits.to(wide).gather(1, case.targets).unsqueeze(2)
    parts, skipped = [], []
    for layer in layers:
        activation = case.value(layer.node)
        live = live_channels(activation)
        drops = _drops(case, layer, activation, live, options)
        parts.append(Weighted(activation, drops / torch.where(y == 0, 1, y)))
        skipped.append((~live).sum(dim=1))
    return Evidence(case.logits, case.targets, parts, {"skipped_channels": skipped})


def _drops(case: Case, layer: Layer, activation: Tensor, live: Tensor, options: Options) -> Tensor:
    """y_c - y_c without channel k: (N, T, K)."""
    try:
        weight = classifier_of(case.network, layer)
    except NoClassifierError:
        return _by_head(case, layer, activation, live, options)
    # y_c = sum_k w_ck mean(A_k) + b_c
    wide = torch.promote_types(case.logits.dtype, torch.float32)
    w = case.network.weights.value(weight)[case.targets].to(wide)
    return w * activation.mean(dim=(2, 3), dtype=wide).unsqueeze(1)


def _by_head(case: Case, layer: Layer, activation: Tensor, live: Tensor, options: Options) -> Tensor:
    """Runs what lies behind the layer once per channel that is not 0 everywhere, many at a time."""
    network, graph, targets = case.network, case.network.graph, case.targets
    others = network.once(("frontier", layer.node), lambda: graph.frontier(layer.node))
    # Where a connection goes around the layer, what lies behind it reads more than the layer.
    values = network.forward(case.images, others)[1] if others else {}
    around = {node: values[node] for node in others}
    image, channel = live.nonzero(as_tuple=True)
    limit = _NUMBERS.get(activation.device.type, _NUMBERS["cuda"])
    batch = options["batch_size"] or fitted(max(1, limit // activation[0].numel()))

    def answer(chunk: slice) -> Tensor:
        n, k = image[chunk], channel[chunk]
        without = activation[n]
        without[torch.arange(len(n), device=n.device), k] = 0
        logits: Tensor = network.run_from({layer.node: without, **_chosen(around, n)}, [graph.logits])[graph.logits]
        return logits

    y = case.logits.to(torch.promote_types(case.logits.dtype, torch.float32)).gather(1, targets)
    left = scores_of(answer, targets[image], y.dtype, batch=batch, score="logit")
    drops = y.new_zeros((*targets.shape, activation.shape[1]))
    drops[image, :, channel] = y[image] - left
    return drops


def _chosen(values: Values, image: Tensor) -> Values:
    """The rows `image` of values that have one for each image."""
    return {node: value[image] if shape(node)[0] == -1 else value for node, value in values.items()}


def _check(options: Options) -> None:
    check_batch_size(options["batch_size"])


ABLATION_CAM = Method(
    name="ablation_cam",
    family="score",
    paper="Desai and Ramaswamy 2020",
    find=_ablation_cam,
    relu=True,
    forwards="1, and 1 for each layer that a connection goes around; of the head: channels that are not 0, or none if "
    "it is pooling and one linear layer",
    options={"batch_size": None},
    check=_check,
)
