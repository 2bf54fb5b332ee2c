"""Many things, a portion at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


def chunks(count: int, batch: int) -> Iterator[slice]:
    """Cut `count` things into portions of at most `batch`."""
    return (slice(start, min(start + batch, count)) for start in range(0, count, batch))


@dataclass
class Shrunk:
    """Portions that nobody chose are `divisor` times smaller; largest: the largest of them so far."""

    divisor: int
    largest: int = 1


_shrunk: ContextVar[Shrunk | None] = ContextVar("fastcam_shrunk", default=None)


@contextmanager
def shrunk(divisor: int) -> Iterator[Shrunk]:
    """Inside the block, portions that are to fill a device are `divisor` times smaller; a `batch_size` stays."""
    shrinking = Shrunk(divisor)
    token = _shrunk.set(shrinking)
    try:
        yield shrinking
    finally:
        _shrunk.reset(token)


def fitted(count: int) -> int:
    """A portion of `count` things, which nobody chose, as memory has room for: fewer inside `shrunk`, at least one."""
    shrinking = _shrunk.get()
    if shrinking is None:
        return count
    fewer = max(count // shrinking.divisor, 1)
    shrinking.largest = max(shrinking.largest, fewer)
    return fewer
