"""What the methods made of relevance share: from seeds to maps, with a report of what was lost on the way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fastcam.attribution.case import Case
from fastcam.attribution.method import LeftOut, Options
from fastcam.network.layers import Layer
from fastcam.propagation.composites import composite
from fastcam.propagation.propagate import Lost, Route, Seed, find_route, propagate
from fastcam.propagation.relevance import by_label, check_pixels
from fastcam.propagation.rule import Form, Rule, RuleSet


@dataclass(frozen=True, eq=False)
class Propagated:
    """value: of the start. maps: per layer, relevance summed over the channels, (N, T, h, w) for T seeds.

    lost: by the name of each operation on the way what it lost, (N, T); None where the call asked for no report.
    """

    value: Tensor
    maps: list[Tensor]
    lost: Mapping[str, Tensor] | None

    def left_out(self) -> Mapping[str, Sequence[LeftOut]]:
        """The report of `Evidence`."""
        return {} if self.lost is None else {"lost_relevance": [self.lost] * len(self.maps)}


def propagated(
    case: Case,
    layers: Sequence[Layer],
    rules: RuleSet,
    seed: Seed,
    *,
    targets: Callable[[Tensor], Tensor] | None = None,
    start: fx.Node | None = None,
    given: Mapping[fx.Node, Tensor] | None = None,
) -> Propagated:
    """One propagation; arguments as of `fastcam.propagation.propagate.propagate`."""
    nodes = [layer.node for layer in layers]
    route = route_to(case, layers, rules, start=start)
    check_pixels(route, case.given, case.checks)
    lost: Lost | None = {} if case.report else None
    network = case.network
    value, _, maps = propagate(
        network, route, case.images, nodes, targets or case.resolve, seed, _channel_sum, lost, given
    )
    return Propagated(value, maps, None if lost is None else by_label(lost, network.graph))


def route_to(case: Case, layers: Sequence[Layer], rules: RuleSet, *, start: fx.Node | None = None) -> Route:
    """The way of relevance to the layers."""
    return find_route(case.network, [layer.node for layer in layers], rules, start=start)


def first_rule(options: Options) -> Rule | None:
    """The rule of the first layers: options `first` and `pixel_range`."""
    return composite(first=options["first"], pixel_range=options["pixel_range"]).first


def check_first(options: Options) -> None:
    """Raise ValueError for invalid options `first` and `pixel_range`."""
    first_rule(options)


def _channel_sum(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """sum_k R_k: (T, N, K, h, w) -> (N, T, h, w), in at least float32."""
    relevance = signal if form is Form.R else signal * activation
    return relevance.sum(dim=2, dtype=torch.promote_types(relevance.dtype, torch.float32)).transpose(0, 1)
