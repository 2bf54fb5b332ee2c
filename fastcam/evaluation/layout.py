"""How figures are laid out, as the papers do: a row per method, columns by model, layer and metric."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastcam.evaluation.published import Published
from fastcam.evaluation.tables import ADCC_OF_MEANS, Figure, Key, Line, Results
from fastcam.metrics.metric import Column

# Tables up to so many columns hold several models side by side.
_WIDEST = 8

# Both means of ADCC are printed alike, also where a paper has only one of them.
_ADCC = frozenset({"adcc", ADCC_OF_MEANS.name})

# Methods that explain nothing: never the best of a column.
BASELINES = frozenset({"fake_cam", "random_cam"})


@dataclass(frozen=True)
class Group:
    """Columns under one heading: a layer of a model, or a model with each method's own layer (layer "")."""

    model: str
    layer: str

    @property
    def title(self) -> str:
        """Model and layer, as headings name them."""
        return f"{self.model}, {self.layer}" if self.layer else self.model


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a column is printed: with so many decimals; percent: a share of 1 that the paper prints in per cent."""

    column: Column
    decimals: int
    percent: bool

    @property
    def title(self) -> str:
        """The metric's title with its unit."""
        return self.column.title + (f" ({self.unit})" if self.unit else "")

    @property
    def unit(self) -> str:
        """What stands behind its values: "%" or nothing."""
        return "%" if self.percent else self.column.unit

    def text(self, value: float) -> str:
        """A value as the column prints it."""
        return "–" if math.isnan(value) else f"{self.shown(value):.{self.decimals}f}"

    def shown(self, value: float) -> float:
        """A value on the column's scale."""
        return value * 100 if self.percent else value


@dataclass(frozen=True, kw_only=True)
class Head(Shown):
    """A column of a table. best: methods with the best value as it is printed. printed: the paper has figures here."""

    group: Group
    printed: bool
    best: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a method meets a column."""

    figure: Figure | None
    published: Published | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: cells by (method, index of the head)."""

    title: str
    groups: tuple[Group, ...]
    heads: tuple[Head, ...]
    methods: tuple[str, ...]
    cells: Mapping[tuple[str, int], Cell]

    @property
    def printed(self) -> bool:
        """Whether the paper has figures in it."""
        return any(head.printed for head in self.heads)

    def width(self, group: Group) -> int:
        """Columns under a group: one per head, and one more where the paper has figures."""
        return sum(1 + head.printed for head in self.heads if head.group == group)


def layout(results: Results, *, baselines: frozenset[str] = frozenset()) -> list[Table]:
    """Tables of all figures: one for all models where they fit side by side, else one per model.

    baselines: labels of methods that are not marked as best.
    """
    groups = _groups(results.lines)
    if len(groups) * len(results.columns) <= _WIDEST:
        return [_table(results, groups, baselines)]
    models = list(dict.fromkeys(group.model for group in groups))
    return [_table(results, [g for g in groups if g.model == model], baselines) for model in models]


def groups_by_key(results: Results) -> dict[Key, Group]:
    """The heading under which each (model, layer, method) of the rows stands: what is shown side by side."""
    groups = _groups(results.lines)
    several = _with_several(groups)
    return {
        (line.model, line.layer, line.method): group
        for line in results.lines
        for group in groups
        if line.count and line.model == group.model and (line.model not in several or line.layer == group.layer)
    }


def _with_several(groups: Sequence[Group]) -> set[str]:
    """Models with a group per layer."""
    counts = Counter(group.model for group in groups)
    return {model for model, count in counts.items() if count > 1}


def _groups(lines: Sequence[Line]) -> list[Group]:
    """A group per model and layer; one per model where no method has several layers."""
    found: list[Group] = []
    for model in dict.fromkeys(line.model for line in lines):
        own = [line for line in lines if line.model == model]
        layers = dict.fromkeys(line.layer for line in own if line.count)
        if len({line.method for line in own}) == len(own):
            found.append(Group(model, next(iter(layers)) if len(layers) == 1 else ""))
        else:
            found += [Group(model, layer) for layer in layers]
    return found


def _table(results: Results, groups: Sequence[Group], baselines: frozenset[str]) -> Table:
    several = _with_several(groups)
    models = {group.model for group in groups}
    lines = [line for line in results.lines if line.model in models]
    by_place = {
        (line.method, group): line
        for line in lines
        for group in groups
        if line.model == group.model and (line.model not in several or line.layer in (group.layer, ""))
    }
    methods = tuple(dict.fromkeys(line.method for line in lines))
    heads: list[Head] = []
    for group in groups:
        own = [line for (_, g), line in by_place.items() if g == group]
        heads += [
            _head(group, shown, own, baselines)
            for shown in shown_columns(results)
            if any(shown.column.name in {*line.figures, *line.published} for line in own)
        ]
    cells = {
        (method, i): Cell(figure=line.figures.get(h.column.name), published=line.published.get(h.column.name))
        for i, h in enumerate(heads)
        for method in methods
        if (line := by_place.get((method, h.group))) is not None
    }
    return Table(
        title=", ".join(dict.fromkeys(group.model for group in groups)),
        groups=tuple(groups),
        heads=tuple(heads),
        methods=methods,
        cells=cells,
    )


def shown_columns(results: Results) -> list[Shown]:
    """How the columns of a run are printed: on the scale and with the digits of the published figures, if there are."""
    return [_shown(column, results) for column in results.columns]


def _shown(column: Column, results: Results) -> Shown:
    alike = _ADCC if column.name in _ADCC else {column.name}
    printed = [line.published[name] for line in results.lines for name in alike if name in line.published]
    return Shown(
        column=column,
        decimals=max((p.decimals for p in printed), default=2 if column.unit == "%" else 3),
        percent=any(p.percent for p in printed),
    )


def _head(group: Group, shown: Shown, lines: Sequence[Line], baselines: frozenset[str]) -> Head:
    column = shown.column
    values = {
        line.method: round(shown.shown(line.figures[column.name].value), shown.decimals)
        for line in lines
        if column.name in line.figures and line.method not in baselines
    }
    values = {method: value for method, value in values.items() if not math.isnan(value)}
    best: frozenset[str] = frozenset()
    if column.better is not None and len(values) > 1:
        top = (max if column.better == "higher" else min)(values.values())
        best = frozenset(method for method, value in values.items() if value == top)
    return Head(
        group=group,
        column=column,
        decimals=shown.decimals,
        percent=shown.percent,
        printed=any(column.name in line.published for line in lines),
        best=best,
    )
