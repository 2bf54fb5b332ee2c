"""Relevance propagation as a textbook has it: R carried at every tensor, nothing fused, nothing gated.

The oracle for ``fastcam.relevance_cam`` and ``fastcam.relevance``. It shares no code and no idea with them: the
network is walked by ``torch.fx`` (not ``torch.export``), each value is kept, and R goes back from node to node. For a
node whose output j is a sum over inputs i, the contributions z_ij are written down as a dense matrix and

    R_i = sum_j z_ij / (sum_i z_ij) R_j,    0 where the denominator is 0       (Relevance-CAM, eq. 5)

    convolution, linear layer     z_ij = max(x_i, 0) max(w_ij, 0) + min(x_i, 0) min(w_ij, 0), no bias
    average pooling, mean         z_ij = x_i m_ij, signed
    addition                      z_ij = x_i, signed
    max pooling                   all to the winner, the first of equals
    batch norm, activation        R passes; none where the input is exactly 0
    product with a gate           the gate is held fixed, R passes to the other operand
    concatenation, slices, views  R goes where the value came from

That is the z+ rule of the layers; ``tests.shares`` has the others, which stand in its place by ``rules``, and
``tests.attributing`` those that are not linear in R.

The dense matrix is the operation applied to unit inputs. ``dense=False`` has the same rule for convolutions
with two convolutions in place of the matrix, for networks whose matrices would not fit; a test holds it
against the dense form.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import Node, map_arg

from tests.shares import Map, Rules, Share, away_from_zero, quotient

ACTIVATIONS = {
    "ReLU", "ReLU6", "LeakyReLU", "SiLU", "Hardswish", "Sigmoid", "Hardsigmoid", "Tanh",
    "relu", "relu_", "relu6", "leaky_relu", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh",
}  # fmt: skip
IDENTITIES = {"Dropout", "Dropout2d", "Identity", "dropout", "dropout2d", "contiguous", "clone"}
MOVEMENTS = {
    "Flatten", "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "getitem",
    "chunk", "split", "cat", "pad", "ZeroPad2d",
}  # fmt: skip
AVERAGES = {"AvgPool2d", "AdaptiveAvgPool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean"}
MAXIMA = {"MaxPool2d", "max_pool2d", "_max_pool2d"}
GATES = {"Sigmoid", "Hardsigmoid", "sigmoid", "hardsigmoid"}


@dataclass(frozen=True)
class Layer:
    """One use of a named module: what it returned (N, K, h, w) and the relevance there (N, T, K, h, w)."""

    activation: Tensor
    relevance: Tensor

    @property
    def weights(self) -> Tensor:
        """Relevance-CAM's alpha, eq. 9: (N, T, K)."""
        return self.relevance.sum((-2, -1))

    @property
    def map(self) -> Tensor:
        """Relevance-CAM at the layer's size, eq. 8: (N, T, h, w), raw."""
        return torch.einsum("ntk,nkhw->nthw", self.weights, self.activation)


@dataclass(frozen=True)
class Propagation:
    logits: Tensor
    layers: dict[str, list[Layer]]
    input: Layer

    def feature_maps(self) -> list[str]:
        """Modules that return a 4-D tensor with more than one position; ``name@i`` where used again."""
        names = []
        for name, uses in self.layers.items():
            if all(use.activation.dim() == 4 and use.activation[0, 0].numel() > 1 for use in uses):
                names += [name] if len(uses) == 1 else [f"{name}@{i}" for i in range(len(uses))]
        return names

    def __getitem__(self, name: str) -> Layer:
        bare, _, use = name.partition("@")
        return self.layers[bare][int(use) if use else -1]


def clrp_seed(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 7: |z_t| at the target (1 for z_t = 0), -|z_t| / (N - 1) elsewhere: (T, N, classes)."""
    classes = logits.shape[1]
    seeds = []
    for target in targets.unbind(1):
        z = logits.gather(1, target[:, None]).abs()
        z = torch.where(z == 0, torch.ones_like(z), z)
        one_hot = F.one_hot(target, classes).to(logits)
        others = (1 - one_hot) * z / (classes - 1) if classes > 1 else torch.zeros_like(logits)
        seeds.append(one_hot * z - others)
    return torch.stack(seeds)


def one_hot_seed(logits: Tensor, targets: Tensor) -> Tensor:
    """z_t at the target, 0 elsewhere. (T, N, classes)."""
    return torch.stack([F.one_hot(t, logits.shape[1]).to(logits) * logits for t in targets.unbind(1)])


def propagate(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    seed: Callable[[Tensor, Tensor], Tensor] = clrp_seed,
    dense: bool = True,
    rules: Rules | None = None,
    pixel_range: tuple[Any, Any] = (0.0, 0.0),
) -> Propagation:
    """``model`` forward on ``images`` (float64), R back from ``seed(logits, targets)``; targets (N, T).

    pixel_range: what the images' pixels lie between, for rules that ask; numbers or (C, 1, 1).
    """
    tracer = Tracer()
    graph = tracer.trace(model)
    undo_in_place(graph, dict(model.named_modules()))
    tape = record(model, graph, images)
    logits_node = logits_of(graph)
    logits = tape.values[logits_node]
    walk: Backward = Backward(tape, dense=dense)
    if rules is not None:
        walk = _ByRules(tape, rules, values_at(pixel_range, model, graph, images))
    with torch.no_grad():
        walk.run(graph, logits_node, seed(logits, targets))

    def layer(node: Node) -> Layer:
        value = tape.values[node]
        nothing = value.new_zeros(targets.shape[1], *value.shape)
        return Layer(value, walk.relevance.get(node, nothing).transpose(0, 1))

    layers = {
        name: [layer(node) for node in nodes]
        for name, nodes in tracer.returned.items()
        if all(isinstance(tape.values[node], Tensor) and not walk.folds(node) for node in nodes)
    }
    return Propagation(logits, layers, layer(next(node for node in graph.nodes if node.op == "placeholder")))


def record(model: nn.Module, graph: fx.Graph, images: Tensor) -> Recorder:
    """Every value of a forward pass, without gradient."""
    tape = Recorder(fx.GraphModule(model, graph))
    with torch.no_grad():
        tape.run(images)
    return tape


def values_at(pixel_range: tuple[Any, Any], model: nn.Module, graph: fx.Graph, images: Tensor) -> tuple[Any, Any]:
    """By node, what it makes of images of the least and of the largest pixels."""
    low, high = (torch.zeros_like(images) + torch.as_tensor(end, dtype=torch.float64) for end in pixel_range)
    return record(model, graph, low).values, record(model, graph, high).values


def logits_of(graph: fx.Graph) -> Node:
    output = next(node for node in graph.nodes if node.op == "output")
    assert isinstance(output.args[0], Node)
    return output.args[0]


class Tracer(fx.Tracer):
    """Notes which node each module returned, per use, containers and user modules included."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: dict[str, list[Node]] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.returned.setdefault(self.path_of_module(m), []).append(result.node)
        return result


class Recorder(fx.Interpreter):
    """Keeps every node's value, safe from later in-place operations."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.modules = dict(module.named_modules())
        self.values: dict[Node, Any] = {}

    def run_node(self, node: Node) -> Any:
        result = super().run_node(node)
        self.values[node] = result
        return result

    def fetch_args_kwargs_from_env(self, node: Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(node)
        return torch.utils._pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))

    def kind(self, node: Node) -> str:
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__
        if node.op == "call_method":
            return str(node.target)
        return getattr(node.target, "__name__", str(node.target)) if node.op == "call_function" else node.op


def undo_in_place(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """After ``relu_(x)`` the name x means the new value: let later readers of x read the result."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "call_module":
            in_place = getattr(modules[node.target], "inplace", False)
        elif node.op == "call_method":
            in_place = node.target.endswith("_")
        else:
            in_place = node.op == "call_function" and (
                node.kwargs.get("inplace") is True
                or node.target in {operator.iadd, operator.imul}
                or node.target.__name__.endswith("_")
            )
        if in_place:
            node.args[0].replace_all_uses_with(node, lambda user, node=node: order[user] > order[node])


class Backward:
    """R from node to node; ``relevance[node]`` is (T, *shape of the node's value)."""

    def __init__(self, tape: Recorder, *, dense: bool) -> None:
        self.tape, self.dense = tape, dense
        self.relevance: dict[Node, Any] = {}

    def run(self, graph: fx.Graph, logits: Node, seed: Tensor) -> None:
        self.relevance[logits] = seed
        for node in reversed(graph.nodes):
            if node in self.relevance and node.op not in {"placeholder", "get_attr"}:
                for source, r in self.rule(node, self.relevance[node]):
                    self.send(source, r)

    def folds(self, layer: Node) -> bool:
        """Whether a layer is one with the batch norm behind it: its own output is nobody's value then."""
        return False

    def is_first(self, layer: Node) -> bool:
        """Whether no layer stands between this one and the images."""
        before = {layer}
        for other in reversed(layer.graph.nodes):
            if before & set(other.users):
                before.add(other)
        return not any(self.is_layer(n) for n in before - {layer})

    def is_last(self, layer: Node) -> bool:
        """Whether no layer stands between this one and the logits."""
        behind = {layer}
        for other in layer.graph.nodes:
            if behind & set(other.all_input_nodes):
                behind.add(other)
        return not any(self.is_layer(n) for n in behind - {layer})

    def is_layer(self, node: Node) -> bool:
        return self.tape.kind(node) in {"Conv2d", "Linear"}

    def send(self, node: Node, r: Any) -> None:
        if isinstance(self.tape.values[node], tuple | list):
            known = self.relevance.setdefault(node, [0] * len(self.tape.values[node]))
            self.relevance[node] = [a + b for a, b in zip(known, r, strict=True)]
        else:
            self.relevance[node] = self.relevance[node] + r if node in self.relevance else r

    def rule(self, node: Node, r: Any) -> list[tuple[Node, Any]]:
        kind, values = self.tape.kind(node), self.tape.values
        if kind in IDENTITIES:
            return [(node.args[0], r)]
        if kind in ACTIVATIONS or kind == "BatchNorm2d":
            return [(node.args[0], r * (values[node.args[0]] != 0))]
        if kind in {"Conv2d", "Linear"}:
            module = self.tape.modules[str(node.target)]
            return [(node.args[0], self.weighted(module, values[node.args[0]], r))]
        if kind in AVERAGES:
            return [(node.args[0], averaged(self.call(node), values[node.args[0]], r))]
        if kind in {"add", "iadd", "add_"}:
            assert all(isinstance(arg, Node) and values[arg].shape == r.shape[1:] for arg in node.args)
            return [(arg, quotient(values[arg], values[node]) * r) for arg in node.args]
        if kind in MAXIMA:
            return [(node.args[0], self.to_winner(node, r))]
        if kind in {"mul", "imul", "mul_"}:
            carrier = self.carrier(node)
            return [(carrier, r * (values[carrier] != 0))]
        if kind in MOVEMENTS:
            return self.moved_back(node, r)
        raise NotImplementedError(f"{kind} ({node.format_node()})")

    def call(self, node: Node) -> Callable[[Tensor], Tensor]:
        """``node``'s operation as a function of its first argument."""
        if node.op == "call_module":
            return self.tape.modules[str(node.target)]
        if node.op == "call_method":
            return lambda x: getattr(x, node.target)(*node.args[1:], **node.kwargs)
        return lambda x: node.target(x, *node.args[1:], **node.kwargs)

    def weighted(self, module: nn.Module, x: Tensor, r: Tensor) -> Tensor:
        """z+ through a convolution or a linear layer."""
        operation = without_bias(module)
        if self.dense:
            w = matrix(lambda e: operation(e, module.weight), x.shape[1:])

            def contributions(row: Tensor) -> Tensor:
                return row.clamp(min=0)[:, None] * w.clamp(min=0) + row.clamp(max=0)[:, None] * w.clamp(max=0)

            return shared(contributions, x, r)
        total = torch.zeros_like(r[0])
        parts = [(x.clamp(min=0), module.weight.clamp(min=0)), (x.clamp(max=0), module.weight.clamp(max=0))]
        for x_part, w_part in parts:
            total = total + operation(x_part, w_part)
        passed = []
        for r_t in r:
            signal = quotient(r_t, total)
            plus, minus = (x * pulled(lambda e, w=w: operation(e, w), x, signal) for x, w in parts)
            passed.append(plus + minus)
        return torch.stack(passed)

    def to_winner(self, node: Node, r: Tensor) -> Tensor:
        """Max pooling: look through each window in reading order; a later value must be larger to win."""
        x, y = self.tape.values[node.args[0]], self.tape.values[node]
        kernel, stride, padding, dilation = max_pool_geometry(self.tape, node)
        height, width = x.shape[-2:]
        rows, columns = torch.arange(y.shape[-2])[:, None], torch.arange(y.shape[-1])[None, :]
        best = torch.full_like(y, -torch.inf)
        winner = torch.zeros_like(y, dtype=torch.long)
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                row = (rows * stride[0] - padding[0] + i * dilation[0]).expand(y.shape[-2:])
                column = (columns * stride[1] - padding[1] + j * dilation[1]).expand(y.shape[-2:])
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
                value = x.flatten(2)[:, :, index.flatten()].view_as(y).masked_fill(~inside, -torch.inf)
                better = value > best
                best, winner = torch.where(better, value, best), torch.where(better, index, winner)
        assert torch.equal(best, y), "the window geometry is not the pooling's"
        nothing, winner = torch.zeros_like(x).flatten(2), winner.flatten(2)
        return torch.stack([nothing.scatter_add(2, winner, r_t.flatten(2)).view_as(x) for r_t in r])

    def carrier(self, node: Node) -> Node:
        """The operand of a product that carries relevance: not the gate."""
        values, nodes = self.tape.values, [arg for arg in node.args if isinstance(arg, Node)]
        tensors = [arg for arg in nodes if isinstance(values[arg], Tensor) and arg.op != "get_attr"]
        if len(tensors) == 1:
            return tensors[0]
        gates = [arg for arg in tensors if self.tape.kind(arg) in GATES]
        gates = gates or [arg for arg in tensors if values[arg].numel() < values[node].numel()]
        assert len(gates) == 1, node.format_node()
        return next(arg for arg in tensors if arg is not gates[0])

    def moved_back(self, node: Node, r: Any) -> list[tuple[Node, Any]]:
        """Send numbered places through the operation: where number p comes out, R belongs to place p."""
        values, sources, count = self.tape.values, [], 0
        places: dict[Node, Any] = {}

        def number(source: Node) -> Any:
            nonlocal count
            value = values[source]
            if not isinstance(value, Tensor | tuple | list):
                return value
            if source not in places:
                numbered = []
                for part in [value] if isinstance(value, Tensor) else value:
                    numbered.append(torch.arange(part.numel()).view(part.shape).double() + count + 1)
                    count += part.numel()
                places[source] = numbered[0] if isinstance(value, Tensor) else type(value)(numbered)
                sources.append(source)
            return places[source]

        args, kwargs = map_arg(node.args, number), map_arg(node.kwargs, number)
        if node.op == "call_module":
            moved = self.tape.modules[str(node.target)](*args, **kwargs)
        elif node.op == "call_method":
            moved = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            moved = node.target(*args, **kwargs)
        pairs = [(moved, r)] if isinstance(moved, Tensor) else list(zip(moved, r, strict=True))
        steps = next(part.shape[0] for _, part in pairs if isinstance(part, Tensor))
        found = torch.zeros(steps, count + 1, dtype=torch.float64)
        for place, part in pairs:
            if isinstance(part, Tensor):
                found.index_add_(1, place.flatten().long(), part.reshape(steps, -1))

        def gather(place: Any) -> Any:
            if isinstance(place, Tensor):
                return found[:, place.flatten().long()].view(steps, *place.shape)
            return [gather(part) for part in place]

        return [(source, gather(places[source])) for source in sources]


class _ByRules(Backward):
    """R from node to node, by the shares of ``rules`` through layers and batch norms."""

    def __init__(self, tape: Recorder, rules: Rules, ends: tuple[dict[Node, Any], dict[Node, Any]]) -> None:
        super().__init__(tape, dense=True)
        self.rules, self.ends = rules, ends

    def rule(self, node: Node, r: Any) -> list[tuple[Node, Any]]:
        kind, values = self.tape.kind(node), self.tape.values
        if kind in {"Conv2d", "Linear"}:
            return [(node.args[0], self.through_layer(node, r))]
        if kind == "BatchNorm2d" and self.folds(node.args[0]):
            return [(node.args[0], r)]
        if kind == "BatchNorm2d" and self.rules.norm is not None:
            scale, _ = scale_and_shift(self.tape.modules[str(node.target)])
            z = scale[:, None, None] * values[node.args[0]]
            return [(node.args[0], z / away_from_zero(values[node], self.rules.norm) * r)]
        return super().rule(node, r)

    def folds(self, layer: Node) -> bool:
        readers = list(layer.users)
        return (
            self.rules.folds
            and self.tape.kind(layer) == "Conv2d"
            and [self.tape.kind(n) for n in readers] == ["BatchNorm2d"]
        )

    def share(self, node: Node) -> Share:
        rules = self.rules
        if rules.first is not None and self.is_first(node):
            return rules.first
        if rules.classifier is not None and self.is_last(node):
            return rules.classifier
        return rules.linear if self.tape.kind(node) == "Linear" else rules.convolution

    def through_layer(self, node: Node, r: Tensor) -> Tensor:
        module, x = self.tape.modules[str(node.target)], self.tape.values[node.args[0]]
        operation, weight = without_bias(module), module.weight
        bias = torch.zeros(len(weight)).double() if module.bias is None else module.bias
        if self.folds(node):
            (norm,) = node.users
            scale, shift = scale_and_shift(self.tape.modules[str(norm.target)])
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        w, wired = (matrix(lambda e, v=v: operation(e, v), x.shape[1:]) for v in (weight, torch.ones_like(weight)))
        positions = w.shape[1] // len(weight)
        lowest, highest = (end[node.args[0]].flatten(1) for end in self.ends)
        low, high = torch.minimum(lowest, highest), torch.maximum(lowest, highest)
        share = self.share(node)
        result = torch.zeros(r.shape[0], *x.shape, dtype=torch.float64)
        for n, row in enumerate(x.flatten(1)):
            fractions = share(Map(row, w, bias.repeat_interleave(positions), wired, low[n], high[n]))
            result[:, n] = (r[:, n].flatten(1) @ fractions.T).view(-1, *x.shape[1:])
        return result


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm as y = s x + t, per channel."""
    assert isinstance(norm, nn.BatchNorm2d)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def matrix(operation: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
    """The linear ``operation`` as a matrix (inputs, outputs): its answers to unit inputs."""
    size = shape.numel()
    return operation(torch.eye(size, dtype=torch.float64).view(size, *shape)).reshape(size, -1)


def shared(contributions: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """R_i = sum_j z_ij / sum_i z_ij R_j; ``contributions`` gives one image's z (inputs, outputs)."""
    result = torch.zeros(r.shape[0], *x.shape, dtype=torch.float64)
    for n, row in enumerate(x.flatten(1)):
        z = contributions(row)
        share = quotient(z, z.sum(0, keepdim=True).expand_as(z))
        result[:, n] = (r[:, n].flatten(1) @ share.T).view(-1, *x.shape[1:])
    return result


def averaged(operation: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """Average pooling and means, dense: each output's R in proportion to the signed inputs."""
    m = matrix(operation, x.shape[1:])
    return shared(lambda row: row[:, None] * m, x, r)


def pulled(operation: Callable[[Tensor], Tensor], x: Tensor, signal: Tensor) -> Tensor:
    """The transpose of the linear ``operation`` applied to ``signal``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(operation(x), x, signal)[0]


def without_bias(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(module, nn.Linear):
        return F.linear
    assert isinstance(module, nn.Conv2d)
    assert module.padding_mode == "zeros"
    return lambda x, w: F.conv2d(x, w, None, module.stride, module.padding, module.dilation, module.groups)


def max_pool_geometry(tape: Recorder, node: Node) -> list[tuple[int, int]]:
    """Kernel, stride, padding and dilation as pairs."""
    if node.op == "call_module":
        pool = tape.modules[str(node.target)]
        found = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
    else:
        names = ["kernel_size", "stride", "padding", "dilation"]
        given = dict(zip(names, node.args[1:5], strict=False)) | node.kwargs
        kernel = given["kernel_size"]
        found = [kernel, given.get("stride") or kernel, given.get("padding", 0), given.get("dilation", 1)]
    return [(v, v) if isinstance(v, int) else tuple(v) for v in found]
