"""Points of the scatter plot, drawn by the page's script: one metric against another, image by image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcam.evaluation.layout import Group, groups_by_key, shown_columns
from fastcam.evaluation.study import Study
from fastcam.evaluation.tables import Results, groups_of

if TYPE_CHECKING:
    import pyarrow as pa

# More points than these cover one another and make the page heavy.
_MOST_POINTS = 12_000
_MOST_SAMPLES = 300


def scatter(rows: "pa.Table", study: Study, results: Results) -> dict[str, Any] | None:
    """Columns, methods, and per group of the tables the values of some samples; None with fewer than two columns.

    Where there are more samples than can be told apart, some are drawn, the same for all methods. "axes": the columns
    to begin with, the first two with more values than yes and no.
    """
    columns = [head for head in shown_columns(results) if head.column.name in rows.column_names]
    if len(columns) < 2:
        return None
    groups = groups_of(rows)
    methods = [method.label for method in study.methods]
    most = max(20, min(_MOST_SAMPLES, _MOST_POINTS // len(groups)))
    values = {head.column.name: rows.column(head.column.name).to_numpy().astype(np.float64) for head in columns}
    names = np.asarray(rows.column("name").to_pylist(), dtype=object)
    headings = groups_by_key(results)
    places: dict[Group, dict[str, Any]] = {}
    total = 0
    for (model, layer, method), at in groups:
        total = max(total, len(at))
        kept = at[_drawn(len(at), most, study.seed)]
        heading = headings[model, layer, method]
        place = places.setdefault(heading, {"title": heading.title, "series": []})
        points = [[_short(head.shown(float(values[head.column.name][i]))) for head in columns] for i in kept]
        place["series"].append(
            {"method": methods.index(method), "names": [str(name) for name in names[kept]], "points": points}
        )
    return {
        "columns": [{"name": head.column.name, "title": head.title, "better": head.column.better} for head in columns],
        "axes": _axes([values[head.column.name] for head in columns]),
        "methods": methods,
        "places": list(places.values()),
        "shown": min(total, most),
        "total": total,
    }


def _axes(values: "Sequence[np.typing.NDArray[np.float64]]") -> list[int]:
    """Two columns: of those with many values, or else of all, the first."""
    many = [i for i, of_column in enumerate(values) if len(np.unique(of_column)) > 3]
    return sorted(list(dict.fromkeys([*many, *range(len(values))]))[:2])


def _drawn(count: int, most: int, seed: int) -> "np.typing.NDArray[np.int64]":
    """Positions of `most` of `count` rows, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=most, replace=False))


def _short(value: float) -> float | None:
    """Four digits, which is more than a drawing shows; None for NaN, which JSON does not know."""
    return None if np.isnan(value) else float(f"{value:.4g}")
