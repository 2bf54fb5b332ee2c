"""Target layers: from what a user names to the node of the graph that holds its activation."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from fastcam.network.graph import Graph, aten, is_feature_map, shape

LayerName = str | nn.Module | None

_GLOBAL_POOLS = (aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default)


@dataclass(frozen=True, eq=False)
class Layer:
    """A target layer: its name, and the node whose value is its activation."""

    name: str
    node: fx.Node


def find_layers(
    graph: Graph, model: nn.Module, layers: LayerName | Sequence[LayerName], *, images: bool = False
) -> list[Layer]:
    """Resolve one layer or several.

    None is the last tensor with channels at more than one position before it is pooled or flattened. A name
    is a module's path; a module that is called several times has a layer per call, `name@0`, `name@1`, and its
    bare name is the last. A tensor that no module returned has the name of its node.

    images: the images are a layer too, called "input" where no module is; None stands for them.

    Raises TypeError for anything but a name, a module or None, and ValueError for an unknown layer (close
    names are offered), one that is no feature map or has its channels last, and one that the logits do not depend on.
    """
    several: Sequence[LayerName] = layers if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    if not several:
        raise ValueError("layer: an empty list given; name at least one layer, or leave it out")

    def find(layer: LayerName) -> Layer:
        if images and (layer is None or (layer == "input" and layer not in graph.layers)):
            return Layer("input", graph.images)
        return _find(graph, model, layer)

    return [find(layer) for layer in several]


def layer_names(graph: Graph) -> list[str]:
    """Names of all layers that can be explained, in the order of their computation."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    names = [(order[nodes[-1]], name) for name, nodes in graph.layers.items() if _is_usable(graph, nodes[-1])]
    return [name for _, name in sorted(names)]


def _find(graph: Graph, model: nn.Module, layer: LayerName) -> Layer:
    if layer is None:
        return _default(graph)
    if isinstance(layer, nn.Module):
        name = _name_of(model, layer)
    elif isinstance(layer, str):
        name = layer
    else:
        raise TypeError(
            f"layer: {type(layer).__name__} given; a module name, a module, None or a list of these is valid"
        )
    node = _node(graph, model, name)
    if node not in graph.used:
        raise ValueError(f"layer: the logits do not depend on {name!r}; choose one of {_some(layer_names(graph))}")
    if node is graph.images:
        raise ValueError(f"layer: {name!r} returns the images themselves; choose one of {_some(layer_names(graph))}")
    if not is_feature_map(graph, node):
        size = ", ".join("N" if s == -1 else str(s) for s in shape(node))
        raise ValueError(
            f"layer: {name!r} is no feature map: its output is ({size}), and (N, channels, height, width) with more "
            f"than one position is needed; choose one of {_some(layer_names(graph))}"
        )
    if node in graph.channels_last:
        raise ValueError(
            f"layer: {name!r} has its channels last: its output is {_channels_last(node)}, and (N, channels, height, "
            f"width) is needed; choose one of {_some(layer_names(graph))}"
        )
    return Layer(name, node)


def _default(graph: Graph) -> Layer:
    candidates = graph.used & graph.spatial
    for node in reversed(graph.nodes):
        if node in candidates and node is not graph.images and node.target not in _GLOBAL_POOLS:
            name = label(graph, node)
            if node in graph.channels_last:
                raise ValueError(
                    f"layer: none given, and {name!r}, the last feature map, has its channels last: it is "
                    f"{_channels_last(node)}, and (N, channels, height, width) is needed; choose one of "
                    f"{_some(layer_names(graph))}, or take a method that explains the images, such as gradient or rise"
                )
            if _turns_into_tokens(graph, node):
                raise ValueError(
                    f"layer: none given, and behind {name!r}, its last feature map, the model works on tokens, as "
                    f"vision transformers do; name layer={name!r} to explain that, or take a method that explains the "
                    "images, such as gradient or rise"
                )
            return Layer(name, node)
    raise ValueError("layer: the model has no tensor with channels at more than one position; it is no CNN")


def _channels_last(node: fx.Node) -> str:
    return f"(N, {', '.join(map(str, shape(node)[1:]))})"


def _turns_into_tokens(graph: Graph, layer: fx.Node) -> bool:
    """Whether values (N, tokens, depth) are normalised over their depth behind a layer."""
    behind = graph.descendants([layer])
    return any(
        node.target is aten.layer_norm.default and len(shape(node)) == 3 for node in graph.nodes if node in behind
    )


def label(graph: Graph, node: fx.Node) -> str:
    """The name of a node: that of the outermost module that returned it, else the node's own."""
    names = [
        name if i == len(nodes) - 1 else f"{name}@{i}"
        for name, nodes in graph.layers.items()
        for i, returned in enumerate(nodes)
        if returned is node
    ]
    return min(names, key=_depth) if names else node.name


def _depth(name: str) -> int:
    return name.count(".")


def _node(graph: Graph, model: nn.Module, name: str) -> fx.Node:
    base, _, call = name.partition("@")
    nodes = graph.layers.get(base) or graph.layers.get(_alias(model, base))
    if nodes:
        if not call:
            return nodes[-1]
        if call.isdecimal() and int(call) < len(nodes):
            return nodes[int(call)]
        raise ValueError(f"layer: {name!r} given, but {base!r} is called {len(nodes)} time(s): @0 to @{len(nodes) - 1}")
    for node in graph.nodes:
        if node.op == "call_function" and node.name == name:
            return node
    raise ValueError(_unknown(graph, model, name))


def _alias(model: nn.Module, name: str) -> str:
    """The first name of a module that is reachable under several."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return next((first for first, module in model.named_modules() if module is modules.get(name)), "")


def _name_of(model: nn.Module, module: nn.Module) -> str:
    name: str
    for name, candidate in model.named_modules():
        if candidate is module:
            return name
    raise ValueError(
        f"layer: the {type(module).__name__} given is no module of the model; pass one of its own, or a name"
    )


def _unknown(graph: Graph, model: nn.Module, name: str) -> str:
    if name in dict(model.named_modules()):
        return f"layer: {name!r} returns no tensor for these images; choose one of {_some(layer_names(graph))}"
    names = layer_names(graph)
    inner = _unwrapped(name)
    if inner != name and inner.partition("@")[0] in graph.layers:
        wrapped = name.removesuffix(inner)
        return f"layer: the model has no layer {name!r}; write {inner!r}, without the wrapper's {wrapped!r}"
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    offer = f"did you mean {_some(close)}?" if close else f"choose one of {_some(names)}"
    return f"layer: the model has no layer {name!r}; {offer}"


def _unwrapped(name: str) -> str:
    """A layer's name without what DataParallel, its kin and torch.compile put in front: models are unwrapped."""
    for wrapper in ("module.", "_orig_mod."):
        if name.startswith(wrapper):
            return _unwrapped(name.removeprefix(wrapper))
    return name


def _some(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[-6:]]
    return ", ".join(shown) if len(names) <= 6 else f"..., {', '.join(shown)}"


def _is_usable(graph: Graph, node: fx.Node) -> bool:
    usable = node in graph.used and node is not graph.images and is_feature_map(graph, node)
    return usable and node not in graph.channels_last
