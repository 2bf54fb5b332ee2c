"""A network: a captured model with its prepared weights, ready to run whole or in parts."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar, cast

from torch import Tensor, fx

from fastcam.network.graph import Graph
from fastcam.network.nonnegative import nonnegative
from fastcam.network.plan import Operations, Plan, Values, make_plan, run
from fastcam.network.precision import Precision, matrix_precision
from fastcam.network.weights import Weights

T = TypeVar("T")


class Network:
    """A captured model at one precision."""

    def __init__(self, graph: Graph, state: Mapping[str, Tensor], precision: Precision) -> None:
        self.graph = graph
        self.precision = precision
        self.weights = Weights(graph, state, precision)
        self.nonnegative = nonnegative(graph)
        self._made: dict[tuple[object, ...], object] = {}

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
        """Return the logits, and the values of further nodes, in one run.

        leaves: nodes to record autograd's graph from (see `fastcam.network.plan.run`).
        operations: functions to run in place of some ATen operations, with the same arguments.
        """
        others = operations or {}
        plan = self.plan((self.graph.logits, *outputs), alone=tuple(others))
        feeds = {self.graph.images: self.prepare(images)}
        with matrix_precision(self.precision, images.device):
            values = run(plan, self.weights, feeds, leaves=leaves, operations=others)
        return values[self.graph.logits], values

    def run_from(self, feeds: Mapping[fx.Node, Tensor], outputs: Iterable[fx.Node]) -> Values:
        """Compute `outputs` from the values of other nodes, without gradient; nothing before those is run."""
        wanted = tuple(outputs)
        device = next(iter(feeds.values())).device
        with matrix_precision(self.precision, device):
            return run(self.plan(wanted, feeds=feeds), self.weights, feeds)
