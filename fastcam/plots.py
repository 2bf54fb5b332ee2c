"""Pictures of maps: overlays, masked photos, and figures of several maps side by side.

Functions over arrays; matplotlib is used without its global state, so that they may run in any thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from .files import atomic_write

Pixels = NDArray[np.uint8]
"""A photo, (H, W, 3)."""
Map = NDArray[np.floating[Any]]
"""A map, (h, w)."""

_CELL = 1.7  # inches


def scaled(values: Map) -> Map:
    """Min-max to [0, 1], as `normalize=True` does; a flat map gives zeros.

    Raises:
        ValueError: the map has no two dimensions, or values that are not finite.
    """
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"map has the shape {values.shape}; it must be (height, width)")
    if not np.isfinite(values).all():
        raise ValueError("map holds NaN or infinity")
    low, high = values.min(), values.max()
    if high == low:
        return np.zeros_like(values)
    result: Map = (values - low) / (high - low)
    return result


def resized(values: Map, size: tuple[int, int]) -> Map:
    """The map at `size` (height, width), bilinear, corners not aligned."""
    if values.shape == size:
        return values
    height, width = size
    image = Image.fromarray(values.astype(np.float32))
    result: Map = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return result


def balanced(values: Map, largest: float | None = None) -> Map:
    """A signed map to [0, 1] with 0 at 1/2: (1 + v / largest) / 2; a map of zeros gives 1/2.

    largest: the magnitude at either end, None for the map's own.
    """
    end = np.abs(values).max() if largest is None else largest
    result: Map = (1 + values / (end or 1)) / 2
    return result


def overlay(
    photo: Pixels,
    values: Map,
    *,
    alpha: float = 0.5,
    cmap: str | None = None,
    signed: bool = False,
    largest: float | None = None,
) -> Pixels:
    """The map in colours over the photo: (1 - alpha) * photo + alpha * colour, (H, W, 3) in 8 bits.

    Args:
        photo: (H, W, 3), 8 bits.
        values: the map, (h, w); it is scaled to [0, 1] and resized to the photo.
        alpha: the colours' share, from 0 to 1.
        cmap: the name of a matplotlib colour map; None is "turbo", or "seismic" for signed maps.
        signed: 0 gets the middle of the colours, in place of the map's least value getting their start.
        largest: of signed maps, the magnitude that gets the ends of the colours; None for each map's own.
    """
    cmap = cmap or ("seismic" if signed else "turbo")
    _check_photo(photo)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
    if cmap not in matplotlib.colormaps:
        raise ValueError(f"cmap is {cmap!r}, no colour map of matplotlib; 'turbo', 'jet', 'viridis' are some")
    level = resized(balanced(values, largest) if signed else scaled(values), photo.shape[:2])
    colours = matplotlib.colormaps[cmap](level)[..., :3] * 255
    return np.rint((1 - alpha) * photo + alpha * colours).astype(np.uint8)


def region(values: Map, size: tuple[int, int], *, deviations: float = 1.0) -> NDArray[np.bool_]:
    """Where the map at `size` exceeds its mean by more than so many standard deviations, (height, width).

    With one deviation the mask of sections 4.3 and 4.4 of the Relevance-CAM paper; the deviation is the population's.
    """
    level = resized(values, size)
    high: NDArray[np.bool_] = level > level.mean() + deviations * level.std()
    return high


def masked(photo: Pixels, values: Map, *, deviations: float = 1.0) -> Pixels:
    """The photo in the map's `region`, black elsewhere."""
    _check_photo(photo)
    return np.where(region(values, photo.shape[:2], deviations=deviations)[..., None], photo, np.uint8(0))


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of a figure that belong together, under one heading.

    Attributes:
        heading: what the rows share, such as the class and its probability.
        cells: a picture by (row, column); cells without one stay empty.
    """

    heading: str
    cells: Mapping[tuple[str, str], Pixels]


def grid_figure(
    photo: Pixels, blocks: Sequence[Block], *, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """The photo and pictures made from it, laid out like figure 3 of the Relevance-CAM paper.

    One block of rows under the other; in each, the first column shows the photo, the others are headed by
    `columns`, and the rows are named at the left.
    """
    _check_photo(photo)
    aspect = photo.shape[1] / photo.shape[0]
    wide, high = _CELL * max(aspect, 1.0), _CELL * max(1.0, 1 / aspect)
    size = (wide * (len(columns) + 1) + 0.9, len(blocks) * (high * len(rows) + 0.75) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=11)
    parts = figure.subfigures(len(blocks), 1, squeeze=False)
    for part, block in zip(parts[:, 0], blocks, strict=True):
        part.suptitle(plain(block.heading), fontsize=10)
        axes = part.subplots(len(rows), len(columns) + 1, squeeze=False)
        for i, row in enumerate(rows):
            for j, column in enumerate(("input", *columns)):
                picture = photo if j == 0 else block.cells.get((row, column))
                _show(axes[i, j], picture)
                if i == 0:
                    axes[i, j].set_title(plain(column), fontsize=9)
            axes[i, 0].set_ylabel(plain(row), fontsize=8)
    return figure


def write_png(path: Path, picture: Pixels | Figure) -> None:
    """Write an array (H, W, 3) or a figure as a PNG, whole or not at all."""
    with atomic_write(path) as stream:
        if isinstance(picture, Figure):
            picture.savefig(stream, format="png", dpi=110)
        else:
            Image.fromarray(picture).save(stream, format="PNG")


def write_npy(path: Path, values: Map) -> None:
    """Write an array in numpy's format, whole or not at all."""
    with atomic_write(path) as stream:
        np.save(stream, values, allow_pickle=False)


def _show(axes: Axes, picture: Pixels | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if picture is None:
        axes.text(0.5, 0.5, "no map\nat this layer", ha="center", va="center", fontsize=7)
        axes.set_box_aspect(1)
    else:
        axes.imshow(picture)
    for spine in axes.spines.values():
        spine.set_visible(False)


def plain(text: str) -> str:
    """Text in which a pair of dollar signs is not taken for a formula."""
    return text.replace("$", r"\$")


def _check_photo(photo: Pixels) -> None:
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise ValueError(f"photo is {photo.dtype} of the shape {photo.shape}; it must be uint8, (H, W, 3)")
