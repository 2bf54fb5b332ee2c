"""Many things, a portion at a time."""

from collections.abc import Iterator


def chunks(count: int, batch: int) -> Iterator[slice]:
    """Cut `count` things into portions of at most `batch`."""
    return (slice(start, min(start + batch, count)) for start in range(0, count, batch))
