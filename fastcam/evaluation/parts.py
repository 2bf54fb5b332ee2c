"""The fixed plan of a run: which samples, in which parts, in which batches, whatever the time and the processes."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Samples that are worked on and written together: positions in the data set, in batches of a fixed size.

    number: of this part among the `total` parts of its model.
    """

    model: str
    number: int
    total: int
    samples: tuple[int, ...]

    def batches(self, size: int) -> list[tuple[int, ...]]:
        """The part's samples, `size` at a time."""
        return [self.samples[start : start + size] for start in range(0, len(self.samples), size)]


def draw_order(names: Sequence[str], seed: int) -> list[int]:
    """A permutation of the samples: by the digest of seed and name, so that it is the same with every library.

    A subset is the beginning of it; two subsets of one seed share their beginning.
    """

    def digest(position: int) -> bytes:
        return hashlib.sha256(f"{seed}\n{names[position]}".encode()).digest()

    return sorted(range(len(names)), key=digest)


def cut(model: str, samples: Sequence[int], size: int) -> list[Part]:
    """Samples in parts of `size`, in the order given."""
    starts = range(0, len(samples), size)
    return [
        Part(model, number, len(starts), tuple(samples[start : start + size])) for number, start in enumerate(starts)
    ]


def next_round(screening: Sequence[Part], done: int, right: int, wanted: int | None) -> Sequence[Part]:
    """The parts to screen next, when `right` samples were right in the first `done`: as many as may be enough.

    wanted: samples that the model is right about; None: all there are. What is chosen in the end is the beginning of
    the drawn order, however many parts were screened beyond it.
    """
    if wanted is None:
        return screening[done:]
    most = done
    missing = wanted - right
    while most < len(screening) and missing > 0:
        missing -= len(screening[most].samples)
        most += 1
    return screening[done:most]


def first_right(order: Iterable[int], right: set[int], wanted: int | None) -> list[int]:
    """The first `wanted` samples of the order that the model is right about, in the data set's order."""
    found = [position for position in order if position in right]
    return sorted(found[:wanted])
