from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fastcam.datasets.opening import DATASETS
from fastcam.evaluation.checks import check_study
from fastcam.evaluation.presets import preset_names, read_preset
from fastcam.evaluation.published import SECONDS, figures_of
from fastcam.evaluation.tables import ADCC_OF_MEANS, adcc_of, study_columns
from fastcam.metrics.registry import METRICS

from .papers import PERCENT, PRINTED, SETTINGS

NAMES = preset_names()
# Needs no method: the middle of the image.
NOT_RUN = {"Center"}


@cache
def modules_of(name: str) -> frozenset[str]:
    with torch.device("meta"):
        arguments = {"init_weights": False} if name == "inception_v3" else {}
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return frozenset(path for path, _ in model.named_modules())


def test_every_table_of_the_papers_is_there():
    assert set(NAMES) == {
        *(f"relevance-cam/table{i}" for i in (1, 2, 3)),
        "abs-cam/table2",
        "abs-cam/table3",
        "adcc/table1",
        "adcc/table2",
        *(f"ucag/table{i}" for i in (1, 2, 3, 4, 5)),
        # These two tables have two data sets each.
        "ucag/table2-coco14",
        "ucag/table3-coco14",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_can_be_carried_out(name):
    study = read_preset(name)
    check_study(study)
    assert study.dataset in DATASETS
    assert study.title
    assert study.source
    for model in study.models:
        assert set(model.layers or ()) <= modules_of(model.name)
        weights = torchvision.models.get_model_weights(model.name)
        assert model.weights in weights.__members__ or model.weights.endswith(".pth")
    if any("regions" in METRICS[metric].needs for metric in study.metrics) and study.dataset != "imagenet-segmentation":
        assert study.targets == "label"


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_are_of_the_study(name):
    study = read_preset(name)
    columns = {c.name for c in study_columns(study, METRICS) if not (c.curve or c.hidden)}
    allowed = columns | {f"{column}_difficult" for column in columns} | {SECONDS}
    if "adcc" in study.metrics:
        allowed.add(ADCC_OF_MEANS.name)
    layers = {model.name: model.layers for model in study.models}
    seen = set()
    for row in study.published:
        assert row["method"] in {m.label for m in study.methods} | NOT_RUN
        assert row.get("layer") in (*(layers[row["model"]] or ()), None)
        assert set(figures_of(row)) <= allowed
        assert figures_of(row)
        key = (row["model"], row.get("layer"), row["method"])
        assert key not in seen, "a row stands twice"
        seen.add(key)
        for column, figure in figures_of(row).items():
            unit = {c.name: c.unit for c in study_columns(study, METRICS)}.get(column.removesuffix("_difficult"))
            if unit == "%":
                assert 0 <= figure.value <= 100
                assert not figure.percent
            elif "density" not in column and column != SECONDS:
                assert 0 <= figure.value <= 1, "a share that is printed in per cent needs its sign"


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_as_printed(name):
    found = {}
    for row in read_preset(name).published:
        figures = figures_of(row)
        found[row["model"], row.get("layer"), row["method"]] = {c: figure.text for c, figure in figures.items()}
        for column, figure in figures.items():
            assert figure.percent == (column in PERCENT[name])
            assert figure.value == float(figure.text) / (100 if figure.percent else 1)
    assert found == PRINTED[name]


def test_printed_adcc_is_that_of_the_printed_means():
    """So the paper's column is the ADCC of the means, to which it is compared."""
    rows = [figures_of(row) for row in read_preset("adcc/table2").published]
    coherency, complexity, drop, adcc = (
        np.array([row[column].value for row in rows]) for column in ("coherency", "complexity", "drop", "adcc_of_means")
    )
    # Of figures with two decimals, in per cent.
    np.testing.assert_allclose(adcc_of(coherency, complexity, drop), adcc, rtol=0, atol=0.00045)


def method_of(spec):
    """As `SETTINGS` writes it."""
    options = dict(spec.options)
    if spec.name == "ucag":
        return f"ucag of {options.pop('method')}" + ", ".join(["", *options])
    return ", ".join([spec.name, *(key for key, value in options.items() if value is True)])


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_the_protocols(name):
    study, expected = read_preset(name), SETTINGS[name]
    assert {
        "dataset": study.dataset,
        "models": {model.name: model.layers for model in study.models},
        "methods": {method.label: method_of(method) for method in study.methods},
        "metrics": list(study.metrics),
        **{key: getattr(study, key) for key in ("targets", "subset", "correct_only", "space", "options")},
    } == {key: expected[key] for key in expected if key not in ("view", "weights")}
    for model in study.models:
        assert (model.resize, model.crop) == expected["view"]
        assert model.weights == expected["weights"].replace("MODEL", model.name)
    assert study.precision is None


def test_an_unknown_preset_offers_close_names():
    with pytest.raises(ValueError, match=r"preset: 'relevance-cam/table4' given, .* relevance-cam/table"):
        read_preset("relevance-cam/table4")
