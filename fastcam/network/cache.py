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
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fastcam.network.arguments import DeferredChecks
from fastcam.network.capture import capture
from fastcam.network.graph import Graph
from fastcam.network.network import Network
from fastcam.network.precision import resolve
from fastcam.network.settings import Settings
from fastcam.network.traces import Traces
from fastcam.ops.backend import current_backend

Output = Callable[[Any], Tensor]

# Captures of one model: as many input sizes as a study alternates between.
_MOST_GRAPHS = 16

_WRITTEN = (
    "model: its weights were written to after they had been prepared, in a way that PyTorch keeps no account of "
    "(a fused optimiser's step, a write in inference mode or through .data); call again, which prepares afresh, "
    "or fastcam.clear_cache(model) after such a write"
)


@dataclass
class _Entry:
    """What is kept of one model.

    modules, settings and weights are what the graphs were captured from and the networks prepared from.
    stale: whether a check found, once it was too late for its call, that weights had been written to.
    """

    modules: tuple[weakref.ref[nn.Module], ...]
    settings: Settings
    kinds: tuple[object, ...]
    weights: Traces
    graphs: OrderedDict[object, Graph] = field(default_factory=OrderedDict)
    networks: dict[object, Network] = field(default_factory=dict)
    stale: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_entries: weakref.WeakKeyDictionary[nn.Module, _Entry] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def network_for(
    model: nn.Module,
    images: Tensor,
    *,
    precision: str | None = None,
    output: Output | None = None,
    checks: DeferredChecks | None = None,
) -> Network:
    """The network of a model, for images of this size, at a precision.

    Captured once per model, image size and `output`; weights are prepared anew when a parameter or buffer
    was replaced, moved or written to, and the model is captured anew when its modules, their settings or tensors
    that they keep unregistered changed. What is not noticed: see `clear_cache`.

    checks: take note, where the device is not waited for, of writes that only the weights' numbers tell of.
    """
    if output is not None and not callable(output):
        raise TypeError(f"output: {type(output).__name__} given, None or a callable that picks the logits is valid")
    modules = tuple(model.modules())
    state = _state(model)
    tensors = tuple(state.values())
    _check_tensors(state, images)
    entry = _entry(model, modules, tensors)
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    resolved = resolve(precision, dtype, images.device)
    with entry.lock:
        graph = _graph(entry, model, tuple(images.shape), output)
        key = (graph, resolved, current_backend())
        if key not in entry.networks:
            entry.networks[key] = Network(graph, {name: _plain(t) for name, t in state.items()}, resolved)
        network = entry.networks[key]
    if checks is not None and not _is_read_at_once(images.device):
        _defer(entry, graph, checks, images.device)
    return network


def clear_cache(model: nn.Module | None = None) -> None:
    """Forget what is kept of a model, or of all models: the next call captures and prepares afresh.

    A call notices by itself that parameters, buffers or other tensors that modules keep were replaced, moved or
    written to, and that modules, their classes, or numbers, words, tuples of these and functions among their attributes
    changed. Of writes that PyTorch keeps no account of (those of fused optimisers, in inference mode, through `.data`
    or numpy) tell three numbers of each tensor, the first, one in the middle and the last: on a CPU before the call,
    elsewhere at its end, which then raises ValueError, and the next call prepares afresh.

    What needs `clear_cache` is such a write that leaves those three alone, a setting changed inside a list, a dict or
    an object of the model's own, changed code of a class or function, and whatever else the forward pass reads
    (globals).

    Nothing that a model keeps in its attributes, lists and dicts is touched by a capture. But what its code keeps
    elsewhere (in a global dict, in objects of its own, under `functools.lru_cache`) may afterwards hold tensors of the
    capture, which have no values; empty such caches, or keep their tensors on a module.
    """
    with _lock:
        if model is None:
            _entries.clear()
        else:
            _entries.pop(model, None)


def _is_read_at_once(device: torch.device) -> bool:
    """Whether a value on the device can be read without waiting for it."""
    return device.type == "cpu"


def _entry(model: nn.Module, modules: tuple[nn.Module, ...], tensors: tuple[Tensor, ...]) -> _Entry:
    kinds = tuple((t.shape, t.dtype, t.device) for t in tensors)
    with _lock:
        entry = _entries.get(model)
        if (
            entry is None
            or entry.kinds != kinds
            or not _are(entry.modules, modules)
            or not entry.settings.are_of(modules)
        ):
            entry = _Entry(tuple(map(weakref.ref, modules)), Settings(modules), kinds, Traces(tensors))
        elif entry.stale or not entry.weights.are_of(tensors) or _known_to_be_written(entry.weights):
            entry = _Entry(entry.modules, entry.settings, kinds, Traces(tensors), graphs=entry.graphs)
        _entries[model] = entry
        return entry


def _defer(entry: _Entry, graph: Graph, checks: DeferredChecks, device: torch.device) -> None:
    """Look for writes, and leave it to the checks to tell of them."""

    def forget() -> str:
        entry.stale = True
        with entry.lock:
            for kept in [kept for kept in entry.graphs.values() if kept.loose]:
                _drop(entry, kept)
        return _WRITTEN

    looks = [entry.weights, *(loose.traces for loose in graph.loose)]
    checks.add(torch.stack([traces.written().to(device) for traces in looks]).any(), forget)


def _are(known: tuple[weakref.ref[nn.Module], ...], modules: tuple[nn.Module, ...]) -> bool:
    return len(known) == len(modules) and all(a() is b for a, b in zip(known, modules, strict=True))


def _graph(entry: _Entry, model: nn.Module, size: tuple[int, ...], output: Output | None) -> Graph:
    chosen = _identity(output)
    # A graph of a fixed batch is kept under its batch, any other under None.
    for batch in (None, size[0]):
        key = (batch, *size[1:], chosen)
        graph = entry.graphs.get(key)
        if graph is not None and _is_right(graph):
            entry.graphs.move_to_end(key)
            return graph
        if graph is not None:
            _drop(entry, graph)
    graph = capture(model, (size[0], size[1], size[2], size[3]), output=output)
    entry.graphs[(None if graph.dynamic_batch else size[0], *size[1:], chosen)] = graph
    while len(entry.graphs) > _MOST_GRAPHS:
        _drop(entry, next(iter(entry.graphs.values())))
    return graph


def _is_right(graph: Graph) -> bool:
    """Whether tensors that modules keep unregistered are what they were when the graph was captured."""
    return all(loose.is_there() and not _known_to_be_written(loose.traces) for loose in graph.loose)


def _known_to_be_written(traces: Traces) -> bool:
    return _is_read_at_once(traces.device) and bool(traces.written())


def _drop(entry: _Entry, graph: Graph) -> None:
    for key in [key for key, kept in entry.graphs.items() if kept is graph]:
        del entry.graphs[key]
    entry.networks = {key: network for key, network in entry.networks.items() if network.graph is not graph}


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


def _check_tensors(state: dict[str, Tensor], images: Tensor) -> None:
    for name, tensor in state.items():
        if tensor.device != images.device:
            raise ValueError(
                f"images: on {images.device}, but the model is on {tensor.device}; move one of them (images.to(...))"
            )
        if type(tensor) in (UninitializedParameter, UninitializedBuffer):
            raise ValueError(f"model: {name!r}, of a lazy module, has no shape yet; run the model once: model(images)")
