"""Attribution guided factorisation, in the form of its authors' public code.

Gur, Ali, Wolf: "Visualization of supervised and self-supervised neural networks via attribution guided factorization",
AAAI 2021. The score is s = softmax(y_t exp(-((y - y_t) / sigma)^2 / 2))_t over the classes, sigma = max |y - y_t|.
Relevance starts at the input of the last layer as x ds/dx. Linear layers share by magnitude, |x| |w|, and so does a
convolution,

    C = |x| conv_transpose(R / conv(|x|, |W|), |W|) ,

to which it adds, less its mean over the units with C != 0, so that the layer's total is kept,

    (F_x + M) / (1 + exp(-C)) + F_dx + A   where C is not 0.

A: the shares of R for an input of ones. g: the gradient of s by x through this layer alone. M = relu(mean_c x g) as a
share of its maximum, for all channels alike. F_x and F_dx: the factorisation of x and of g guided by C. For u = x or g,

    H = sigmoid(10 u / max u)                   (C, hw), a soft Heaviside function
    P = means of H over two clusters            (C, 2): the positions where mean_c C is negative, and positive
    V = relu((P^T P + I)^-1 P^T H)              (2, hw), least squares with a ridge of 1
    F = relu(V_positive - V_negative)           (1, hw), for all channels alike.

Where the maximum of u or of M is not positive, u / max u and M / max M are 0. (The authors leave out of g what comes
from where R is 0; behind a ReLU that is nothing.) Additions and averages share by magnitude, as the layers do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fastcam.network.graph import Graph
from fastcam.network.network import Network
from fastcam.network.plan import Values, evaluate
from fastcam.network.precision import matrix_precision
from fastcam.network.units import is_layer
from fastcam.propagation.absolute import ABSOLUTE
from fastcam.propagation.composites import Composite
from fastcam.propagation.products import (
    adjoint,
    inverse,
    keep_total,
    kept_output,
    layer_unit,
    relevance_of,
    weight,
    wide,
)
from fastcam.propagation.propagate import Route
from fastcam.propagation.rule import Call, Pullback, Rule, Signal, always_r, layer_input
from fastcam.propagation.sums import BY_MAGNITUDE, WithSums
from fastcam.propagation.transposed import product


def score(logits: Tensor, targets: Tensor) -> Tensor:
    """The score s of the targets: logits (N, classes), targets (N, T) -> (N, T).

    sigma is 1 where all logits are equal; with one class s is its logit, since the softmax is 1 whatever the image.
    """
    y_t = logits.gather(1, targets)
    if logits.shape[1] == 1:
        return y_t
    distance = logits.unsqueeze(1) - y_t.unsqueeze(2)
    sigma = distance.abs().amax(dim=2, keepdim=True)
    sigma = torch.where(sigma == 0, 1, sigma)
    near = y_t.unsqueeze(2) * torch.exp(-0.5 * (distance / sigma) ** 2)
    return near.softmax(dim=2).gather(2, targets.unsqueeze(2)).squeeze(2)


@dataclass(frozen=True, eq=False)
class Gradients:
    """ds_t / dleaf (T, N, ...) by leaf, divided by `scale` (T, N), the largest magnitude of ds_t / dy.

    M and F are the same for a multiple of g; and without it gradients could be too small for 16 bits.
    """

    logits: Tensor
    scale: Tensor
    by_leaf: Mapping[fx.Node, Tensor]


def gradients(
    network: Network, images: Tensor, resolve: Callable[[Tensor], Tensor], leaves: Sequence[fx.Node]
) -> Gradients:
    """One forward pass, and a backward pass per target; resolve: logits (N, classes) -> targets (N, T)."""
    wanted = tuple(dict.fromkeys(leaves))
    logits, values = network.forward(images, wanted, leaves=wanted)
    targets = resolve(logits.detach())
    with torch.inference_mode(False), torch.enable_grad(), matrix_precision(network.precision, images.device):
        y = wide(logits.detach()).requires_grad_()
        scores = score(y, targets).sum(dim=0).unbind()
        slopes = torch.stack([torch.autograd.grad(s, y, retain_graph=True)[0] for s in scores])
        scale = slopes.abs().amax(dim=2, keepdim=True)
        seeds = (slopes / torch.where(scale > 0, scale, 1)).to(logits.dtype)
        inputs, last = [values[leaf] for leaf in wanted], len(seeds) - 1
        found = [torch.autograd.grad(logits, inputs, seed, retain_graph=t < last) for t, seed in enumerate(seeds)]
    by_leaf = {leaf: torch.stack(of) for leaf, of in zip(wanted, zip(*found, strict=True), strict=True)}
    return Gradients(logits.detach(), scale.squeeze(2), by_leaf)


def factorised(call: Call, values: Values) -> tuple[Tensor, Pullback]:
    """A convolution; `call.given` holds a multiple of ds / d(its result), (T, N, K, h, w), by its node."""
    unit = layer_unit(call)
    y = evaluate(call.step, values, call.network.weights)
    kept = kept_output(call, y)
    x, w = wide(values[unit.input]), weight(call)
    size, ones = x.abs(), torch.ones_like(x[:1])
    by_size, by_ones = (inverse(product(unit, u, w.abs())) for u in (size, ones))
    g_y = wide(call.given[unit.layer])

    def pullback(signal: Tensor) -> list[Signal]:
        relevance = relevance_of(signal, kept)
        c = size * adjoint(unit, relevance * by_size, w.abs(), x)
        a = adjoint(unit, relevance * by_ones, w.abs(), x)
        g = adjoint(unit, g_y, w, x)
        m = _share_of_maximum((x * g).mean(dim=2, keepdim=True).clamp(min=0))
        guide = c.mean(dim=2, keepdim=True)
        f_x, f_dx = _factor(x.expand_as(g), guide), _factor(g, guide)
        residual = (f_x + m) * c.sigmoid() + f_dx + a
        return [Signal(keep_total(c + residual * (c != 0), c), fresh=True)]

    return y, pullback


def _share_of_maximum(u: Tensor) -> Tensor:
    """Each image's values as shares of its largest, 0 where that is not positive."""
    largest = u.amax(dim=(2, 3, 4), keepdim=True)
    return torch.where(largest > 0, u / largest, 0)


def _factor(u: Tensor, guide: Tensor) -> Tensor:
    """F of u (T, N, C, h, w), guided by the sign of (T, N, 1, h, w) -> (T, N, 1, h, w)."""
    h = torch.sigmoid(10 * _share_of_maximum(u)).flatten(3)
    cluster = torch.stack((guide < 0, guide > 0), dim=-1).to(h.dtype).flatten(2, 4)
    p = h @ cluster / cluster.sum(dim=2, keepdim=True).clamp(min=1)
    ridge = torch.eye(2, dtype=h.dtype, device=h.device)
    v = torch.linalg.solve(p.mT @ p + ridge, p.mT @ h).clamp(min=0)
    factor: Tensor = v[:, :, 1] - v[:, :, 0]
    return factor.clamp(min=0).view_as(guide)


FACTORISED = Rule(layer_input, always_r, factorised)


def agf_rules(first: Rule | None) -> WithSums:
    """The rules of AGF; first: of the layers that read the images."""
    return WithSums(Composite(convolution=FACTORISED, linear=ABSOLUTE, first=first), BY_MAGNITUDE)


def last_input(graph: Graph) -> fx.Node:
    """What the last layer reads, where relevance starts.

    Raises ValueError where it is not one layer that makes the logits.
    """
    behind = graph.ancestors([graph.logits])
    layers = [node for node in graph.nodes if node in behind and is_layer(node, graph)]
    last = [node for node in layers if not any(is_layer(n, graph) for n in graph.descendants([node]) - {node})]
    if len(last) != 1:
        raise ValueError(
            f"method: agf starts at the one layer that makes the logits, but {len(last)} layers do; choose another"
        )
    (source,) = [node for node in last[0].all_input_nodes if node not in graph.weights]
    return source


def factorised_layers(route: Route) -> list[fx.Node]:
    """The convolutions on the way by whose results the score is to be differentiated."""
    units = [step.unit for step in route.plan.steps if route.rules.get(step.node) is FACTORISED]
    return [unit.layer for unit in units if unit is not None]
