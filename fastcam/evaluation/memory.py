"""Less at a time where memory does not suffice."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

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
    """

    size: int
    halved: Callable[[int, int], None]

    def each(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """`work` on portions of `count` images, in order.

        Raises:
            whatever `work` raises; out of memory only when a single image was too much.
        """
        done: list[T] = []
        start = 0
        while start < count:
            stop = min(start + self.size, count)
            found = self._attempt(work, slice(start, stop))
            # Outside the handler, where the exception no longer holds the tensors of what failed.
            if isinstance(found, _TooMuch):
                self._halve(stop - start)
            else:
                done.append(found)
                start = stop
        return done

    def _attempt(self, work: Callable[[slice], T], portion: slice) -> "T | _TooMuch":
        try:
            return work(portion)
        except (RuntimeError, MemoryError) as error:
            if portion.stop - portion.start == 1 or not is_out_of_memory(error):
                raise
            return _TooMuch()

    def _halve(self, failed: int) -> None:
        before, self.size = self.size, max(failed // 2, 1)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.halved(before, self.size)


class _TooMuch:
    """Memory did not suffice."""
