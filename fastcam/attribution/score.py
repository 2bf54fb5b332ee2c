"""Score methods whose channel weights are the network's answers to images masked by one channel each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam import ops
from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_batch_size, check_generator, check_number, check_whole
from fastcam.attribution.masks import layer_masks, live_channels, times
from fastcam.attribution.method import Evidence, Method, Options, Weighted
from fastcam.attribution.random_numbers import normal
from fastcam.attribution.scoring import ask, score_of
from fastcam.network.arguments import check_choice
from fastcam.network.layers import Layer
from fastcam.ops.maps import upsample


def _score_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    targets, score = case.targets, options["score"]
    prepared = case.network.prepare(case.images)
    blank = _blank(case, prepared, score)
    batch = options["batch_size"] or case.network.portion(prepared.device)
    parts, skipped = [], []
    for layer in layers:
        activation = case.value(layer.node)
        live = live_channels(activation)
        # A channel that is 0 everywhere masks the whole image; its term is 0 whatever its weight.
        scores = blank.unsqueeze(2).repeat(1, 1, activation.shape[1])
        image, channel = live.nonzero(as_tuple=True)

        def build(chunk: slice, a: Tensor = activation, n: Tensor = image, k: Tensor = channel) -> Tensor:
            masked: Tensor = ops.masked_inputs(prepared, a, n[chunk], k[chunk], None)
            return masked

        scores[image, :, channel] = ask(case.network, build, targets[image], batch=batch, score=score)
        parts.append(Weighted(activation, _weights(scores, blank, options)))
        skipped.append((~live).sum(dim=1))
    return Evidence(case.logits, targets, parts, {"skipped_channels": skipped})


def _blank(case: Case, prepared: Tensor, score: str) -> Tensor:
    """Scores (N, T) of an image of zeros."""
    logits, _ = case.network.forward(torch.zeros_like(prepared[:1]))
    return score_of(logits, score).expand(len(prepared), -1).gather(1, case.targets)


def _weights(scores: Tensor, blank: Tensor, options: Options) -> Tensor:
    """alpha_k from the scores (N, T, K) of the masked images."""
    if options["baseline"] == "zeros":
        scores = scores - blank.unsqueeze(2)
    return scores.softmax(dim=2) if options["weights"] == "softmax" else scores


def _check_score_cam(options: Options) -> None:
    check_choice("baseline", options["baseline"], ("zeros", None))
    check_choice("score", options["score"], ("probability", "logit"))
    check_choice("weights", options["weights"], ("increase", "softmax"))
    check_batch_size(options["batch_size"])


SCORE_CAM = Method(
    name="score_cam",
    family="score",
    paper="Wang et al. 2020",
    find=_score_cam,
    relu=True,
    forwards="2 + channels that are not 0",
    options={"baseline": "zeros", "score": "probability", "weights": "increase", "batch_size": None},
    check=_check_score_cam,
)


def _ss_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    targets, samples = case.targets, options["samples"]
    prepared = case.network.prepare(case.images)
    batch = options["batch_size"] or case.network.portion(prepared.device)
    size = (prepared.shape[2], prepared.shape[3])
    parts, skipped = [], []
    for layer in layers:
        activation = case.value(layer.node)
        masks = layer_masks(activation)
        live = live_channels(activation)
        # The mask of a channel that is 0 everywhere is noise alone: one of an image's stands for all of them in the
        # softmax's denominator. Their terms are 0.
        first = (~live).int().argmax(dim=1, keepdim=True)
        asked = live.scatter(1, first, True)
        image, channel = asked.nonzero(as_tuple=True)

        def build(chunk: slice, m: Tensor = masks, n: Tensor = image, k: Tensor = channel) -> Tensor:
            shown = upsample(m[n[chunk], k[chunk]].unsqueeze(1), size).squeeze(1)
            noise = normal(shown.shape, shown, options["generator"])
            return times(prepared, n[chunk], torch.add(shown, noise, alpha=options["std"]))

        found = [ask(case.network, build, targets[image], batch=batch, score="logit") for _ in range(samples)]
        scores = masks.new_zeros((*targets.shape, activation.shape[1]))
        scores[image, :, channel] = torch.stack(found).mean(dim=0)
        alike = scores.gather(2, first.unsqueeze(1).expand(-1, targets.shape[1], -1))
        parts.append(Weighted(activation, torch.where(live.unsqueeze(1), scores, alike).softmax(dim=2)))
        skipped.append((~asked).sum(dim=1))
    return Evidence(case.logits, targets, parts, {"skipped_channels": skipped})


def _check_ss_cam(options: Options) -> None:
    check_whole("samples", options["samples"])
    check_number("std", options["std"], "a number of at least 0", lambda std: 0 <= std < float("inf"))
    check_generator(options["generator"])
    check_batch_size(options["batch_size"])


SS_CAM = Method(
    name="ss_cam",
    family="score",
    paper="Wang, Naidu et al. 2020",
    find=_ss_cam,
    relu=True,
    forwards="1 + samples x channels, those that are 0 counting as one",
    options={"samples": 35, "std": 2.0, "generator": None, "batch_size": None},
    check=_check_ss_cam,
)


def _is_cam(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    targets, samples = case.targets, options["samples"]
    prepared = case.network.prepare(case.images)
    blank = _blank(case, prepared, "logit")
    batch = options["batch_size"] or case.network.portion(prepared.device)
    size = (prepared.shape[2], prepared.shape[3])
    scales = [i / samples for i in range(1, samples + 1)]
    if options["scales"] == "cumulative":
        scales = [sum(scales[:i]) for i in range(1, samples + 1)]
    parts, skipped = [], []
    for layer in layers:
        activation = case.value(layer.node)
        masks = layer_masks(activation)
        live = live_channels(activation)
        image, channel = live.nonzero(as_tuple=True)

        found = torch.zeros_like(targets[image], dtype=blank.dtype)
        for scale in scales:

            def build(
                chunk: slice, c: float = scale, m: Tensor = masks, n: Tensor = image, k: Tensor = channel
            ) -> Tensor:
                return times(prepared, n[chunk], c * upsample(m[n[chunk], k[chunk]].unsqueeze(1), size).squeeze(1))

            found += ask(case.network, build, targets[image], batch=batch, score="logit")
        # A channel that is 0 everywhere masks the whole image, however it is scaled.
        scores = blank.unsqueeze(2).repeat(1, 1, activation.shape[1])
        scores[image, :, channel] = found / samples
        parts.append(Weighted(activation, scores.softmax(dim=2)))
        skipped.append((~live).sum(dim=1))
    return Evidence(case.logits, targets, parts, {"skipped_channels": skipped})


def _check_is_cam(options: Options) -> None:
    check_whole("samples", options["samples"])
    check_choice("scales", options["scales"], ("linear", "cumulative"))
    check_batch_size(options["batch_size"])


IS_CAM = Method(
    name="is_cam",
    family="score",
    paper="Naidu et al. 2020",
    find=_is_cam,
    relu=True,
    forwards="2 + samples x channels that are not 0",
    options={"samples": 10, "scales": "linear", "batch_size": None},
    check=_check_is_cam,
)
