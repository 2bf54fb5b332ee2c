"""Networks, kept per model for as long as the model lives and its weights stay what they were."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.network.capture import capture
from fastcam.network.graph import Graph
from fastcam.network.network import Network
from fastcam.network.precision import resolve
from fastcam.ops.backend import current_backend

Output = Callable[[Any], Tensor]

# Captures of one model: as many input sizes as a study alternates between.
_MOST_GRAPHS = 16


@dataclass
class _Entry:
    """What is kept of one model.

    modules and tensors are what the graphs were captured from; holding the tensors keeps their identities
    from being used again.
    """

    modules: tuple[weakref.ref[nn.Module], ...]
    tensors: tuple[Tensor, ...]
    kinds: tuple[object, ...]
    contents: tuple[object, ...]
    graphs: OrderedDict[object, Graph] = field(default_factory=OrderedDict)
    networks: dict[object, Network] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_entries: weakref.WeakKeyDictionary[nn.Module, _Entry] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def network_for(
    model: nn.Module, images: Tensor, *, precision: str | None = None, output: Output | None = None
) -> Network:
    """The network of a model, for images of this size, at a precision.

    Captured once per model, image size and `output`; weights are prepared anew when a parameter or buffer
    was replaced, moved or written to, and the model is captured anew when its modules changed.
    Writes that leave no trace (through `.data` or numpy) need `clear_cache(model)`.
    """
    if output is not None and not callable(output):
        raise TypeError(f"output: {type(output).__name__} given, None or a callable that picks the logits is valid")
    modules = tuple(model.modules())
    state = _state(model)
    tensors = tuple(state.values())
    _check_device(tensors, images)
    entry = _entry(model, modules, tensors)
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    resolved = resolve(precision, dtype, images.device)
    with entry.lock:
        graph = _graph(entry, model, tuple(images.shape), output)
        key = (graph, resolved, current_backend())
        if key not in entry.networks:
            entry.networks[key] = Network(graph, {name: _plain(t) for name, t in state.items()}, resolved)
        return entry.networks[key]


def clear_cache(model: nn.Module | None = None) -> None:
    """Forget what is kept of a model, or of all models: the next call captures and prepares afresh."""
    with _lock:
        if model is None:
            _entries.clear()
        else:
            _entries.pop(model, None)


def _entry(model: nn.Module, modules: tuple[nn.Module, ...], tensors: tuple[Tensor, ...]) -> _Entry:
    kinds = tuple((t.shape, t.dtype, t.device) for t in tensors)
    contents = tuple((id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
    with _lock:
        entry = _entries.get(model)
        if entry is None or entry.kinds != kinds or not _are(entry.modules, modules):
            entry = _Entry(tuple(map(weakref.ref, modules)), tensors, kinds, contents)
        elif entry.contents != contents:
            entry = _Entry(entry.modules, tensors, kinds, contents, graphs=entry.graphs)
        _entries[model] = entry
        return entry


def _are(known: tuple[weakref.ref[nn.Module], ...], modules: tuple[nn.Module, ...]) -> bool:
    return len(known) == len(modules) and all(a() is b for a, b in zip(known, modules, strict=True))


def _graph(entry: _Entry, model: nn.Module, size: tuple[int, ...], output: Output | None) -> Graph:
    chosen = _identity(output)
    # A graph of a fixed batch is kept under its batch, any other under None.
    for batch in (None, size[0]):
        key = (batch, *size[1:], chosen)
        if key in entry.graphs:
            entry.graphs.move_to_end(key)
            return entry.graphs[key]
    graph = capture(model, (size[0], size[1], size[2], size[3]), output=output)
    entry.graphs[(None if graph.dynamic_batch else size[0], *size[1:], chosen)] = graph
    while len(entry.graphs) > _MOST_GRAPHS:
        _, dropped = entry.graphs.popitem(last=False)
        entry.networks = {key: network for key, network in entry.networks.items() if network.graph is not dropped}
    return graph


def _identity(output: Output | None) -> object:
    """What tells one `output` from another, without keeping it (it may hold the model) alive.

    A plain function, such as a lambda written in a loop, is its code; anything with a state of its own is itself.
    """
    if output is None:
        return None
    if isinstance(output, MethodType):
        return weakref.WeakMethod(output)
    stateless = isinstance(output, FunctionType) and not (
        output.__closure__ or output.__defaults__ or output.__kwdefaults__
    )
    return output.__code__ if isinstance(output, FunctionType) and stateless else weakref.ref(output)


def _state(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return dict(named)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor without gradient; inference tensors are copied, since autograd refuses them."""
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def _check_device(tensors: tuple[Tensor, ...], images: Tensor) -> None:
    for tensor in tensors:
        if tensor.device != images.device:
            raise ValueError(
                f"images: on {images.device}, but the model is on {tensor.device}; move one of them (images.to(...))"
            )
