"""RAP, RSP and AGF as ``tests.textbook`` has the z+ rule: over its walk, every contribution a number of a matrix.

What is theirs: the layers' rules, and that averages and additions share by a measure of what they add, |x| or x+. They
are not linear in R, so a layer's rule is asked for one image and one target at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from tests.shares import normalised, quotient
from tests.textbook import (
    AVERAGES,
    Backward,
    Recorder,
    Tracer,
    logits_of,
    matrix,
    shared,
    undo_in_place,
    values_at,
    without_bias,
)


class Walk(Backward, ABC):
    """R of the images from R somewhere; ``layer_rule`` is the method's."""

    def __init__(self, model: nn.Module, images: Tensor, targets: Tensor, pixel_range: tuple[Any, Any]) -> None:
        tracer = Tracer()
        self.graph = tracer.trace(model)
        self.returned = tracer.returned
        undo_in_place(self.graph, dict(model.named_modules()))
        tape = Recorder(fx.GraphModule(model, self.graph))
        # With autograd's record: gradients by any value are asked for later.
        tape.run(images.clone().requires_grad_())
        super().__init__(tape, dense=True)
        self.targets = targets
        self.ends = values_at(pixel_range, model, self.graph, images)
        self.images = next(node for node in self.graph.nodes if node.op == "placeholder")

    @property
    def logits(self) -> Tensor:
        return self.tape.values[logits_of(self.graph)]

    def slopes(self, scores: list[Tensor], node: Node) -> Tensor:
        """The gradients of scores, one per image each, by a node's value: (T, N, ...)."""
        return torch.stack(
            [torch.autograd.grad(score.sum(), self.tape.values[node], retain_graph=True)[0] for score in scores]
        )

    def result(self, start: Node, r: Tensor) -> Tensor:
        """From R of ``start`` (T, N, ...) to that of the images, summed over RGB: (N, T, H, W)."""
        with torch.no_grad():
            self.run(self.graph, start, r)
        return self.relevance[self.images].sum(2).transpose(0, 1)

    def measure(self, x: Tensor) -> Tensor:
        return x.abs()

    def rule(self, node: Node, r: Any) -> list[tuple[Node, Any]]:
        kind, values = self.tape.kind(node), self.tape.values
        if self.is_layer(node):
            return [(node.args[0], self.through_layer(node, r))]
        if kind in AVERAGES:
            m = matrix(self.call(node), values[node.args[0]].shape[1:])
            return [(node.args[0], shared(lambda x: self.measure(x)[:, None] * m, values[node.args[0]], r))]
        if kind in {"add", "iadd", "add_"}:
            parts = [self.measure(values[arg]) for arg in node.args]
            return [(arg, quotient(part, sum(parts)) * r) for arg, part in zip(node.args, parts, strict=True)]
        return super().rule(node, r)

    def through_layer(self, node: Node, r: Tensor) -> Tensor:
        module, source = self.tape.modules[str(node.target)], node.args[0]
        operation, x = without_bias(module), self.tape.values[source]
        m = matrix(lambda e: operation(e, module.weight), x.shape[1:])
        found = torch.zeros(r.shape[0], *x.shape, dtype=torch.float64)
        for t in range(r.shape[0]):
            for n in range(r.shape[1]):
                if self.is_first(node):
                    ends = [end[source][n].flatten() for end in self.ends]
                    sent = box(m, x[n].flatten(), torch.minimum(*ends), torch.maximum(*ends)) @ r[t, n].flatten()
                else:
                    sent = self.layer_rule(node, m, x[n], r[t, n], (t, n))
                found[t, n] = sent.view_as(x[n])
        return found

    @abstractmethod
    def layer_rule(self, node: Node, m: Tensor, x: Tensor, r: Tensor, at: tuple[int, int]) -> Tensor:
        """R of a layer's input x, from R of its output; m: the layer (inputs, outputs); at: target and image."""


def box(m: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The shares of z^B."""
    return normalised((x - low)[:, None] * m.clamp(min=0) + (x - high)[:, None] * m.clamp(max=0))


def by_magnitude(z: Tensor, r: Tensor) -> Tensor:
    return normalised(z.abs()) @ r.flatten()


def shifted(sent: Tensor, total: Tensor) -> Tensor:
    """A constant taken from all that are not 0, so that the sum is `total`."""
    live = sent != 0
    return sent - live * (sent.sum() - total) / live.sum().clamp(min=1)


Method = Callable[[nn.Module, Tensor, Tensor, tuple[Any, Any]], Tensor]


# -- RAP


class _Rap(Walk):
    def layer_rule(self, node: Node, m: Tensor, x: Tensor, r: Tensor, at: tuple[int, int]) -> Tensor:
        z = x.flatten()[:, None] * m
        if self.is_last(node):
            return by_magnitude(z, r)
        sent = torch.zeros_like(z[:, 0])
        for j, r_j in enumerate(r.flatten()):
            for_it, against_it = z[:, j].clamp(min=0), (-z[:, j]).clamp(min=0)
            whole = for_it if r_j > 0 else against_it
            if whole.sum() > 0:
                sent += whole / whole.sum() * r_j
            if against_it.sum() > 0:
                share = against_it.sum() / z[:, j].abs().sum()
                sent += share * against_it / against_it.sum() * r_j
        return shifted(sent, r.sum())


def rap(model: nn.Module, images: Tensor, targets: Tensor, pixel_range: tuple[Any, Any]) -> Tensor:
    """One-hot relevance at the logits, down to the images: (N, T, H, W)."""
    walk = _Rap(model, images, targets, pixel_range)
    seeds = [nn.functional.one_hot(t, walk.logits.shape[1]) * walk.logits for t in targets.unbind(1)]
    return walk.result(logits_of(walk.graph), torch.stack(seeds).detach())


# -- RSP


class _Rsp(Walk):
    def measure(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-9)

    def layer_rule(self, node: Node, m: Tensor, x: Tensor, r: Tensor, at: tuple[int, int]) -> Tensor:
        layer = self.tape.modules[str(node.target)]
        assert isinstance(layer, nn.Conv2d)
        above = redistributed(layer, x.clamp(min=0), r.clamp(min=0))
        below = redistributed(layer, x.clamp(min=0), (-r).clamp(min=0))
        return above - below if layer.kernel_size == (1, 1) else shifted(2 * (above - below), r.sum())


def patch(layer: nn.Conv2d, padded: Tensor, k: int, i: int, j: int) -> tuple[slice, ...]:
    """Where in the padded input lies what output (k, i, j) reads."""
    (s, _), (size, _) = layer.stride, layer.kernel_size
    width = layer.in_channels // layer.groups
    group = k // (layer.out_channels // layer.groups)
    return slice(group * width, (group + 1) * width), slice(i * s, i * s + size), slice(j * s, j * s + size)


def redistributed(layer: nn.Conv2d, x: Tensor, r: Tensor) -> Tensor:
    """R >= 0 (K, h, w) through the weights that x and R make together."""
    assert isinstance(layer.padding[0], int)
    p = layer.padding[0]
    padded = nn.functional.pad(x, (p, p, p, p))
    weights, sent = torch.zeros_like(layer.weight), torch.zeros_like(padded)
    # Where R is 0 nothing is added to either.
    places = r.nonzero().tolist()
    for k, i, j in places:
        weights[k] += r[k, i, j] * padded[patch(layer, padded, k, i, j)]
    for k, i, j in places:
        where = patch(layer, padded, k, i, j)
        z = padded[where] * weights[k]
        if z.sum() > 0:
            sent[where] += z / z.sum() * r[k, i, j]
    return sent[:, p : sent.shape[1] - p, p : sent.shape[2] - p]


def rsp(model: nn.Module, images: Tensor, targets: Tensor, pixel_range: tuple[Any, Any], layer: str) -> Tensor:
    """From the contributions at a layer down to the images: (N, T, H, W)."""
    walk = _Rsp(model, images, targets, pixel_range)
    start = walk.returned[layer][-1]
    scores = [walk.logits.gather(1, t[:, None]) for t in targets.unbind(1)]
    contributions = walk.tape.values[start] * walk.slopes(scores, start).mean((3, 4), keepdim=True)
    for t in range(contributions.shape[0]):
        for n in range(contributions.shape[1]):
            r = contributions[t, n]
            contributions[t, n] = r / (r.max() if r.max() > 0 else r.abs().max())
    return walk.result(start, contributions.detach())


# -- AGF


class _Agf(Walk):
    def __init__(self, model: nn.Module, images: Tensor, targets: Tensor, pixel_range: tuple[Any, Any]) -> None:
        super().__init__(model, images, targets, pixel_range)
        columns = targets.unbind(1)
        self.scores = [torch.stack([score(y, int(i)) for y, i in zip(self.logits, t, strict=True)]) for t in columns]

    def layer_rule(self, node: Node, m: Tensor, x: Tensor, r: Tensor, at: tuple[int, int]) -> Tensor:
        c = by_magnitude(x.flatten()[:, None] * m, r).view_as(x)
        if self.tape.kind(node) == "Linear":
            return c
        with torch.enable_grad():
            g = m @ self.slopes(self.scores, node)[at].flatten()
        a, g = by_magnitude(m, r).view_as(x), g.view_as(x)
        attention = (x * g).mean(0).clamp(min=0)
        attention = attention / attention.max() if attention.max() > 0 else attention
        guide = c.mean(0)
        residual = (factor(x, guide) + attention) / (1 + torch.exp(-c)) + factor(g, guide) + a
        return shifted(c + residual * (c != 0), c.sum())


def score(y: Tensor, target: int) -> Tensor:
    distance = y - y[target]
    near = y[target] * torch.exp(-((distance / distance.abs().max()) ** 2) / 2)
    return near[target].exp() / near.exp().sum()


def factor(u: Tensor, guide: Tensor) -> Tensor:
    """F of u (C, h, w) by least squares, position by position."""
    h = 1 / (1 + torch.exp(-10 * (u / u.max() if u.max() > 0 else 0 * u)))
    means = []
    for cluster in (guide < 0, guide > 0):
        means.append(h[:, cluster].mean(1) if cluster.any() else torch.zeros_like(h[:, 0, 0]))
    p = torch.stack(means, 1)
    # the ridge, as two more equations 1 v = 0
    left = torch.cat((p, torch.eye(2, dtype=torch.float64)))
    found = torch.zeros_like(guide)
    for i in range(guide.shape[0]):
        for j in range(guide.shape[1]):
            right = torch.cat((h[:, i, j], torch.zeros(2, dtype=torch.float64)))
            v = torch.linalg.lstsq(left, right[:, None]).solution.flatten().clamp(min=0)
            found[i, j] = (v[1] - v[0]).clamp(min=0)
    return found


def agf(model: nn.Module, images: Tensor, targets: Tensor, pixel_range: tuple[Any, Any]) -> Tensor:
    """From the input of the last layer down to the images: (N, T, H, W)."""
    walk = _Agf(model, images, targets, pixel_range)
    (last,) = [node for node in walk.graph.nodes if walk.is_layer(node) and walk.is_last(node)]
    start = last.args[0]
    assert isinstance(start, Node)
    r = walk.tape.values[start] * walk.slopes(walk.scores, start)
    return walk.result(start, r.detach())
