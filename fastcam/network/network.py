"""A network: a captured model with its prepared weights, ready to run whole or in parts."""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, fx

from fastcam.network.graph import Graph, shape
from fastcam.network.nonnegative import nonnegative
from fastcam.network.plan import Operations, Plan, Values, make_plan, run
from fastcam.network.portions import fitted
from fastcam.network.precision import Precision, matrix_precision
from fastcam.network.weights import Weights

T = TypeVar("T")
# logits (N, classes) -> values (N, columns), differentiable, row by row
View = Callable[[Tensor], Tensor]

# Images per forward pass where nobody says: what fills a device. On a CPU fewer, and no more than keep the largest
# activation within 32 MiB: the C library maps larger memory afresh for every use and gives it back, which costs nets
# of 1x1 and depthwise convolutions up to a fifth of the time.
_PORTION, _PORTION_ON_CPU, _LARGEST_ON_CPU = 128, 8, 2**25


class Network:
    """A captured model at one precision."""

    def __init__(self, graph: Graph, state: Mapping[str, Tensor], precision: Precision) -> None:
        self.graph = graph
        self.precision = precision
        self.weights = Weights(graph, state, precision)
        self.nonnegative = nonnegative(graph)
        self.view: View | None = None
        self._made: dict[tuple[object, ...], object] = {}

    def through(self, view: View) -> "Network":
        """The same network, sharing all that is prepared, which answers with a function of its logits."""
        other = copy.copy(self)
        other.view = view
        return other

    def plan(
        self, outputs: Iterable[fx.Node], *, feeds: Iterable[fx.Node] | None = None, alone: Collection[object] = ()
    ) -> Plan:
        """The plan that computes `outputs` from `feeds` (the images unless given), made once; see `make_plan`."""
        wanted = tuple(outputs)
        given = None if feeds is None else tuple(feeds)
        key = ("plan", wanted, given, *alone)
        return self.once(key, lambda: make_plan(self.graph, wanted, feeds=given, alone=alone))

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """Make something that depends on the graph alone, or return what was made before."""
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])

    def portion(self, device: torch.device) -> int:
        """How many images a forward pass best takes at a time on this device."""
        if device.type != "cpu":
            return fitted(_PORTION)
        largest = self.once(("largest",), lambda: max(_numbers_per_image(node) for node in self.graph.nodes))
        within = max(_LARGEST_ON_CPU // (largest * self.precision.compute.itemsize), 1)
        return fitted(min(within, _PORTION_ON_CPU))

    def prepare(self, images: Tensor) -> Tensor:
        """Images in the network's dtype and memory layout."""
        return images.detach().to(dtype=self.precision.forward, memory_format=self.precision.memory_format)

    def forward(
        self,
        images: Tensor,
        outputs: Iterable[fx.Node] = (),
        *,
        leaves: Iterable[fx.Node] = (),
        operations: Operations | None = None,
    ) -> tuple[Tensor, Values]:
        """Return the logits, or the view of them, and the values of further nodes, in one run.

        leaves: nodes to record autograd's graph from (see `fastcam.network.plan.run`).
        operations: functions to run in place of some ATen operations, with the same arguments.
        """
        others = operations or {}
        plan = self.plan((self.graph.logits, *outputs), alone=tuple(others))
        feeds = {self.graph.images: self.prepare(images)}
        with matrix_precision(self.precision, images.device):
            values = run(plan, self.weights, feeds, leaves=leaves, operations=others)
        return self._viewed(values[self.graph.logits]), values

    def run_from(self, feeds: Mapping[fx.Node, Tensor], outputs: Iterable[fx.Node]) -> Values:
        """Compute `outputs` from the values of other nodes, without gradient; nothing before those is run."""
        wanted = tuple(outputs)
        device = next(iter(feeds.values())).device
        with matrix_precision(self.precision, device):
            values = run(self.plan(wanted, feeds=feeds), self.weights, feeds)
        logits = self.graph.logits
        return {**values, logits: self._viewed(values[logits])} if logits in wanted else values

    def _viewed(self, logits: Tensor) -> Tensor:
        if self.view is None:
            return logits
        with torch.set_grad_enabled(logits.requires_grad):
            return self.view(logits)


def _numbers_per_image(node: fx.Node) -> int:
    return math.prod(shape(node)[1:])
