import csv
import io
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcam.evaluation.exports import csv_text, escape_latex, latex_text
from fastcam.evaluation.layout import Group, groups_by_key, layout, shown_columns
from fastcam.evaluation.published import parse_figure
from fastcam.evaluation.tables import adcc_of, mean_curves, results

from .synthetic import METRICS, make_rows, make_study


def line_of(found, method, layer="features.29"):
    (line,) = [line for line in found.lines if (line.method, line.layer) == (method, layer)]
    return line


def of_method(rows, method):
    return [row for row in rows.to_pylist() if row["method"] == method]


def test_means_of_rows():
    study = make_study(metrics=["drop", "increase"])
    rows = make_rows(study)
    found = results(rows, study, METRICS, resamples=10)
    for method in ("grad_cam", "score_cam"):
        line = line_of(found, method)
        own = [Fraction(row["drop"]) for row in of_method(rows, method)]
        assert line.figures["drop"].value == pytest.approx(float(sum(own) / len(own)), rel=1e-14)
        assert (line.count, line.figures["drop"].count, line.figures["drop"].missing) == (20, 20, 0)
        assert line.published == {}


def test_nan_rows_are_left_out_and_counted():
    study = make_study(metrics=["iou"], methods=["grad_cam"])
    rows = make_rows(study, samples=6)
    values = [0.5, math.nan, 0.25, math.nan, math.nan, 1.0]
    rows = rows.set_column(rows.column_names.index("iou"), "iou", pa.array(values, pa.float32()))
    figure = results(rows, study, METRICS).lines[0].figures["iou"]
    assert figure.value == 1.75 / 3
    assert (figure.count, figure.missing) == (3, 3)
    assert 0.25 <= figure.low < figure.value < figure.high <= 1


def test_a_column_without_a_number():
    study = make_study(metrics=["iou"], methods=["grad_cam"])
    rows = make_rows(study, samples=3)
    rows = rows.set_column(rows.column_names.index("iou"), "iou", pa.array([math.nan] * 3, pa.float32()))
    found = results(rows, study, METRICS)
    figure = found.lines[0].figures["iou"]
    assert math.isnan(figure.value)
    assert math.isnan(figure.low)
    assert (figure.count, figure.missing) == (0, 3)
    assert layout(found)[0].heads[0].text(figure.value) == "–"


def test_the_pointing_game_is_a_mean_of_classes():
    study = make_study(metrics=["pointing"], methods=["grad_cam"])
    rows = make_rows(study, samples=5)
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array([3, 3, 3, 1, None], pa.int32()))
    rows = rows.set_column(rows.column_names.index("pointing"), "pointing", pa.array([1, 0, 0, 1, 0], pa.float32()))
    figures = results(rows, study, METRICS).lines[0].figures
    # Class 3: one of three; class 1: one of one; the sample whose class is not known: none.
    assert figures["pointing"].value == pytest.approx((1 / 3 + 1 + 0) / 3, rel=1e-14)
    # Positions 0 and 4 are difficult.
    assert figures["pointing_difficult"].value == (1 + 0) / 2
    assert (figures["pointing_difficult"].count, figures["pointing_difficult"].missing) == (2, 0)


def test_no_difficult_column_without_difficult_samples():
    study = make_study(metrics=["pointing"])
    rows = make_rows(study)
    rows = rows.set_column(rows.column_names.index("difficult"), "difficult", pa.array([False] * rows.num_rows))
    assert [c.name for c in results(rows, study, METRICS, resamples=1).columns] == ["pointing"]


@pytest.mark.parametrize(
    "metrics", [["adcc"], ["adcc", "drop"], ["drop", "coherency", "complexity", "adcc"]], ids=["alone", "drop", "all"]
)
def test_adcc_of_means_stands_beside_the_mean_adcc(metrics):
    """By ADCC's own parts: a drop beside it may be of another mask."""
    study = make_study(metrics=metrics)
    rows = make_rows(study)
    found = results(rows, study, METRICS, resamples=200)
    beside = metrics.index("adcc") + 1
    names = [*metrics[:beside], "adcc_of_means", *metrics[beside:]]
    assert [c.name for c in found.columns] == names
    assert [shown.column.name for shown in shown_columns(found)] == names
    figure = line_of(found, "grad_cam").figures["adcc_of_means"]
    own = of_method(rows, "grad_cam")
    coherency, complexity, drop = (
        np.mean([row[name] for row in own]) for name in ("adcc_coherency", "adcc_complexity", "adcc_drop")
    )
    parts = (coherency, 1 - complexity, 1 - drop / 100)
    assert figure.value == pytest.approx(3 / sum(1 / p for p in parts), rel=1e-12)
    assert figure.low < figure.value < figure.high


def test_both_means_of_adcc_are_printed_alike():
    study = make_study(
        metrics=["adcc"], published=[{"model": "vgg16", "method": "grad_cam", "adcc_of_means": "53.52%"}]
    )
    (table,) = layout(results(make_rows(study), study, METRICS, resamples=1))
    assert [(head.title, head.decimals, head.printed) for head in table.heads] == [
        ("ADCC (%)", 2, False),
        ("ADCC of the means (%)", 2, True),
    ]
    assert table.cells["grad_cam", 1].published.text == "53.52"


def test_adcc_is_zero_where_a_part_is():
    given = np.array([[0.0, 0.5, 1.0, 0.5], [0.5, 1.0, 0.5, np.nan], [50.0, 50.0, 100.0, 50.0]])
    np.testing.assert_array_equal(adcc_of(*given), [0, 0, 0, np.nan])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 3), st.randoms())
def test_intervals_repeat_hold_the_value_and_do_not_depend_on_the_order_of_rows(samples, seed, random):
    study = make_study(metrics=["drop", "pointing"])
    rows = make_rows(study, samples=samples, seed=seed)
    order = list(range(rows.num_rows))
    random.shuffle(order)
    found, again = (results(table, study, METRICS, resamples=100) for table in (rows, rows.take(order)))
    assert found == again
    for line in found.lines:
        figure = line.figures["drop"]
        values = [row["drop"] for row in of_method(rows, line.method)]
        assert min(values) - 1e-9 <= figure.low <= figure.high <= max(values) + 1e-9


def test_the_interval_is_that_of_a_plain_bootstrap():
    study = make_study(metrics=["drop", "pointing"], methods=["grad_cam"])
    rows = make_rows(study, samples=30)
    found = results(rows, study, METRICS, resamples=300, level=0.9, seed=7).lines[0].figures
    generator = np.random.default_rng(7)
    table = rows.to_pylist()
    drops, accuracies = [], []
    for _ in range(300):
        drawn = [table[i] for i in generator.integers(30, size=30)]
        drops.append(np.mean([row["drop"] for row in drawn]))
        classes = {row["label"] for row in drawn}
        accuracies.append(
            np.mean([np.mean([row["pointing"] for row in drawn if row["label"] == label]) for label in classes])
        )
    for name, draws in (("drop", drops), ("pointing", accuracies)):
        low, high = np.quantile(draws, [0.05, 0.95])
        assert (found[name].low, found[name].high) == pytest.approx((low, high), rel=1e-10)


@pytest.mark.parametrize(
    ("given", "text", "value", "percent"),
    [
        ("66.42", "66.42", 66.42, False),
        ("100.00%", "100.00", 1.0, True),
        ("8.8 %", "8.8", 0.088, True),
        (0.5, "0.5", 0.5, False),
        (3, "3", 3.0, False),
    ],
)
def test_published_figures(given, text, value, percent):
    figure = parse_figure(given)
    assert (figure.text, figure.percent) == (text, percent)
    assert figure.value == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("given", ["", "n/a", "1,5", None, True, "1e5"])
def test_published_figures_that_are_none(given):
    with pytest.raises(ValueError, match=r"published: .* is valid"):
        parse_figure(given)


PRINTED = [
    {"model": "vgg16", "method": "Centre", "deletion": "12.5%"},
    {"model": "vgg16", "method": "grad_cam", "deletion": "11.12%", "drop": "66.42"},
]


def test_published_figures_stand_beside_ours_on_their_scale():
    study = make_study(metrics=["drop", "deletion"], published=PRINTED)
    found = results(make_rows(study), study, METRICS, resamples=50)
    assert [line.method for line in found.lines] == ["Centre", "grad_cam", "score_cam"]
    (table,) = layout(found)
    drop, deletion = table.heads
    assert (deletion.percent, deletion.decimals, deletion.printed, deletion.title) == (True, 2, True, "Deletion (%)")
    assert (drop.percent, drop.decimals, drop.title) == (False, 2, "Average drop (%)")
    cell = table.cells["grad_cam", 1]
    assert cell.published is not None
    assert cell.published.text == "11.12"
    assert deletion.text(0.0882) == "8.82"
    assert table.cells["Centre", 1].figure is None
    assert table.cells["Centre", 0].published is None


def test_a_published_row_of_a_layer_stands_at_that_layer_alone():
    study = make_study(
        models=[{"name": "resnet50", "layers": ["layer2", "layer4"]}],
        published=[{"model": "resnet50", "layer": "layer4", "method": "grad_cam", "drop": "23.13"}],
    )
    found = results(make_rows(study), study, METRICS, resamples=1)
    assert line_of(found, "grad_cam", "layer4").published["drop"].text == "23.13"
    assert line_of(found, "grad_cam", "layer2").published == {}
    (table,) = layout(found)
    assert [group.layer for group in table.groups] == ["layer2", "layer4"]
    assert [head.printed for head in table.heads] == [False, False, True, False]


def test_a_methods_own_layer_comes_behind_those_of_the_study():
    study = make_study(models=[{"name": "resnet50", "layers": ["layer2", "layer4"]}], methods=["fake_cam", "grad_cam"])
    rows = make_rows(study).to_pylist()
    kept = [row for row in rows if (row["method"], row["layer"]) != ("fake_cam", "layer4")]
    own = [{**row, "layer": "input" if row["method"] == "fake_cam" else row["layer"]} for row in kept]
    found = results(pa.Table.from_pylist(own), study, METRICS, resamples=1)
    layers = ["layer2", "layer4", "input"]
    assert [line.layer for line in found.lines] == layers
    (table,) = layout(found)
    assert [group.layer for group in table.groups] == layers
    assert groups_by_key(found) == {
        ("resnet50", layer, "fake_cam" if layer == "input" else "grad_cam"): Group("resnet50", layer)
        for layer in layers
    }


@pytest.mark.parametrize("layers", [None, ["last"]], ids=["each its own", "one of the study"])
@pytest.mark.parametrize("methods", [["fake_cam", "grad_cam"], ["grad_cam", "fake_cam"]], ids=", ".join)
def test_methods_at_their_own_layers_stand_side_by_side(methods, layers):
    study = make_study(
        models=[{"name": "resnet50", "layers": layers}],
        methods=methods,
        published=[{"model": "resnet50", "method": "Centre", "drop": "1"}],
    )
    rows = [
        {**row, "layer": "input" if row["method"] == "fake_cam" else "last"} for row in make_rows(study).to_pylist()
    ]
    found = results(pa.Table.from_pylist(rows), study, METRICS, resamples=1)
    groups = groups_by_key(found)
    assert set(groups.values()) == {Group("resnet50", "")}
    assert set(groups) == {("resnet50", "input", "fake_cam"), ("resnet50", "last", "grad_cam")}
    (table,) = layout(found)
    assert table.methods == ("Centre", *methods)


def test_tables_are_wide_or_one_per_model():
    models = [{"name": name, "layers": ["last"]} for name in ("a", "b", "c")]
    few = make_study(models=models, metrics=["drop", "increase"])
    many = make_study(models=models, metrics=["drop", "increase", "insertion", "deletion", "iou"])
    tables = [layout(results(make_rows(s, samples=3), s, METRICS, resamples=1)) for s in (few, many)]
    assert [[t.title for t in found] for found in tables] == [["a, b, c"], ["a", "b", "c"]]


def test_the_best_is_marked_as_printed_and_no_baseline():
    study = make_study(methods=["fake_cam", "grad_cam", "score_cam"], metrics=["drop", "increase"])
    found = results(make_rows(study), study, METRICS, resamples=1)
    values = {line.method: line.figures["drop"].value for line in found.lines}
    (table,) = layout(found)
    assert table.heads[0].best == {min(values, key=values.__getitem__)}
    (table,) = layout(found, baselines=frozenset({"fake_cam"}))
    del values["fake_cam"]
    assert table.heads[0].best == {min(values, key=values.__getitem__)}


def test_csv_holds_every_figure():
    study = make_study(metrics=["drop", "deletion"], published=PRINTED)
    found = results(make_rows(study), study, METRICS, resamples=5)
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert len(rows) == 2 * 2 + 1
    ours = {(row["method"], row["column"]): row for row in rows}
    figure = line_of(found, "grad_cam").figures["deletion"]
    row = ours["grad_cam", "deletion"]
    assert [float(row[key]) for key in ("value", "low", "high")] == [figure.value, figure.low, figure.high]
    assert float(row["published"]) == pytest.approx(0.1112)
    assert ours["Centre", "deletion"]["value"] == ""


def test_latex_has_as_many_cells_in_every_row():
    study = make_study(
        models=[{"name": "resnet_50", "layers": ["layer2", "layer4"]}],
        metrics=["drop", "deletion"],
        methods=["grad_cam", {"name": "score_cam", "label": "50% & more"}],
        published=[{"model": "resnet_50", "method": "grad_cam", "layer": "layer4", "drop": "1.5"}],
    )
    text = latex_text(layout(results(make_rows(study), study, METRICS, resamples=1)), caption="A_B")
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [line.removesuffix(r" \\").replace(r"\&", "") for line in body.strip().splitlines()]
    assert [row.count("&") for row in rows] == [5, 5]
    assert r"50\% \& more" in text
    assert r"\caption{A\_B (resnet\_50)}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"\textbf{" in body


def test_latex_escapes():
    assert escape_latex("a_b & 5% {x} \\ ~^#$") == (
        r"a\_b \& 5\% \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$"
    )


def with_curves(rows, curves, steps):
    for name, values in (("insertion_curve", curves), ("insertion_step", pa.array(steps, pa.float32()))):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def test_mean_curves():
    study = make_study(metrics=["insertion"], methods=["grad_cam"])
    rows = make_rows(study, samples=3)
    curves = pa.array([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0], None], pa.list_(pa.float32()))
    ((key, curve),) = mean_curves(with_curves(rows, curves, [0.75] * 3), "insertion").items()
    assert key == ("vgg16", "features.29", "grad_cam")
    assert curve.scores.tolist() == [0, 0.75, 1]
    # The last step is shorter.
    assert curve.shares.tolist() == [0, 0.75, 1]


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ([[0.0, 1.0], [0.0, 0.5, 1.0], [0.0, math.nan, 1.0]], [1, 0.5, 0.5]),
        ([[0.0, 0.5, 1.0], [0.0, 0.75, 1.0]], [0.5, 0.75]),
    ],
    ids=["lengths", "steps"],
)
def test_mean_curves_of_unlike_points(given, steps):
    study = make_study(metrics=["insertion"], methods=["grad_cam"])
    rows = make_rows(study, samples=len(given))
    (curve,) = mean_curves(with_curves(rows, pa.array(given, pa.list_(pa.float32())), steps), "insertion").values()
    np.testing.assert_allclose(curve.shares, np.linspace(0, 1, 101), atol=1e-12)
    np.testing.assert_allclose(curve.scores, curve.shares, atol=1e-12)


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"resamples": 0}, "resamples: 0 given"), ({"level": 1.0}, "level: 1.0 given")],
    ids=["resamples", "level"],
)
def test_bad_settings(keys, message):
    study = make_study()
    with pytest.raises(ValueError, match=message):
        results(make_rows(study, samples=2), study, METRICS, **keys)


def test_no_rows_and_unknown_metrics():
    study = make_study()
    rows = make_rows(study, samples=2)
    with pytest.raises(ValueError, match="rows: none given"):
        results(rows.slice(0, 0), study, METRICS)
    with pytest.raises(ValueError, match="metrics: 'drop' is unknown"):
        results(rows, study, {})
