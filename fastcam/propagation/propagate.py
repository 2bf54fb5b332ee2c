"""Relevance of a whole network: one forward pass that keeps the gates, one gated pass back.

Which rule each operation takes is a `RuleSet` (`fastcam.propagation.rule` tells how to write one); z+ unless given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from fastcam.network.graph import Graph
from fastcam.network.network import Network
from fastcam.network.plan import Plan, Values, evaluate, make_plan
from fastcam.network.precision import matrix_precision
from fastcam.ops.seeds import FUSED_SEEDS, SEEDS
from fastcam.propagation.composites import Composite
from fastcam.propagation.operations import Mask
from fastcam.propagation.rule import Call, Form, Pullback, Rule, RuleSet, Signal
from fastcam.propagation.transposed import Spread, WayBack

Targets = Callable[[Tensor], Tensor]
Seed = str | Callable[[Tensor, Tensor], Tensor]
Read = Callable[[Tensor, Form, Tensor], Tensor]
Lost = dict[fx.Node, Tensor]


@dataclass(frozen=True, eq=False)
class Route:
    """The way of relevance from where it starts, the logits as a rule, to some layers.

    receivers: for each node on the way, the operands that its relevance goes to.
    form: the form in which the signal of each node is added up.
    """

    start: fx.Node
    plan: Plan
    rules: dict[fx.Node, Rule]
    receivers: dict[fx.Node, tuple[fx.Node, ...]]
    form: dict[fx.Node, Form]

    def sent(self, node: fx.Node) -> Form:
        """The form in which a node's rule sends its signal on."""
        return self.rules[node].sends(self.form[node])


def find_route(
    network: Network, layers: Sequence[fx.Node], rules: RuleSet | None = None, *, start: fx.Node | None = None
) -> Route:
    """The operations between `layers` and the logits, and the rule of each; found once per network.

    layers: `network.graph.images` is one of them, where relevance is to go to the input.
    rules: z+ unless given.
    start: the node whose relevance is given, in place of the logits.

    Raises ValueError where an operation on the way has no rule, or where relevance never reaches a layer.
    """
    chosen = Composite() if rules is None else rules
    given = network.graph.logits if start is None else start
    return network.once(("route", chosen, given, *layers), lambda: _find_route(network.graph, layers, chosen, given))


def _find_route(graph: Graph, layers: Sequence[fx.Node], chosen: RuleSet, start: fx.Node) -> Route:
    downstream = graph.descendants(layers)
    behind = set().union(*(graph.descendants([layer]) - {layer} for layer in layers))
    plan = make_plan(graph, (start, *layers), apart=behind)
    rules: dict[fx.Node, Rule] = {}
    receivers: dict[fx.Node, tuple[fx.Node, ...]] = {}
    form = {start: Form.R}
    for step in reversed(plan.steps):
        node = step.node
        if node not in form or node not in behind:
            continue
        rules[node] = chosen.rule_for(step, graph)
        receivers[node] = tuple(s for s in rules[node].receivers(step, graph) if s in downstream)
        for source in receivers[node]:
            if form.get(source) is not Form.R:
                form[source] = rules[node].sends(form[node])
    for layer in layers:
        if layer not in form:
            whence = "the logits" if start is graph.logits else repr(start.name)
            raise ValueError(f"layer: no relevance reaches {layer.name!r} from {whence}")
    return Route(start, plan, rules, receivers, form)


def propagate(
    network: Network,
    route: Route,
    images: Tensor,
    layers: Sequence[fx.Node],
    targets: Targets,
    seed: Seed,
    read: Read | None = None,
    lost: Lost | None = None,
    given: Mapping[fx.Node, Tensor] | None = None,
) -> tuple[Tensor, Values, list[Tensor]]:
    """Run forward and back; return the start's value, the layers' activations, and what `read` makes of each layer.

    The start is `route.start`: the logits (N, classes), or a layer's activation (N, K, h, w) where the route says so.

    targets: value of the start -> classes (N, T).
    seed: the relevance to start with: a name of `fastcam.ops.seeds`, at the logits; or a function from the value of the
        start and the targets to relevance (N, T, classes), at a layer (N, T, K, h, w). At a layer, both functions may
        first run the rest of the network from its activation (`network.plan`, with `feeds`).
    read: (signal (T, N, ...), its form, activation (N, ...)) -> anything; called once per layer. Without it, the sum
        of the layer's relevance over positions, (N, T, K).
    lost: if given, told for each node on the way the relevance that came to it minus what it sent on, (N, T). To know
        that, every value on the way is kept, and nothing is fused.
    given: what rules find in `Call.given`.
    """
    with torch.inference_mode(False), torch.no_grad(), matrix_precision(network.precision, images.device):
        values, kept, pullbacks = _forward(network, route, images, given or {}, keep_all=lost is not None)
        start = values[route.start]
        signals = _start(route, start, targets(start), seed, pullbacks, fused=lost is None)
        found = _backward(route, signals, pullbacks, kept, layers, values, read, lost)
    return start, values, found


def _forward(
    network: Network, route: Route, images: Tensor, given: Mapping[fx.Node, Tensor], *, keep_all: bool
) -> tuple[Values, Values, dict[fx.Node, Pullback]]:
    """Make all values; keep those that a change of form needs, and the way back through each operation."""
    mixed = {
        source
        for node, sources in route.receivers.items()
        for source in sources
        if keep_all or route.sent(node) is not route.form[source]
    }
    mixed |= {route.start} if keep_all else set()
    values: Values = {network.graph.images: network.prepare(images)}
    kept: Values = {node: value for node, value in values.items() if node in mixed}
    pullbacks: dict[fx.Node, Pullback] = {}
    for planned in route.plan.steps:
        step = replace(planned, overwrites=None) if keep_all or planned.overwrites in mixed else planned
        node = step.node
        if node in route.rules:
            call = Call(step, route.form[node], route.receivers[node], network, given)
            values[node], pullbacks[node] = route.rules[node].forward(call, values)
        else:
            values[node] = evaluate(step, values, network.weights)
        if node in mixed:
            kept[node] = values[node]
        for released in step.releases:
            del values[released]
    return values, kept, pullbacks


def _start(
    route: Route, value: Tensor, targets: Tensor, seed: Seed, pullbacks: dict[fx.Node, Pullback], *, fused: bool
) -> dict[fx.Node, Signal]:
    """The first signal: at the start, or right behind it where a linear layer makes it."""
    node = route.start
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    last = pullbacks.get(node)
    fused = fused and isinstance(seed, str) and seed in FUSED_SEEDS
    if fused and isinstance(last, Spread) and _receiving(route, node) is Form.G:
        assert isinstance(seed, str)
        del pullbacks[node]
        return {route.receivers[node][0]: last.from_seed(wide, targets, seed)}
    relevance = SEEDS[seed] if isinstance(seed, str) else seed
    return {node: Signal(relevance(wide, targets).to(wide.dtype).transpose(0, 1))}


def _backward(
    route: Route,
    signals: dict[fx.Node, Signal],
    pullbacks: dict[fx.Node, Pullback],
    kept: Values,
    layers: Sequence[fx.Node],
    values: Values,
    read: Read | None,
    lost: Lost | None,
) -> list[Tensor]:
    found: dict[fx.Node, Tensor] = {}
    take = read or _channel_sums

    def gather(layer: fx.Node, part: Tensor) -> None:
        found[layer] = found[layer] + part if layer in found else part

    for step in reversed(route.plan.steps):
        node = step.node
        if node not in signals:
            continue
        signal = signals.pop(node)
        if node in layers:
            gather(node, take(signal.tensor, route.form[node], values[node]))
        if node not in pullbacks:
            continue
        pullback = pullbacks.pop(node)
        if lost is None and isinstance(pullback, WayBack) and route.sent(node) is Form.G is _receiving(route, node):
            (source,) = route.receivers[node]
            waiting = signals.pop(source, None)
            others = None if waiting is None else waiting.tensor
            if read is None and source in layers and source not in route.rules:
                # The way ends here: what each convolution sends is summed by itself, and never written.
                gather(source, pullback.channel_sums(signal.tensor, values[source], others).transpose(0, 1))
            else:
                (signals[source],) = pullback(signal.tensor, others)
            continue
        if isinstance(pullback, Mask) and signal.fresh and lost is None:
            sent = pullback.overwrite(signal.tensor)
        else:
            sent = pullback(signal.tensor)
        if lost is not None:
            parts = zip(sent, route.receivers[node], strict=True)
            came = _total(signal.tensor, route.form[node], kept[node])
            lost[node] = came - sum(_total(s.tensor, route.sent(node), kept[source]) for s, source in parts)
        for source, part in zip(route.receivers[node], sent, strict=True):
            if route.sent(node) is not route.form[source]:
                part = Signal(part.tensor * kept[source], fresh=True)
            signals[source] = _sum(signals.get(source), part)
    # The images are nobody's result: what was sent to them waits here.
    for node in layers:
        if node in signals:
            gather(node, take(signals[node].tensor, route.form[node], values[node]))
    return [found[layer] for layer in layers]


def _receiving(route: Route, node: fx.Node) -> Form:
    """The form in which the signal of the only receiver is added up."""
    (source,) = route.receivers[node]
    return route.form[source]


def _total(signal: Tensor, form: Form, activation: Tensor) -> Tensor:
    """The sum of a signal's relevance: (T, N, ...) -> (N, T)."""
    relevance = signal if form is Form.R else signal * activation
    wide = torch.promote_types(relevance.dtype, torch.float32)
    return relevance.flatten(2).sum(dim=2, dtype=wide).transpose(0, 1)


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
