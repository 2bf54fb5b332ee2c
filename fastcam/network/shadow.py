"""A shadow of the user's model: the same parameters and code, none of its state that could be disturbed."""

import copy
import operator
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from fastcam.network.loose import Loose, Place
from fastcam.network.settings import COMMON
from fastcam.network.traced import batch_norm, has_fixed_statistics, mark_output

_HOOK_TABLES = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
# Others may refuse to be copied or written to.
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
# What runs, where it is no module but the function that picks the logits.
OUTPUT = "`output`"


class ModelError(Exception):
    """What the model's code raised stands in `__cause__`.

    The tracer of torch.fx hangs the graph so far on a RuntimeError that speaks of data, and torch.export prints that
    graph; neither knows this class.
    """


class Shadow(nn.Module):
    """A model's twin in eval mode for `torch.export`: it shares parameters, and each module marks its output.

    Modules are copies, and so are the tensors, lists, dicts and sets among their attributes: nothing of these in the
    user's model is written, not even for a moment. Hooks of the user's stay behind, but for the pre-hooks of
    `torch.nn.utils` (weight and spectral normalisation, pruning), without which a forward pass would use stale
    weights.

    running: takes the names and classes of the modules that are running, innermost last; where the capture
        fails, its last is the place. (It is no attribute: torch.export restores those.)
    loose: takes the tensors that modules keep without having registered them.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Callable[[Any], Tensor] | None,
        running: list[tuple[str, str]],
        loose: list[Loose],
    ) -> None:
        super().__init__()
        self.output = None if output is None else _noted(output, running)
        self._copier = _Copier(running, loose)
        self.model = self._copier.copy(model)

    def forward(self, images: Tensor) -> Any:
        """Return the logits. Raises ModelError."""
        try:
            with self._copier.restored():
                y = self.model(images)
                return y if self.output is None else self.output(y)
        except Exception as error:
            raise ModelError from error


def _noted(output: Callable[[Any], Tensor], running: list[tuple[str, str]]) -> Callable[[Any], Tensor]:
    def pick(returned: Any) -> Tensor:
        running.append(("", OUTPUT))
        logits = output(returned)
        running.pop()
        return logits

    return pick


class _Copier:
    """Copies a model, each of its parts once."""

    def __init__(self, running: list[tuple[str, str]], loose: list[Loose]) -> None:
        self._running = running
        self._loose = loose
        self._copies: dict[int, Any] = {}
        self._modules: list[tuple[nn.Module, nn.Module, Place]] = []
        self._containers: list[Any] = []

    def copy(self, model: nn.Module) -> nn.Module:
        shadow = self._module(model, "")
        # Attributes after all modules: one that stands in a list as well has its name from where it is registered.
        # Unregistered modules that are found in them lengthen the list.
        for module, copied, place in self._modules:
            for key, value in list(module.__dict__.items()):
                if key not in COMMON:
                    copied.__dict__[key] = self._value(value, place.at(key))
        return shadow

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Undo what the model's code does to attributes of the copies: torch.export would warn of tensors."""
        modules = [copied.__dict__ for _, copied, _ in self._modules]
        attributes = [{key: value for key, value in state.items() if key not in COMMON} for state in modules]
        contents = [copy.copy(container) for container in self._containers]
        try:
            yield
        finally:
            for state, before in zip(modules, attributes, strict=True):
                for key in state.keys() - before.keys() - COMMON:
                    del state[key]
                state.update(before)
            for container, content in zip(self._containers, contents, strict=True):
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(content)

    def _module(self, module: nn.Module, name: str, place: Place | None = None) -> nn.Module:
        """place: where the module is, if it is not registered."""
        if id(module) in self._copies:
            return cast("nn.Module", self._copies[id(module)])
        # Not copy.copy: modules with parametrizations refuse it.
        shadow = type(module).__new__(type(module))
        self._copies[id(module)] = shadow
        self._modules.append((module, shadow, place or Place(weakref.ref(module))))
        state = dict(module.__dict__)
        for table in _HOOK_TABLES:
            state[table] = type(state[table])()
        hooks = state["_forward_pre_hooks"]
        state["_forward_pre_hooks"] = type(hooks)(
            (key, hook) for key, hook in hooks.items() if type(hook).__module__.startswith("torch.nn.utils")
        )
        state["training"] = False
        if place is None:
            state["_parameters"] = {key: self._parameter(p) for key, p in module._parameters.items()}
            state["_buffers"] = dict(module._buffers)
        else:
            for table in ("_parameters", "_buffers"):
                tensors = module.__dict__[table].items()
                state[table] = {key: self._value(tensor, place.at(table, key)) for key, tensor in tensors}
        state["_modules"] = {
            key: None
            if child is None
            else self._module(child, f"{name}.{key}" if name else key, place and place.at("_modules", key))
            for key, child in module._modules.items()
        }
        shadow.__dict__ = state
        if has_fixed_statistics(shadow):
            state.setdefault("forward", partial(batch_norm, shadow))
        self._watch(shadow, "" if place else name)
        return shadow

    def _watch(self, shadow: nn.Module, name: str) -> None:
        running = self._running

        def enter(module: nn.Module, _: Any) -> None:
            running.append((name, type(module).__name__))

        def leave(_: nn.Module, __: Any, output: Any) -> None:
            running.pop()
            if isinstance(output, Tensor):
                mark_output(output, name)

        shadow.register_forward_pre_hook(enter)
        shadow.register_forward_hook(leave)

    def _parameter(self, parameter: nn.Parameter | None) -> nn.Parameter | None:
        """A parameter that autograd accepts: itself, or a copy if it was made in inference mode."""
        if parameter is None:
            return None
        if id(parameter) not in self._copies:
            inference = parameter.is_inference()
            self._copies[id(parameter)] = _clone(parameter) if inference else parameter
        return cast("nn.Parameter", self._copies[id(parameter)])

    def _value(self, value: Any, place: Place) -> Any:
        """An attribute, or a thing in it, that the model's code may write to."""
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if isinstance(value, nn.Module):
            return self._module(value, "", place)
        if isinstance(value, MethodType) and id(value.__self__) in self._copies:
            return MethodType(value.__func__, self._copies[id(value.__self__)])
        if isinstance(value, tuple):
            items = [self._value(item, place.at(i)) for i, item in enumerate(value)]
            if all(map(operator.is_, items, value)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if type(value) not in _CONTAINERS:
            return value
        if id(value) not in self._copies:
            copied = self._copies[id(value)] = copy.copy(value)
            self._containers.append(copied)
            if not isinstance(copied, set):
                pairs = copied.items() if isinstance(copied, dict) else enumerate(copied)
                for key, item in list(pairs):
                    copied[key] = self._value(item, place.at(key))
        return self._copies[id(value)]

    def _tensor(self, tensor: Tensor, place: Place) -> Tensor:
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = _clone(tensor)
        copied = cast("Tensor", self._copies[id(tensor)])
        self._loose.append(Loose(place, tensor, copied))
        return copied


def _clone(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
