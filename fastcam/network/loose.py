"""Tensors that modules keep without having registered them: as attributes, in lists, in dicts."""

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastcam.network.traces import Traces


@dataclass(frozen=True)
class Place:
    """What leads to an object: keys from a module on."""

    module: weakref.ref[nn.Module]
    path: tuple[Any, ...] = ()

    def at(self, *keys: Any) -> "Place":
        """The place that further keys lead to."""
        return Place(self.module, (*self.path, *keys))

    def found(self) -> object:
        """What is there now, None if nothing is."""
        there: Any = self.module()
        try:
            for key in self.path:
                there = (vars(there) if isinstance(there, nn.Module) else there)[key]
        except (LookupError, TypeError):
            return None
        return there


class Loose:
    """A tensor that is not registered.

    copied: what the model's code finds in its place during a capture.
    traces: of the tensor, as it was then.
    """

    def __init__(self, place: Place, tensor: Tensor, copied: Tensor) -> None:
        self.copied = copied
        self._place = place
        self.traces = Traces([tensor])
        self._version = copied._version

    @property
    def value(self) -> Tensor:
        """The tensor's value: the copy's, unless the model's code wrote to that."""
        (tensor,) = self.traces.tensors
        return self.copied.detach() if self.copied._version == self._version else tensor.detach().clone()

    def is_there(self) -> bool:
        """Whether the tensor is in its place, with nothing written to it that version counters tell of."""
        found = self._place.found()
        return isinstance(found, Tensor) and self.traces.are_of((found,))
