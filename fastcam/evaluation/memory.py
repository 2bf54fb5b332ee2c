"""Less at a time where memory does not suffice."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from fastcam.network.portions import shrunk

T = TypeVar("T")

# What torch says where its allocators fail but by its own exception.
_SIGNS = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@dataclass
class Portions:
    """How many images are worked on at a time: at most `size`; halved for good when memory runs out.

    halved: told of each halving, (from, to).
    divisor: by how much the forward passes are smaller that methods make of each image, masked in many ways; halved
        together with `size`, and on when that is 1.
    """

    size: int
    halved: Callable[[int, int], None]
    divisor: int = 1

    def each(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """`work` on portions of `count` images, in order.

        Raises:
            whatever `work` raises; out of memory only when a single image was too much, one forward pass at a time.
        """
        done: list[T] = []
        start = 0
        while start < count:
            found, start = self._next(start, count, work)
            done.append(found)
        return done

    def first(self, count: int, work: Callable[[slice], T]) -> T:
        """`work` on the first portion of `count` images alone; raises as `each` does."""
        return self._next(0, count, work)[0]

    def _next(self, start: int, count: int, work: Callable[[slice], T]) -> tuple[T, int]:
        """`work` on as many images from `start` as fit, and where they end."""
        while True:
            stop = min(start + self.size, count)
            found = self._attempt(work, slice(start, stop))
            if not isinstance(found, _TooMuch):
                return found, stop
            # Outside the handler, where the exception no longer holds the tensors of what failed.
            self._halve(stop - start)

    def _attempt(self, work: Callable[[slice], T], portion: slice) -> "T | _TooMuch":
        with shrunk(self.divisor) as shrinking:
            try:
                return work(portion)
            except (RuntimeError, MemoryError) as error:
                least = portion.stop - portion.start == 1 and shrinking.largest == 1
                if least or not is_out_of_memory(error):
                    raise
                return _TooMuch()

    def _halve(self, failed: int) -> None:
        before, self.size = self.size, max(failed // 2, 1)
        self.divisor *= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.halved(before, self.size)


class _TooMuch:
    """Memory did not suffice."""
