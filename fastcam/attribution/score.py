"""Score methods: channel weights from the network's answers to masked images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam import ops
from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.network.arguments import check_choice
from fastcam.network.layers import Layer

# Masked images per forward pass. On a CPU few: activations beyond 32 MB are given back to the system after every
# use, and each new page costs as much as the arithmetic. Elsewhere enough to fill the device.
_BATCH = {"cpu": 6, "cuda": 128}


def _score_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    network, targets = case.network, case.targets
    prepared = network.prepare(case.images)
    blank, _ = network.forward(torch.zeros_like(prepared[:1]))
    blank_score = _score(blank, options).expand(len(prepared), -1).gather(1, targets)
    batch = options["batch_size"] or _BATCH.get(prepared.device.type, _BATCH["cuda"])
    parts, skipped = [], []
    for layer in layers:
        activation = case.value(layer.node)
        live = activation.abs().amax(dim=(2, 3)) != 0
        # A channel that is 0 everywhere masks the whole image; its term is 0 whatever its weight.
        scores = blank_score.unsqueeze(2).repeat(1, 1, activation.shape[1])
        image, channel = live.nonzero(as_tuple=True)
        for start in range(0, len(image), batch):
            chunk = slice(start, start + batch)
            masked = ops.masked_inputs(prepared, activation, image[chunk], channel[chunk], None)
            answers, _ = network.forward(masked)
            of = targets[image[chunk]]
            scores[image[chunk], :, channel[chunk]] = _score(answers, options).gather(1, of)
        parts.append(Weighted(activation, _weights(scores, blank_score, options)))
        skipped.append((~live).sum(dim=1))
    return Evidence(case.logits, targets, parts, {"skipped_channels": skipped})


def _score(logits: Tensor, options: Options) -> Tensor:
    """p or y of every class, in at least float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.softmax(dim=1) if options["score"] == "probability" else wide


def _weights(scores: Tensor, blank_score: Tensor, options: Options) -> Tensor:
    """alpha_k from the scores (N, T, K) of the masked images."""
    if options["baseline"] == "zeros":
        scores = scores - blank_score.unsqueeze(2)
    return scores.softmax(dim=2) if options["weights"] == "softmax" else scores


def _check(options: Options) -> None:
    check_choice("baseline", options["baseline"], ("zeros", None))
    check_choice("score", options["score"], ("probability", "logit"))
    check_choice("weights", options["weights"], ("increase", "softmax"))
    size = options["batch_size"]
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"batch_size: {size!r} given, None or a positive integer is valid")


SCORE_CAM = Method(
    name="score_cam",
    family="score",
    paper="Wang et al. 2020",
    find=_score_cam,
    relu=True,
    forwards="2 + channels that are not 0",
    options={"baseline": "zeros", "score": "probability", "weights": "increase", "batch_size": None},
    check=_check,
)
