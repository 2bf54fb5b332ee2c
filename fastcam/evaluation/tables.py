"""From rows to tables: a data set's figures per model, layer and method, beside the figures of a paper."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastcam.evaluation.published import SECONDS, Published, figures_of, published_figures
from fastcam.evaluation.study import Study
from fastcam.metrics.metric import Column, Metric

if TYPE_CHECKING:
    import pyarrow as pa

Values = NDArray[np.float64]
Key = tuple[str, str, str]  # model, layer, method

DIFFICULT = "_difficult"
ADCC_OF_MEANS = Column(name="adcc_of_means", title="ADCC of the means", better="higher")
_ADCC_PARTS = ("adcc_coherency", "adcc_complexity", "adcc_drop")

# Of the bootstrap's intervals, where nothing else is asked for.
RESAMPLES = 1000
LEVEL = 0.95

# Resamples at a time: their counts over 50,000 rows take 26 MB.
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A data set's figure, in float64.

    value: the mean over the rows, or over the classes' means, as the column's `aggregate` says; NaN where none counts.
    low, high: the bootstrap interval.
    count, missing: the rows that count, and the rows left out because the metric is undefined for them (NaN).
    """

    value: float
    low: float
    high: float
    count: int
    missing: int

    @property
    def empty(self) -> bool:
        """Whether no row counts."""
        return self.count == 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """The figures of one method at one layer of one model, by column.

    count: its rows; 0 where only the paper has figures. published: the paper's, by column.
    """

    model: str
    layer: str
    method: str
    count: int
    figures: Mapping[str, Figure] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The lines of a run, in the study's order, and the columns that some line has."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def results(
    rows: "pa.Table",
    study: Study,
    metrics: Mapping[str, Metric],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Results:
    """The figures of a study's rows, each with a bootstrap interval, beside the published ones.

    Figures are means over the rows in float64; for columns of kind "class mean" (the pointing game) means over the
    classes' means. Rows in which a column is NaN are left out of that column and counted. Two kinds of columns are made
    where the rows have what they need: `adcc_of_means`, the ADCC of the mean coherency, complexity and drop, beside the
    mean of the images' ADCC (Poppi et al. 2021 write eq. 5 for one image; their table 2 satisfies it by its printed
    means, so that it is the ADCC of the means which they publish); and `NAME_difficult`, a localisation figure over the
    rows marked difficult alone (Zhang et al. 2018).

    The interval is the percentile bootstrap's: `resamples` times, as many rows are drawn with replacement as there are,
    and the figure is computed of each draw; the interval holds the share `level` of these in its middle. The draws
    depend on `seed` and the number of rows alone.

    Args:
        rows: a run's table, one row per sample, method and layer, in any order.
        study: what the run was.
        metrics: by name, those of the study among them; they tell how columns are aggregated.
        resamples, level, seed: of the bootstrap.

    Raises:
        ValueError: no rows; a metric of the study that `metrics` lacks; invalid resamples or level.
    """
    if rows.num_rows == 0:
        raise ValueError("rows: none given; a run has rows once its first part is done")
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} given, a positive number is valid")
    if not 0 < level < 1:
        raise ValueError(f"level: {level} given, a number between 0 and 1 is valid")
    names = set(rows.column_names)
    columns = [c for c in study_columns(study, metrics) if c.name in names and not c.curve]
    localised = {c.name for m in study.metrics if "regions" in metrics[m].needs for c in metrics[m].columns}
    found = {}
    for key, group in _groups(rows, [c.name for c in columns]):
        parts = _parts(group, columns, localised)
        figures = _figures(parts, group.labels, _Interval(resamples, level, seed))
        found[key] = Line(model=key[0], layer=key[1], method=key[2], count=len(group.labels), figures=figures)
    lines = [
        replace(line, published=published_figures(study, model=key[0], layer=key[1], method=key[2]))
        for key, line in found.items()
    ]
    lines = _ordered([*lines, *_only_published(study, found)], study)
    made = {name for line in lines for name in (*line.figures, *line.published)} - {c.name for c in columns if c.hidden}
    return Results(columns=tuple(c for c in _all_columns(columns) if c.name in made), lines=tuple(lines))


def study_columns(study: Study, metrics: Mapping[str, Metric]) -> tuple[Column, ...]:
    """The columns of a study's metrics, each once, in order.

    Raises:
        ValueError: a metric that `metrics` lacks.
    """
    unknown = [name for name in study.metrics if name not in metrics]
    if unknown:
        raise ValueError(f"metrics: {unknown[0]!r} is unknown; {', '.join(metrics)} are valid")
    return tuple({c.name: c for name in study.metrics for c in metrics[name].columns}.values())


def adcc_of(coherency: Values, complexity: Values, drop: Values) -> Values:
    """The harmonic mean of coherency, 1 - complexity and 1 - drop / 100; 0 where one of them is 0."""
    terms = np.stack([coherency, 1 - complexity, 1 - drop / 100])
    with np.errstate(divide="ignore"):
        harmonic: Values = 3 / (1 / terms).sum(axis=0)
    return np.where((terms > 0).all(axis=0), harmonic, np.where(np.isnan(terms).any(axis=0), np.nan, 0.0))


@dataclass(frozen=True, eq=False)
class _Group:
    """The rows of one method at one layer of one model, in the data set's order."""

    columns: Mapping[str, Values]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Part:
    """A column of a group: values, NaN where the row does not count; rows: how many could count."""

    column: Column
    values: Values
    rows: int


@dataclass(frozen=True)
class _Interval:
    resamples: int
    level: float
    seed: int

    def counts(self, rows: int) -> Iterator[Values]:
        """How often each row is drawn, (r, rows), r draws at a time."""
        generator = np.random.default_rng(self.seed)
        for start in range(0, self.resamples, _AT_ONCE):
            drawn = min(_AT_ONCE, self.resamples - start)
            yield np.stack(
                [np.bincount(generator.integers(rows, size=rows), minlength=rows) for _ in range(drawn)]
            ).astype(np.float64)

    def of(self, draws: Values) -> tuple[float, float]:
        """The middle of the draws that are numbers."""
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return float("nan"), float("nan")
        low, high = np.quantile(draws, [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)


def groups_of(rows: "pa.Table") -> list[tuple[Key, NDArray[np.int64]]]:
    """The rows' positions per (model, layer, method), in the data set's order; groups as they first appear."""
    codes, names = [], []
    for column in ("model", "layer", "method"):
        encoded = rows.column(column).combine_chunks().dictionary_encode()
        codes.append(np.asarray(encoded.indices).astype(np.int64))
        names.append(encoded.dictionary.to_pylist())
    code = (codes[0] * len(names[1]) + codes[1]) * len(names[2]) + codes[2]
    order = np.lexsort((rows.column("index").to_numpy(), code))
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    pieces = np.split(order, starts[1:])
    pieces.sort(key=lambda piece: int(piece.min()))
    return [((names[0][codes[0][p[0]]], names[1][codes[1][p[0]]], names[2][codes[2][p[0]]]), p) for p in pieces]


def _groups(rows: "pa.Table", names: Sequence[str]) -> Iterator[tuple[Key, _Group]]:
    values = {name: rows.column(name).to_numpy().astype(np.float64) for name in names}
    # A label that is not known is a class of its own.
    labels = rows.column("label").fill_null(-1).to_numpy().astype(np.int64)
    difficult = rows.column("difficult").to_numpy().astype(np.bool_)
    for key, at in groups_of(rows):
        yield key, _Group({name: v[at] for name, v in values.items()}, labels[at], difficult[at])


def _parts(group: _Group, columns: Sequence[Column], localised: set[str]) -> list[_Part]:
    parts = [_Part(c, group.columns[c.name], len(group.labels)) for c in columns]
    if group.difficult.any():
        rows = int(group.difficult.sum())
        parts += [
            _Part(_difficult(p.column), np.where(group.difficult, p.values, np.nan), rows)
            for p in parts
            if p.column.name in localised
        ]
    return parts


def _difficult(column: Column) -> Column:
    return replace(column, name=column.name + DIFFICULT, title=f"{column.title}, difficult")


def _all_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns with those that may be made of them, in the order of tables."""
    found: list[Column] = []
    for column in columns:
        found += [column, _difficult(column)]
        if column.name == "adcc":
            found.append(ADCC_OF_MEANS)
    return found


def _figures(parts: Sequence[_Part], labels: NDArray[np.int64], interval: _Interval) -> dict[str, Figure]:
    order, starts = _by_class(labels)
    once = np.ones((1, len(labels)))
    values = {p.column.name: _aggregate(p, once, order, starts) for p in parts}
    draws: dict[str, list[Values]] = {p.column.name: [] for p in parts}
    for counts in interval.counts(len(labels)):
        for p in parts:
            draws[p.column.name].append(_aggregate(p, counts, order, starts))
    drawn = {name: np.concatenate(several) for name, several in draws.items()}
    counted = {p.column.name: (int((~np.isnan(p.values)).sum()), p.rows) for p in parts}
    if all(part in values for part in _ADCC_PARTS):
        name = ADCC_OF_MEANS.name
        values[name] = adcc_of(*(values[part] for part in _ADCC_PARTS))
        drawn[name] = adcc_of(*(drawn[part] for part in _ADCC_PARTS))
        counted[name] = min(counted[part] for part in _ADCC_PARTS)
    return {
        name: Figure(
            value=float(value[0]),
            low=interval.of(drawn[name])[0],
            high=interval.of(drawn[name])[1],
            count=counted[name][0],
            missing=counted[name][1] - counted[name][0],
        )
        for name, value in values.items()
    }


def _by_class(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows in the order of their classes, and where in it each class starts."""
    order = np.argsort(labels, kind="stable")
    return order, np.flatnonzero(np.diff(labels[order], prepend=labels[order][0] - 1))


def _aggregate(part: _Part, counts: Values, order: NDArray[np.int64], starts: NDArray[np.int64]) -> Values:
    """The column's figure for each resample: counts (r, rows) -> (r,); NaN where no row of a resample counts."""
    valid = ~np.isnan(part.values)
    values = np.where(valid, part.values, 0.0)
    with np.errstate(invalid="ignore"):
        if part.column.aggregate == "mean":
            mean: Values = (counts @ values) / (counts @ valid.astype(np.float64))
            return mean
        ordered = counts[:, order]
        sums = np.add.reduceat(ordered * values[order], starts, axis=1)
        sizes = np.add.reduceat(ordered * valid[order], starts, axis=1)
        accuracies = np.where(sizes > 0, sums / sizes, 0.0)
        of_classes: Values = accuracies.sum(axis=1) / (sizes > 0).sum(axis=1)
    return of_classes


def _only_published(study: Study, found: Mapping[Key, Line]) -> list[Line]:
    """Lines that the paper has and the study does not run (a baseline that needs no method)."""
    lines: dict[Key, Line] = {}
    for row in study.published:
        model, method = str(row.get("model", "")), str(row.get("method", ""))
        layers = {layer for m, layer, name in found if (m, name) == (model, method)}
        if (not layers if row.get("layer") is None else row["layer"] not in layers) and method not in {
            m.label for m in study.methods
        }:
            key = (model, str(row.get("layer", "")), method)
            earlier = lines.get(key)
            figures = {**(earlier.published if earlier else {}), **figures_of(row)}
            lines[key] = Line(model=key[0], layer=key[1], method=key[2], count=0, published=figures)
    return list(lines.values())


def _ordered(lines: Sequence[Line], study: Study) -> list[Line]:
    """Lines in the order of the study's models, layers and methods; what it does not name comes first.

    But a layer that it does not name (a method's own) comes last where it stands apart from several of the study;
    beside a single one, the order is that of the methods.
    """
    models = [m.name for m in study.models]
    layers = {m.name: list(m.layers or ()) for m in study.models}
    methods = [m.label for m in study.methods]

    def place(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else -1

    def depth(named: list[str], layer: str) -> int:
        if len(named) < 2:
            return 0
        return len(named) if layer and layer not in named else place(named, layer)

    return sorted(
        lines,
        key=lambda line: (
            place(models, line.model),
            depth(layers.get(line.model, []), line.layer),
            place(methods, line.method),
        ),
    )


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """The mean score (S,) at each share of the pixels (S,), from 0 to 1, both in float64."""

    shares: Values
    scores: Values


def mean_curves(rows: "pa.Table", metric: str) -> dict[Key, MeanCurve]:
    """The mean curve of each model, layer and method, by the columns METRIC_curve and METRIC_step.

    Points lie a step apart, the last one at 1. Where some curves' points lie elsewhere, all are brought to 101 points.
    Rows with a NaN in the curve, or with none, are left out.
    """
    curves: dict[Key, MeanCurve] = {}
    for key, at in groups_of(rows):
        own = rows.select([f"{metric}_curve", f"{metric}_step"]).take(at)
        own = own.filter(own.column(0).is_valid())
        lists = own.column(0).combine_chunks()
        offsets = np.asarray(lists.offsets).astype(np.int64)
        flat = np.asarray(lists.values).astype(np.float64)
        steps = own.column(1).to_numpy().astype(np.float64)
        pieces = [(flat[a:b], step) for (a, b), step in zip(pairwise(offsets), steps, strict=True) if b > a]
        pieces = [(scores, step) for scores, step in pieces if not np.isnan(scores).any()]
        if not pieces:
            continue
        places = {(len(scores), step) for scores, step in pieces}
        shares = _shares(*places.pop()) if len(places) == 1 else _shares(101, 0.01)
        brought = [np.interp(shares, _shares(len(scores), step), scores) for scores, step in pieces]
        curves[key] = MeanCurve(shares, np.mean(np.stack(brought), axis=0))
    return curves


def _shares(points: int, step: float) -> Values:
    """Where a curve's points lie: 0, step, 2 step, ..., 1."""
    shares: Values = np.arange(points, dtype=np.float64) * step
    shares[-1] = 1
    return shares


def printed_seconds(study: Study) -> dict[tuple[str, str], str]:
    """The paper's running times by (model, method), in seconds, as printed."""
    return {
        (str(row["model"]), str(row["method"])): figures_of(row)[SECONDS].text
        for row in study.published
        if SECONDS in row
    }
