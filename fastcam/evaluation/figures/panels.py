"""Figures of pictures and plots in rows, placed in inches, so that no text meets another whatever the photo's shape."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fastcam.datasets.sample import Box
from fastcam.plots import Pixels, plain

# Inches: the side of a square picture, and the space around it. At the 110 dots of `write_png` 224 pixels stay so.
_SIDE, _GAP, _LEFT, _EDGE = 2.0, 0.08, 0.32, 0.12
_TITLE, _HEADING, _LINE = 0.42, 0.34, 0.155
# Room for the ticks of a plot at its left.
_TICKS = 0.5
_FONT = 8.0
# A photo longer than that is shown with bars beside it.
_LONGEST = 3.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture (h, w, 3), a title above it and a note below; `region` (h, w) is outlined, boxes are drawn."""

    picture: Pixels
    title: str = ""
    note: str = ""
    region: NDArray[np.bool_] | None = None
    boxes: Sequence[Box] = ()


Drawing: TypeAlias = Callable[[Axes], None]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Axes that `draw` fills, as wide as `span` pictures, with a title above; `ticks` inches below are for labels."""

    draw: Drawing
    title: str = ""
    note: str = ""
    span: int = 1
    ticks: float = 0.3


# None: there is no map here.
Cell: TypeAlias = Panel | Plot | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Rows that belong together, by name, under one heading."""

    heading: str
    rows: Mapping[str, Sequence[Cell]]

    @property
    def columns(self) -> int:
        """As many as the longest row has."""
        return max(sum(_span(cell) for cell in row) for row in self.rows.values())


def panel_figure(sections: Sequence[Section], *, title: str, shape: Sequence[int]) -> Figure:
    """One section under the other; every picture gets a cell of the proportions of `shape`, (height, width, ...)."""
    aspect = min(max(shape[1] / shape[0], 1 / _LONGEST), _LONGEST)
    wide, high = _SIDE * math.sqrt(aspect), _SIDE / math.sqrt(aspect)
    columns = max(section.columns for section in sections)
    width = _LEFT + columns * (wide + _GAP) + _EDGE
    height = _TITLE + sum(_HEADING + sum(_row_height(row, wide, high) for row in s.rows.values()) for s in sections)
    page = _Page(width, height + _EDGE)
    page.text(width / 2, _TITLE / 2, fitted(title, width, 11.0), size=11.0)
    top = _TITLE
    for section in sections:
        page.text(_LEFT, top + _HEADING / 2, fitted(section.heading, width - _LEFT, 10.0), size=10.0, align="left")
        top += _HEADING
        for name, row in section.rows.items():
            above = _room(row, wide, "title")
            page.text(_LEFT / 2, top + above + high / 2, fitted(name, high, _FONT, lines=2), size=_FONT, rotation=90)
            left = _LEFT
            for cell in row:
                _draw(page, cell, left, top + above, _across(cell, wide), high)
                left += _across(cell, wide) + _GAP
            top += _row_height(row, wide, high)
    return page.figure


class _Page:
    """A figure addressed in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        FigureCanvasAgg(self.figure)
        self._width, self._height = width, height

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float,
        align: str = "center",
        vertical: str = "center",
        **how: Any,
    ) -> None:
        self.figure.text(
            x / self._width, 1 - y / self._height, plain(words), fontsize=size, ha=align, va=vertical, **how
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        w, h = self._width, self._height
        return self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _draw(page: _Page, cell: Cell, left: float, top: float, width: float, height: float) -> None:
    if cell is None:
        page.text(left + width / 2, top + height / 2, "no map\nat this layer", size=_FONT)
        return
    if isinstance(cell, Plot):
        axes = page.axes(left + _TICKS, top, width - _TICKS - _GAP, height - cell.ticks)
        axes.tick_params(labelsize=_FONT - 1.5, pad=2)
        cell.draw(axes)
    else:
        axes = page.axes(left, top, width, height)
        _show(axes, cell)
    middle = left + width / 2
    for text, y, vertical in ((cell.title, top - 0.03, "bottom"), (cell.note, top + height + 0.03, "top")):
        if text:
            page.text(middle, y, fitted(text, width, _FONT, lines=2), size=_FONT, vertical=vertical)


def _show(axes: Axes, panel: Panel) -> None:
    axes.imshow(panel.picture)
    axes.set_axis_off()
    if panel.region is not None and panel.region.any() and not panel.region.all():
        # White under black: seen on any photo.
        for colour, thickness in (("black", 2.4), ("white", 1.2)):
            axes.contour(panel.region, levels=[0.5], colors=colour, linewidths=thickness)
    for box in panel.boxes:
        corner, size = (box.left - 0.5, box.top - 0.5), (box.right - box.left, box.bottom - box.top)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="lime", linewidth=1.6))


def fitted(text: str, inches: float, size: float, *, lines: int = 1) -> str:
    """Text of a font size cut to a width: broken into so many lines at most, then shortened in its middle."""
    # The letters of matplotlib's font are about 0.55 of its size wide, and a size is in 1/72 of an inch.
    most = max(int(inches * 72 / (0.55 * size)), 4)
    found: list[str] = []
    for line in text.split("\n"):
        rest = line
        while len(rest) > most and len(found) < lines - 1:
            # Between words, or in a long name behind a dot.
            cut = max(rest.rfind(" ", 0, most + 1) + 1, 0) or rest.rfind(".", 0, most) + 1
            cut = cut if cut > most // 3 else most
            found.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        found.append(rest if len(rest) <= most else f"{rest[: most // 2]}…{rest[len(rest) - (most - most // 2 - 1) :]}")
    return "\n".join(found)


def _span(cell: Cell) -> int:
    return cell.span if isinstance(cell, Plot) else 1


def _across(cell: Cell, wide: float) -> float:
    return _span(cell) * (wide + _GAP) - _GAP


def _row_height(row: Sequence[Cell], wide: float, high: float) -> float:
    return _room(row, wide, "title") + high + _room(row, wide, "note") + _GAP


def _room(row: Sequence[Cell], wide: float, part: Literal["title", "note"]) -> float:
    """Inches for the titles or the notes of a row's cells."""
    texts = [(getattr(cell, part), _across(cell, wide)) for cell in row if cell is not None]
    most = max((fitted(text, across, _FONT, lines=2).count("\n") + 1 for text, across in texts if text), default=0)
    return most * _LINE
