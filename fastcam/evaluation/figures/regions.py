"""The connected parts of a region, and the boxes around them."""

import numpy as np
from numpy.typing import NDArray

from fastcam.datasets.sample import Box


def part_boxes(region: NDArray[np.bool_], *, least: float = 0.05) -> list[Box]:
    """Boxes around the connected parts of a region (H, W), the largest part first.

    Pixels that touch at a corner are connected. Parts below `least` of the region's pixels get none: a speck is no
    object.
    """
    rows, starts, ends = _runs(region)
    part = _connected(rows, starts, ends)
    boxes = []
    for number in np.unique(part):
        own = part == number
        area = int((ends[own] - starts[own]).sum())
        if area >= least * region.sum():
            boxes.append((area, Box(starts[own].min(), rows[own].min(), ends[own].max(), rows[own].max() + 1)))
    return [box for _, box in sorted(boxes, key=lambda found: -found[0])]


def _runs(region: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each row's runs of pixels in the region: rows, first columns, first columns behind."""
    edges = np.diff(np.pad(region.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return rows, starts, np.nonzero(edges == -1)[1]


def _connected(rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each run's part: runs of neighbouring rows are united where they touch."""
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0
    for run, row in enumerate(rows):
        # Runs are sorted by row and column, so that what may touch this one begins no earlier than for the last.
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] < starts[run]):
            above += 1
        other = above
        while rows[other] == row - 1 and starts[other] <= ends[run]:
            parent[root(other)] = root(run)
            other += 1
    return np.array([root(run) for run in range(len(rows))], dtype=np.int64)
