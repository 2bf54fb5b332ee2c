"""Mean curves of insertion and deletion as SVG, drawn without a plotting library so that they follow the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastcam.evaluation.layout import Group
from fastcam.evaluation.tables import Key, MeanCurve
from fastcam.metrics.metric import Column

# The drawing's size, and where its axes begin and end.
WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 410, 12, 228


@dataclass(frozen=True)
class Stroke:
    """A method's curve: its number among the methods tells colour and dashes; points as SVG has them."""

    method: str
    series: int
    points: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at a place of the drawing."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing of mean curves: one metric of what stands side by side."""

    title: str
    place: str
    strokes: tuple[Stroke, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]

    @property
    def summary(self) -> str:
        """What the drawing shows, in words."""
        return f"{self.title} of {', '.join(s.method for s in self.strokes)}; {self.place}"


def plots(
    curves: Mapping[str, Mapping[Key, MeanCurve]],
    columns: Sequence[Column],
    methods: Sequence[str],
    groups: Mapping[Key, Group],
) -> list[Plot]:
    """A plot per group and curve column; `curves` by column, `methods` in the order of their colours."""
    found = []
    for group in dict.fromkeys(groups.values()):
        for column in columns:
            of_column = curves.get(column.name, {})
            own = {key[2]: curve for key, curve in of_column.items() if groups[key] == group}
            if own:
                found.append(_plot(column.title, group.title, own, methods))
    return found


def _plot(title: str, place: str, own: Mapping[str, MeanCurve], methods: Sequence[str]) -> Plot:
    top = ceiling(max(float(curve.scores.max()) for curve in own.values()))
    strokes = tuple(
        Stroke(method, methods.index(method), _points(own[method], top)) for method in methods if method in own
    )
    across = tuple(Tick(_x(share), f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1))
    up = tuple(Tick(_y(top * i / 4, top), f"{top * i / 4:.3g}") for i in range(5))
    return Plot(title=title, place=place, strokes=strokes, across=across, up=up)


def _points(curve: MeanCurve, top: float) -> str:
    points = zip(curve.shares, curve.scores, strict=True)
    return " ".join(f"{_x(share):.1f},{_y(score, top):.1f}" for share, score in points)


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _y(value: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * value / top


def ceiling(value: float) -> float:
    """The least of 1, 2, 4, 6, 8 times a power of ten that is not below a value; 1 for values that are not positive."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * (1 - 1e-9))
