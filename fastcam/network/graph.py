"""A captured model as a functional graph of ATen operations, with the user's layer names."""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fastcam.network.loose import Loose
from fastcam.network.traced import BATCH_NORM, MODULE_OUTPUT

aten = torch.ops.aten

# In eval mode these return their input, or a copy of it.
_IDENTITIES = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    MODULE_OUTPUT,
}
# `view` asks for a layout of memory, which channels-last changes; `reshape` asks for none.
_LAYOUT_FREE = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
_SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default}
# (x, weight, bias, stride, padding, dilation, groups)
_CONV_DEFAULTS: tuple[Any, ...] = (None, None, None, [1, 1], "valid", [1, 1], 1)


_CONVOLUTIONS = {aten.conv2d.default, aten.conv_transpose2d.input, aten.convolution.default}
# Besides pointwise operations these leave every axis where it is; linear maps along the last one.
_KEEP_AXES = {
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.batch_norm.default,
    aten.cat.default,
    aten.group_norm.default,
    aten.layer_norm.default,
    aten.linear.default,
    aten.max_pool2d.default,
    aten.pad.default,
    aten.roll.default,
    aten.slice.Tensor,
}


@dataclass(frozen=True, eq=False)
class Graph:
    """A model's computation from `images` to `logits`.

    nodes: every operation the logits need or a layer returned, in an order that can be run; no operation
        writes to its input.
    layers: for each module name, the nodes it returned, one per call.
    weights: nodes whose value the images have no part in, by name: the model's parameters and buffers, and what its
        code computes from these alone (the weight of a reparametrised layer).
    constants: tensors that are in the code itself, under names in `weights`.
    loose: those among them that the model's modules keep, unregistered.
    dynamic_batch: False where the model's own code fixes the number of images.
    """

    nodes: tuple[fx.Node, ...]
    images: fx.Node
    logits: fx.Node
    layers: Mapping[str, tuple[fx.Node, ...]]
    weights: Mapping[fx.Node, str]
    constants: Mapping[str, torch.Tensor]
    dynamic_batch: bool
    loose: tuple[Loose, ...] = ()

    @property
    def classes(self) -> int:
        """The number of classes."""
        return shape(self.logits)[1]

    @cached_property
    def used(self) -> frozenset[fx.Node]:
        """What the logits are computed from, themselves included, without weights."""
        return frozenset(self.ancestors([self.logits]) - self.weights.keys())

    @cached_property
    def spatial(self) -> frozenset[fx.Node]:
        """Feature maps whose last two dimensions are positions, as far as the way from the images tells.

        The queries of an attention, (N, heads, tokens, depth), have four dimensions too. Where positions were flattened
        on the way, four dimensions are taken for a feature map's again only if their last two are an earlier one's
        (patches put together, channels shuffled).
        """
        found: set[fx.Node] = set()
        sizes: set[tuple[int, ...]] = set()
        for node in self.nodes:
            size = shape(node)[2:]
            if (node not in self.weights and is_feature_map(self, node)) and (
                node is self.images or size in sizes or any(source in found for source in node.all_input_nodes)
            ):
                found.add(node)
                sizes.add(size)
        return frozenset(found)

    @cached_property
    def channels_last(self) -> frozenset[fx.Node]:
        """Tensors (N, h, w, C) that a convolution's channels were moved to the end of, as Swin's blocks have them.

        Only what is certain: the axis of the channels is followed from convolutions through permutations and through
        operations that leave axes alone. A reshape loses it; what is added to a tensor of known axes has the same.
        """
        axes: dict[fx.Node, int] = {}
        for node in self.nodes:
            axis = _channel_axis(node, axes)
            if axis is not None:
                axes[node] = axis
        for node in reversed(self.nodes):
            if node in axes and _leaves_axes(node):
                for source in node.all_input_nodes:
                    if len(shape(source)) == 4 and (node.target in _KEEP_AXES or shape(source) == shape(node)):
                        axes.setdefault(source, axes[node])
        return frozenset(node for node, axis in axes.items() if axis == 3)

    def ancestors(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """What `nodes` are computed from, themselves included."""
        return _closure(nodes, lambda node: node.all_input_nodes)

    def descendants(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """What is computed from `nodes`, themselves included."""
        return _closure(nodes, lambda node: node.users)

    def frontier(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The tensors, besides `node` and weights, that the logits are computed from once `node` is given.

        A residual connection around `node`, for one. A number that is read off a tensor (its batch) is computed
        anew, since what is fed may be of another batch: then the tensor itself is in the frontier.
        """
        behind = self.descendants([node]) & self.ancestors([self.logits])
        found: dict[fx.Node, None] = {}
        waiting = [source for user in behind - {node} for source in user.all_input_nodes]
        while waiting:
            source = waiting.pop()
            if source in behind or source in self.weights:
                continue
            if is_tensor(source):
                found[source] = None
            else:
                waiting.extend(source.all_input_nodes)
        return tuple(candidate for candidate in self.nodes if candidate in found)


def _channel_axis(node: fx.Node, axes: Mapping[fx.Node, int]) -> int | None:
    """The axis of a tensor's channels, from those of what it is computed from; None where that does not tell."""
    if len(shape(node)) != 4:
        return None
    if node.target in _CONVOLUTIONS:
        return 1
    if node.target in (aten.permute.default, aten.transpose.int):
        source = node.args[0]
        if not isinstance(source, fx.Node) or source not in axes:
            return None
        order = list(range(4))
        if node.target is aten.permute.default:
            order = [int(str(axis)) % 4 for axis in cast("list[int]", node.args[1])]
        else:
            a, b = (int(str(axis)) % 4 for axis in node.args[1:])
            order[a], order[b] = order[b], order[a]
        return order.index(axes[source])
    if not _leaves_axes(node):
        return None
    # What is broadcast, or was reshaped, tells nothing: one whose axes are known is enough.
    known = [source for source in node.all_input_nodes if source in axes]
    found = {axes[source] for source in known if node.target in _KEEP_AXES or shape(source) == shape(node)}
    return found.pop() if len(found) == 1 else None


def _leaves_axes(node: fx.Node) -> bool:
    return node.target in _KEEP_AXES or torch.Tag.pointwise in getattr(node.target, "tags", ())


def _closure(nodes: Iterable[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(following(node))
    return found


def is_tensor(node: fx.Node) -> bool:
    """Whether a node's value is a tensor (not a size or a list)."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def shape(node: fx.Node) -> tuple[int, ...]:
    """A node's shape; the batch, where it is dynamic, stands as -1."""
    if not is_tensor(node):
        return ()
    return tuple(size if isinstance(size, int) else -1 for size in node.meta["val"].shape)


def is_feature_map(graph: Graph, node: fx.Node) -> bool:
    """Whether a node's value has, for each image, channels at more than one position."""
    size = shape(node)
    return len(size) == 4 and size[0] == shape(graph.images)[0] and size[2] * size[3] > 1


def place(node: fx.Node) -> str:
    """Where an operation stands in the user's model, in words."""
    path, kind = _module(node)
    return f"module {path!r} ({kind})" if path else f"the model's own forward ({kind})"


def _module(node: fx.Node) -> tuple[str, str]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", "no module"
    path, kind = stack[-1]
    kind = kind if isinstance(kind, str) else kind.__name__
    return str(path).removeprefix("model").removeprefix("."), kind.rsplit(".", 1)[-1]


def _is_fixed(size: object) -> bool:
    """Whether a size is one number: written as such, or as a symbol that the model's code pinned to it."""
    return isinstance(size, int) or (isinstance(size, torch.SymInt) and size.node.maybe_as_int() is not None)


class WriteThroughViewError(Exception):
    """The code writes into a tensor that is read again through a view."""


def build(program: ExportedProgram, loose: Iterable[Loose] = ()) -> Graph:
    """Turn an exported shadow, with what loose tensors it has, into a `Graph`.

    Most programs keep their operations as the user's code calls them. One that writes through views (Swin's
    attention mask) is first made functional by `torch.export`, which splits some operations into others.
    """
    try:
        graph = _build(program)
    except WriteThroughViewError:
        graph = _build(program.run_decompositions({}))
    return _with_loose(graph, loose)


def _with_loose(graph: Graph, loose: Iterable[Loose]) -> Graph:
    names = {constant.data_ptr(): name for name, constant in graph.constants.items() if constant.numel()}
    used = set(graph.weights.values())
    found = {one: names.get(one.copied.data_ptr()) for one in loose}
    kept = {one: name for one, name in found.items() if name in used}
    # What code writes to while it is traced is written; the graph writes to it once more.
    values = {name: one.value for one, name in kept.items() if name is not None}
    return replace(graph, constants={**graph.constants, **values}, loose=tuple(kept))


def _build(program: ExportedProgram) -> Graph:
    builder = _Builder(program)
    for node in program.graph_module.graph.nodes:
        builder.add(node)
    return builder.finish()


class _Builder:
    """Copies a program's nodes, one by one, into a graph in which no value is ever written to.

    Nodes that return their own input (in-place operations, dropout, a module's marked output) are the same
    tensor to the user: they share a root, and `value[root]` is what that tensor holds at present.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.new = fx.Graph()
        self.images: fx.Node | None = None
        self.root: dict[fx.Node, fx.Node] = {}
        self.value: dict[fx.Node, fx.Node] = {}
        self.viewed: dict[fx.Node, fx.Node] = {}
        self.layers: dict[str, list[fx.Node]] = defaultdict(list)
        self.weights: dict[fx.Node, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.position = {node: i for i, node in enumerate(program.graph_module.graph.nodes)}

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._add_input(node)
        elif node.op == "call_function":
            self._add_operation(node)

    def finish(self) -> Graph:
        (name,) = self.program.graph_signature.user_outputs
        logits = self._present(next(node for node in self.root if node.name == name))
        assert self.images is not None
        batch = self.images.meta["val"].shape[0]
        wanted = [logits, self.images, *(node for nodes in self.layers.values() for node in nodes)]
        needed = _closure(wanted, lambda node: node.all_input_nodes)
        for node in reversed(list(self.new.nodes)):
            if node not in needed:
                self.new.erase_node(node)
        for node in self.new.nodes:
            if node.op == "call_function" and is_tensor(node) and set(node.all_input_nodes) <= self.weights.keys():
                self.weights[node] = node.name
        layers = {name: [n for n in nodes if n not in self.weights] for name, nodes in self.layers.items()}
        return Graph(
            nodes=tuple(self.new.nodes),
            images=self.images,
            logits=logits,
            layers={name: tuple(nodes) for name, nodes in layers.items() if name and nodes},
            weights={node: name for node, name in self.weights.items() if node in needed},
            constants=self.constants,
            dynamic_batch=not _is_fixed(batch),
        )

    def _add_input(self, node: fx.Node) -> None:
        copied = self.new.node_copy(node)
        self.root[node], self.value[node] = node, copied
        spec = self.inputs[node.name]
        if spec.kind is InputKind.USER_INPUT:
            self.images = copied
            return
        name = str(spec.target).removeprefix("model.")
        self.weights[copied] = name
        if spec.kind is InputKind.CONSTANT_TENSOR:
            constant = self.program.constants[str(spec.target)]
            assert isinstance(constant, torch.Tensor)
            self.constants[name] = constant

    def _add_operation(self, node: fx.Node) -> None:
        target = node.target
        schema = getattr(target, "_schema", None)
        if target in _IDENTITIES:
            source = node.all_input_nodes[0]
            self.root[node] = self.root[source]
            if target is MODULE_OUTPUT:
                self.layers[str(node.args[1])].append(self._present(source))
            return
        if schema is not None and schema.is_mutable:
            self._add_in_place(node)
            return
        copied = self._as_slice(node) or self.new.node_copy(node, self._present)
        copied.target = _LAYOUT_FREE.get(cast("Any", copied.target), copied.target)
        if target is aten.conv2d.padding:
            self._make_padding_explicit(copied)
        elif target is BATCH_NORM:
            *tensors, eps = copied.args
            copied.target, copied.args = aten.batch_norm.default, (*tensors, False, 0.0, eps, False)
        self.root[node], self.value[node] = node, copied
        parts = target is operator.getitem  # of a chunk or split: views too
        if parts or (schema is not None and any(argument.alias_info is not None for argument in schema.arguments)):
            self.viewed[node] = self._storage(self.root[node.all_input_nodes[0]])

    def _add_in_place(self, node: fx.Node) -> None:
        assert isinstance(node.target, torch._ops.OpOverload)
        written = self.root[node.all_input_nodes[0]]
        name, overload = node.target._schema.name.split("::")[1], node.target._overloadname
        functional = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
        if functional is None or not name.endswith("_") or self._has_live_relatives(written, node):
            raise WriteThroughViewError(f"{node.target} in {place(node)}")
        copied = self.new.node_copy(node, self._present)
        copied.target = functional
        self.root[node] = written
        self.value[written] = copied

    def _as_slice(self, node: fx.Node) -> fx.Node | None:
        """A piece of a chunked or split tensor as a slice of it, so that no value is a list."""
        if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
            return None
        source = self._present(node.args[0])
        dimension = source.kwargs.get("dim", source.args[2] if len(source.args) > 2 else 0)
        if source.target not in _SPLITS or not isinstance(dimension, int):
            return None
        sizes = [piece.shape[dimension] for piece in node.args[0].meta["val"]]
        index = node.args[1]
        if not isinstance(index, int) or not all(isinstance(size, int) for size in sizes):
            return None
        start = sum(sizes[: index % len(sizes)])
        end = start + sizes[index]
        piece = self.new.call_function(aten.slice.Tensor, (source.args[0], dimension, start, end))
        piece.meta = dict(node.meta)
        return piece

    def _make_padding_explicit(self, conv: fx.Node) -> None:
        """Write conv2d(padding="same" or "valid") with numbers; an odd sum pads one more at the end."""
        arguments = [*conv.args, *_CONV_DEFAULTS[len(conv.args) :]]
        x, weight, bias, stride, mode, dilation, groups = arguments
        assert isinstance(x, fx.Node)
        assert isinstance(weight, fx.Node)
        total = [0, 0]
        if mode == "same":
            steps = dilation if isinstance(dilation, list | tuple) else [1, 1]
            total = [int(str(d)) * (k - 1) for d, k in zip(steps, shape(weight)[2:], strict=True)]
        if any(t % 2 for t in total):
            with self.new.inserting_before(conv):
                pad = self.new.call_function(aten.pad.default, (x, [0, total[1] % 2, 0, total[0] % 2]))
            value = x.meta["val"]
            size = (*value.shape[:2], value.shape[2] + total[0] % 2, value.shape[3] + total[1] % 2)
            pad.meta = {**conv.meta, "val": value.new_empty(size)}
            x = pad
        conv.target = aten.conv2d.default
        conv.args = (x, weight, bias, stride, [t // 2 for t in total], dilation, groups)

    def _present(self, node: fx.Node) -> fx.Node:
        return self.value[self.root[node]]

    def _storage(self, root: fx.Node) -> fx.Node:
        while root in self.viewed:
            root = self.viewed[root]
        return root

    def _has_live_relatives(self, written: fx.Node, now: fx.Node) -> bool:
        storage = self._storage(written)
        return any(
            root is not written and self._storage(root) is storage and self.position[user] > self.position[now]
            for node, root in self.root.items()
            for user in node.users
        )
