"""Relevance by rules that are not linear in it: RAP, RSP and AGF."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.method import Evidence, Method, Options, Whole, the_layers
from fastcam.attribution.propagated import check_first, first_rule, propagated, route_to
from fastcam.network.layers import Layer
from fastcam.propagation.agf import agf_rules, factorised_layers, gradients, last_input
from fastcam.propagation.products import wide
from fastcam.propagation.rap import rap_rules
from fastcam.propagation.rsp import rsp_rules


def _rap(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    found = propagated(case, layers, rap_rules(first_rule(options)), "one_hot")
    return Evidence(found.value, case.resolve(found.value), [Whole(r) for r in found.maps], found.left_out())


def _rsp(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    rules, images = rsp_rules(first_rule(options)), [Layer("input", case.network.graph.images)]
    targets = case.targets
    found = [
        propagated(case, images, rules, _Sections(case.gradient(at.node)), targets=lambda _: targets, start=at.node)
        for at in layers
    ]
    report = {"lost_relevance": [f.lost for f in found if f.lost is not None]} if case.report else {}
    return Evidence(case.logits, targets, [Whole(f.maps[0]) for f in found], report)


@dataclass(frozen=True, eq=False)
class _Sections:
    """A_k mean(g_k) as shares of its maximum; where no value is positive, of its largest magnitude.

    g: (N, T, K, h, w), the gradient by the activation A (N, K, h, w) -> (N, T, K, h, w).
    """

    g: Tensor

    def __call__(self, activation: Tensor, _: Tensor) -> Tensor:
        wide = torch.promote_types(self.g.dtype, torch.float32)
        contributions = activation.to(wide).unsqueeze(1) * self.g.mean(dim=(3, 4), keepdim=True, dtype=wide)
        largest, magnitude = (c.amax(dim=(2, 3, 4), keepdim=True) for c in (contributions, contributions.abs()))
        by = torch.where(largest > 0, largest, magnitude)
        return contributions / torch.where(by > 0, by, 1)


def _agf(case: Case, layers: Sequence[Layer], options: Options) -> Evidence:
    start, rules = last_input(case.network.graph), agf_rules(first_rule(options))
    leaves = [start, *factorised_layers(route_to(case, layers, rules, start=start))]
    g = gradients(case.network, case.images, case.resolve, leaves)
    targets = case.resolve(g.logits)

    def seed(x: Tensor, _: Tensor) -> Tensor:
        of_start = wide(g.by_leaf[start]) * g.scale.view(*g.scale.shape, *[1] * (x.dim() - 1))
        return x.unsqueeze(1) * of_start.transpose(0, 1)

    found = propagated(case, layers, rules, seed, targets=lambda _: targets, start=start, given=g.by_leaf)
    return Evidence(g.logits, targets, [Whole(r) for r in found.maps], found.left_out())


_OPTIONS: Options = {"first": "zB", "pixel_range": None}

RAP = Method(
    name="rap",
    family="relevance",
    paper="Nam et al. 2020",
    find=_rap,
    relu=False,
    signed=True,
    layer="input",
    forwards="1",
    backwards="1",
    options=_OPTIONS,
    check=check_first,
)
RSP = Method(
    name="rsp",
    family="relevance",
    paper="Nam et al. 2021",
    find=_rsp,
    relu=False,
    signed=True,
    forwards="1 + 1 up to the layer",
    backwards="1 + 1 through what lies before it",
    leaves=the_layers,
    options=_OPTIONS,
    check=check_first,
)
AGF = Method(
    name="agf",
    family="relevance",
    paper="Gur et al. 2021",
    find=_agf,
    relu=False,
    signed=True,
    layer="input",
    forwards="2",
    backwards="2",
    options=_OPTIONS,
    check=check_first,
)
