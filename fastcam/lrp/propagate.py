"""Relevance of a whole network: one forward pass that keeps the gates, one gated pass back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fastcam.lrp.rules import Call, Form, Pullback, Rule, Signal, Spread, Transposed, rule_for
from fastcam.network.graph import Graph
from fastcam.network.network import Network
from fastcam.network.plan import Plan, Values, evaluate, make_plan
from fastcam.network.precision import matrix_precision
from fastcam.ops.seeds import SEEDS

Targets = Callable[[Tensor], Tensor]
Read = Callable[[Tensor, Form, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Route:
    """The way of relevance from the logits to some layers.

    receivers: for each node on the way, the operands that its relevance goes to.
    form: the form in which the signal of each node is added up.
    ends: the nodes that are the last to send to a layer at which the way ends.
    """

    plan: Plan
    rules: dict[fx.Node, Rule]
    receivers: dict[fx.Node, tuple[fx.Node, ...]]
    form: dict[fx.Node, Form]
    ends: frozenset[fx.Node]

    def sent(self, node: fx.Node) -> Form:
        """The form in which a node's rule sends its signal on."""
        return self.rules[node].sends(self.form[node])


def find_route(network: Network, layers: Sequence[fx.Node]) -> Route:
    """The operations between `layers` and the logits, and the rule of each; found once per network.

    Raises ValueError where an operation on the way has no rule, or where relevance never reaches a layer.
    """
    return network.once(("route", *layers), lambda: _find_route(network.graph, layers))


def _find_route(graph: Graph, layers: Sequence[fx.Node]) -> Route:
    downstream = graph.descendants(layers)
    behind = set().union(*(graph.descendants([layer]) - {layer} for layer in layers))
    plan = make_plan(graph, (graph.logits, *layers), apart=behind)
    rules: dict[fx.Node, Rule] = {}
    receivers: dict[fx.Node, tuple[fx.Node, ...]] = {}
    form = {graph.logits: Form.R}
    for step in reversed(plan.steps):
        node = step.node
        if node not in form or node not in behind:
            continue
        rules[node] = rule_for(step, graph)
        receivers[node] = tuple(s for s in rules[node].receivers(step, graph) if s in downstream)
        for source in receivers[node]:
            if form.get(source) is not Form.R:
                form[source] = rules[node].sends(form[node])
    for layer in layers:
        if layer not in form:
            raise ValueError(f"layer: no relevance reaches {layer.name!r} from the logits")
    last = {source: node for node, sources in receivers.items() for source in sources}
    ends = frozenset(last[layer] for layer in layers if layer in last and layer not in rules)
    return Route(plan, rules, receivers, form, ends)


def propagate(
    network: Network,
    route: Route,
    images: Tensor,
    layers: Sequence[fx.Node],
    targets: Targets,
    seed: str,
    read: Read | None = None,
) -> tuple[Tensor, Values, list[Tensor]]:
    """Run forward and back; return the logits, the layers' activations, and what `read` makes of each layer.

    targets: logits (N, classes) -> classes (N, T).
    seed: the name of the relevance that they start with, of `fastcam.ops.seeds`.
    read: (signal (T, N, ...), its form, activation (N, ...)) -> anything; called once per layer. Without it, the sum
        of the layer's relevance over positions, (N, T, K).
    """
    with torch.inference_mode(False), torch.no_grad(), matrix_precision(network.precision, images.device):
        values, kept, pullbacks = _forward(network, route, images)
        logits = values[network.graph.logits]
        signals = _start(network, route, logits, targets(logits), seed, pullbacks)
        found = _backward(route, signals, pullbacks, kept, layers, values, read)
    return logits, values, found


def _forward(network: Network, route: Route, images: Tensor) -> tuple[Values, Values, dict[fx.Node, Pullback]]:
    """Make all values; keep those that a change of form needs, and the way back through each operation."""
    mixed = {
        source
        for node, sources in route.receivers.items()
        for source in sources
        if route.sent(node) is not route.form[source]
    }
    values: Values = {network.graph.images: network.prepare(images)}
    kept: Values = {}
    pullbacks: dict[fx.Node, Pullback] = {}
    for step in route.plan.steps:
        node = step.node
        if node in route.rules:
            call = Call(step, route.form[node], route.receivers[node], network)
            values[node], pullbacks[node] = route.rules[node].forward(call, values)
        else:
            values[node] = evaluate(step, values, network.weights)
        if node in mixed:
            kept[node] = values[node]
        for released in step.releases:
            del values[released]
    return values, kept, pullbacks


def _start(
    network: Network,
    route: Route,
    logits: Tensor,
    targets: Tensor,
    seed: str,
    pullbacks: dict[fx.Node, Pullback],
) -> dict[fx.Node, Signal]:
    """The first signal: at the logits, or right behind them where a linear layer makes them."""
    node = network.graph.logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    last = pullbacks.get(node)
    if isinstance(last, Spread) and route.form[route.receivers[node][0]] is Form.G:
        del pullbacks[node]
        return {route.receivers[node][0]: last.from_seed(wide, targets, seed)}
    return {node: Signal(SEEDS[seed](wide, targets).transpose(0, 1))}


def _backward(
    route: Route,
    signals: dict[fx.Node, Signal],
    pullbacks: dict[fx.Node, Pullback],
    kept: Values,
    layers: Sequence[fx.Node],
    values: Values,
    read: Read | None,
) -> list[Tensor]:
    found: dict[fx.Node, Tensor] = {}
    take = read or _channel_sums
    for step in reversed(route.plan.steps):
        node = step.node
        if node not in signals:
            continue
        signal = signals.pop(node)
        if node in layers:
            found[node] = take(signal.tensor, route.form[node], values[node])
        if node not in pullbacks:
            continue
        pullback = pullbacks.pop(node)
        if isinstance(pullback, Transposed) and route.form[route.receivers[node][0]] is Form.G:
            (source,) = route.receivers[node]
            waiting = signals.pop(source, None)
            others = None if waiting is None else waiting.tensor
            if read is None and node in route.ends:
                found[source] = pullback.channel_sums(signal.tensor, values[source], others).transpose(0, 1)
            else:
                (signals[source],) = pullback(signal.tensor, others)
            continue
        sent = pullback(signal.tensor)
        for source, part in zip(route.receivers[node], sent, strict=True):
            if route.sent(node) is not route.form[source]:
                part = Signal(part.tensor * kept[source], fresh=True)
            signals[source] = _sum(signals.get(source), part)
    return [found[layer] for layer in layers]


def _channel_sums(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """sum_xy R_k(x, y), R = A G (relevance-cam eq. 9): (T, N, K, h, w) -> (N, T, K)."""
    relevance = signal if form is Form.R else signal * activation
    wide = torch.promote_types(relevance.dtype, torch.float32)
    return relevance.sum(dim=(3, 4), dtype=wide).transpose(0, 1)


def _sum(a: Signal | None, b: Signal) -> Signal:
    """Add two signals, into the memory of one of them if it is nobody else's."""
    if a is None:
        return b
    if a.fresh:
        return Signal(a.tensor.add_(b.tensor), fresh=True)
    if b.fresh:
        return Signal(b.tensor.add_(a.tensor), fresh=True)
    return Signal(a.tensor + b.tensor, fresh=True)
