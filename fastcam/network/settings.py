"""What modules are set to: numbers, words and functions among their attributes, which a capture takes for constants."""

import weakref
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import MethodType, NoneType
from typing import Any

import torch
from torch import nn

# What every module has, in tables of its own or as a flag that a capture has no regard to.
COMMON = frozenset(vars(nn.Module()))
_PLAIN = (int, float, complex, str, bytes, NoneType, torch.dtype, torch.device)


class Settings:
    """The classes of modules, which attributes they have, and the values of those that are plain or functions.

    Lists, dicts and other objects are not looked into.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._of = [_Of(module) for module in modules]

    def are_of(self, modules: Sequence[nn.Module]) -> bool:
        """Whether the modules, the same ones in the same order, are set to this still."""
        # Written out, without a call per module: this runs at every explanation.
        for of, module in zip(self._of, modules, strict=True):
            state = module.__dict__
            if type(module) is not of.kind or len(state) != of.count:
                return False
            try:
                if of.read is not None and of.read(state) != of.values:
                    return False
                if of.functions and any(known() != state[key] for key, known in of.functions):
                    return False
            except KeyError:
                return False
        return True


class _Of:
    """The settings of one module. Functions are held weakly: they may hold the model."""

    __slots__ = ("count", "functions", "kind", "read", "values")

    def __init__(self, module: nn.Module) -> None:
        state = module.__dict__
        own = {key: value for key, value in state.items() if key not in COMMON}
        plain = [key for key, value in own.items() if _is_plain(value)]
        self.kind, self.count = type(module), len(state)
        self.read = itemgetter(*plain) if plain else None
        self.values = None if self.read is None else self.read(state)
        weak = [(key, _weak(value)) for key, value in own.items() if callable(value)]
        self.functions = [(key, known) for key, known in weak if known is not None]


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _weak(function: Any) -> Callable[[], object] | None:
    try:
        return weakref.WeakMethod(function) if isinstance(function, MethodType) else weakref.ref(function)
    except TypeError:  # some classes of C's know no weak references
        return None
