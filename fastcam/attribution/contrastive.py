"""Relevance of a class against others: two seeds, of one propagation, and the difference of what they give."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, LeftOut, Method, Options, Whole
from fastcam.attribution.propagated import Propagated, check_first, first_rule, propagated
from fastcam.network.arguments import check_choice
from fastcam.network.layers import Layer
from fastcam.ops import seeds
from fastcam.propagation.composites import Composite, composite
from fastcam.propagation.negated import HALF_NEGATED


def _clrp(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    negated = options["contrast"] == "negated"
    rules = Composite(first=first_rule(options), classifier=HALF_NEGATED if negated else None)
    found = propagated(case, layers, rules, _target_twice if negated else _target_and_others)
    parts = []
    for own, other in map(_halves, found.maps):
        # each map as shares of its sum
        parts.append(Whole(_scaled(own, 1 / _total(own)) - _scaled(other, 1 / _total(other))))
    return Evidence(found.value, case.resolve(found.value), parts, _left_out(found))


def _sglrp(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    found = propagated(case, layers, Composite(first=first_rule(options)), _probabilities)
    parts = []
    for own, other in map(_halves, found.maps):
        parts.append(Whole(own - _scaled(other, _total(own) / _total(other))))
    return Evidence(found.value, case.resolve(found.value), parts, _left_out(found))


def _excitation_backprop(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    rules = composite(classifier="contrastive" if options["contrastive"] else "same")
    found = propagated(case, layers, rules, "probability")
    return Evidence(found.value, case.resolve(found.value), [Whole(r) for r in found.maps], found.left_out())


def _target(logits: Tensor, targets: Tensor) -> Tensor:
    """|z_t| at the target, and 1 for z_t = 0: relevance_cam's seed without the other classes."""
    return seeds.clrp(logits, targets).clamp(min=0)


def _target_twice(logits: Tensor, targets: Tensor) -> Tensor:
    """Seeds (N, 2 T, classes): the target's, twice."""
    return _target(logits, targets).repeat(1, 2, 1)


def _target_and_others(logits: Tensor, targets: Tensor) -> Tensor:
    """Seeds (N, 2 T, classes): the target's; |z_n| at all other classes."""
    others = logits.abs().unsqueeze(1).expand(-1, targets.shape[1], -1).scatter(2, targets.unsqueeze(2), 0.0)
    return torch.cat((_target(logits, targets), others), dim=1)


def _probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Seeds (N, 2 T, classes): p_t (1 - p_t) at the target; p_t p_n at all other classes."""
    difference = seeds.sglrp(logits, targets)
    return torch.cat((difference.clamp(min=0), (-difference).clamp(min=0)), dim=1)


def _halves(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of both seeds, (N, 2 T, h, w) -> (N, T, h, w) each."""
    own, other = maps.chunk(2, dim=1)
    return own, other


def _total(maps: Tensor) -> Tensor:
    return maps.sum(dim=(2, 3), keepdim=True)


def _scaled(maps: Tensor, factor: Tensor) -> Tensor:
    """Maps times a factor each, 0 where it is none (the sum that it was to be made of is 0)."""
    return maps * torch.where(factor.isfinite(), factor, 0)


def _left_out(found: Propagated) -> Mapping[str, Sequence[LeftOut]]:
    """The report, of both seeds."""
    if found.lost is None:
        return {}
    halves = {name: amount.chunk(2, dim=1) for name, amount in found.lost.items()}
    names = ("lost_relevance", "lost_relevance_of_contrast")
    return {
        name: [{place: half[i] for place, half in halves.items()}] * len(found.maps) for i, name in enumerate(names)
    }


def _check_clrp(options: Options) -> None:
    check_choice("contrast", options["contrast"], ("others", "negated"))
    check_first(options)


CLRP = Method(
    name="clrp",
    family="relevance",
    paper="Gu et al. 2018",
    find=_clrp,
    relu=True,
    signed=True,
    layer="input",
    forwards="1",
    backwards="2",
    options={"contrast": "others", "first": "zB", "pixel_range": None},
    check=_check_clrp,
)
SGLRP = Method(
    name="sglrp",
    family="relevance",
    paper="Iwana et al. 2019",
    find=_sglrp,
    relu=False,
    signed=True,
    layer="input",
    forwards="1",
    backwards="2",
    options={"first": "zB", "pixel_range": None},
    check=check_first,
)
EXCITATION_BACKPROP = Method(
    name="excitation_backprop",
    family="relevance",
    paper="Zhang et al. 2018",
    find=_excitation_backprop,
    relu=False,
    signed=True,
    forwards="1",
    backwards="1",
    options={"contrastive": False},
    check=lambda options: check_choice("contrastive", options["contrastive"], (False, True)),
)
