"""Rows as a run writes them, made of random numbers, and a study that they may come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fastcam.evaluation.study import Study, study_from
from fastcam.metrics.metric import Column, Metric


def _metric(*columns: Column, needs: Sequence[str] = ()) -> Metric:
    name = columns[0].name
    return Metric(name=name, title=columns[0].title, source="", columns=columns, measure=_none, needs=frozenset(needs))


def _none(*_: object) -> Mapping[str, Any]:
    return {}


METRICS = {
    m.name: m
    for m in (
        _metric(Column(name="drop", title="Average drop", better="lower", unit="%")),
        _metric(Column(name="increase", title="Average increase", better="higher", unit="%")),
        _metric(Column(name="coherency", title="Coherency", better="higher")),
        _metric(Column(name="complexity", title="Complexity", better="lower")),
        _metric(
            Column(name="adcc", title="ADCC", better="higher"),
            Column(name="adcc_coherency", title="Coherency in ADCC", better="higher", hidden=True),
            Column(name="adcc_complexity", title="Complexity in ADCC", better="lower", hidden=True),
            Column(name="adcc_drop", title="Drop in ADCC", better="lower", unit="%", hidden=True),
        ),
        _metric(
            Column(name="insertion", title="Insertion", better="higher"),
            Column(name="insertion_curve", title="Insertion curve", better=None, curve=True),
            Column(name="insertion_step", title="Insertion step", better=None, hidden=True),
        ),
        _metric(
            Column(name="deletion", title="Deletion", better="lower"),
            Column(name="deletion_curve", title="Deletion curve", better=None, curve=True),
            Column(name="deletion_step", title="Deletion step", better=None, hidden=True),
        ),
        _metric(
            Column(name="pointing", title="Pointing game", better="higher", aggregate="class mean"), needs=["regions"]
        ),
        _metric(Column(name="iou", title="IoU", better="higher"), needs=["regions"]),
    )
}


def make_study(**keys: Any) -> Study:
    return study_from(
        {
            "dataset": "folder",
            "models": [{"name": "vgg16", "layers": ["features.29"]}],
            "methods": ["grad_cam", "score_cam"],
            "metrics": ["drop", "increase"],
            **keys,
        },
        source="test",
    )


def make_rows(study: Study, *, samples: int = 20, seed: int = 0, names: Sequence[str] | None = None) -> pa.Table:
    """Rows of all columns of the study's metrics, at random; curves have 29 points."""
    generator = np.random.default_rng(seed)
    columns = [c for m in study.metrics for c in METRICS[m].columns]
    rows = []
    for model in study.models:
        for index in range(samples):
            ease = generator.random()
            for place, method in enumerate(study.methods):
                for layer in model.layers or ("last",):
                    quality = 0.6 * ease + 0.4 * generator.random() * (1 - 0.15 * place)
                    rows.append(
                        {
                            "name": names[index] if names else f"photo-{index}.jpg",
                            "index": index,
                            "model": model.name,
                            "method": method.label,
                            "layer": layer,
                            "label": index % 5,
                            "target": index % 5,
                            "predicted": index % 5,
                            "probability": 0.5,
                            "difficult": index % 4 == 0,
                            **{c.name: _value(c, quality, generator) for c in columns},
                        }
                    )
    return pa.Table.from_pylist(rows, schema=schema(columns))


def schema(columns: Sequence[Column]) -> pa.Schema:
    fixed = [
        ("name", pa.string()), ("index", pa.int32()), ("model", pa.string()), ("method", pa.string()),
        ("layer", pa.string()), ("label", pa.int32()), ("target", pa.int32()), ("predicted", pa.int32()),
        ("probability", pa.float32()), ("difficult", pa.bool_()),
    ]  # fmt: skip
    return pa.schema([*fixed, *((c.name, pa.list_(pa.float32()) if c.curve else pa.float32()) for c in columns)])


def _value(column: Column, quality: float, generator: np.random.Generator) -> float | list[float]:
    if column.curve:
        x = np.linspace(0, 1, 29)
        return (quality * (x if column.name.startswith("insertion") else (1 - x) ** 3)).tolist()
    if column.name.endswith("_step"):
        return 1 / 28
    noisy = float(np.clip(quality + 0.1 * generator.standard_normal(), 0.01, 0.99))
    good = noisy if column.better != "lower" else 1 - noisy
    if column.name in ("increase", "pointing"):
        good = float(good > 0.5)
    return good * (100 if column.unit == "%" else 1)
