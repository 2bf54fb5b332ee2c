from functools import cache

import pytest
import torch
import torchvision
from torch import nn

from fastcam.datasets.opening import DATASETS
from fastcam.evaluation.checks import check_study
from fastcam.evaluation.presets import preset_names, read_preset
from fastcam.evaluation.published import SECONDS, figures_of, published_figures
from fastcam.evaluation.tables import study_columns
from fastcam.metrics.registry import METRICS

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
    columns = {c.name for c in study_columns(study, METRICS) if not c.curve}
    allowed = columns | {f"{column}_difficult" for column in columns} | {SECONDS}
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


def test_no_row_is_missing():
    counts = {name: len(read_preset(name).published) for name in NAMES}
    assert counts == {
        "relevance-cam/table1": 4 * 2,
        "relevance-cam/table2": 4 * 2,
        "relevance-cam/table3": 4 * 4,
        "abs-cam/table2": 7,
        "abs-cam/table3": 7,
        "adcc/table1": 6 + 5,
        "adcc/table2": 6 + 5 * 5,
        "ucag/table1": 6 * 3,
        "ucag/table2": 12 * 2,
        "ucag/table2-coco14": 11 * 2,
        "ucag/table3": 8 * 2,
        "ucag/table3-coco14": 8 * 2,
        "ucag/table4": 14 * 2,
        "ucag/table5": 3 * 3,
    }


@pytest.mark.parametrize(
    ("name", "model", "layer", "method", "printed"),
    [
        ("relevance-cam/table1", "resnet50", "layer2", "Relevance-CAM", {"drop": "39.02", "increase": "16.6"}),
        ("relevance-cam/table2", "vgg16_bn", "features.43", "Score-CAM", {"drop": "21.22", "increase": "23.5"}),
        ("relevance-cam/table3", "resnet50", "layer1", "Relevance-CAM", {"iou": "0.30"}),
        (
            "abs-cam/table2", "vgg16", "features.29", "Group-CAM",
            {"drop": "35.7", "increase": "29.7", "insertion": "0.493", "deletion": "0.1108"},
        ),
        ("abs-cam/table3", "vgg16", "features.29", "Abs-CAM", {"pointing": "0.652", "seconds": "23.46"}),
        ("adcc/table1", "resnet50", "layer4", "Fake-CAM", {"drop": "0.38", "increase": "47.54"}),
        (
            "adcc/table2", "resnext101_32x8d", "layer4", "Smooth Grad-CAM++",
            {
                "drop": "9.49", "increase": "40.43", "deletion": "17.67", "insertion": "64.16",
                "coherency": "96.81", "complexity": "49.24", "adcc": "73.03",
            },
        ),
        ("ucag/table1", "inception_v3", "any", "GCAM++*", {"deletion": "8.86", "insertion": "51.9"}),
        ("ucag/table2", "resnet50", "any", "cMWP", {"pointing": "90.7", "pointing_difficult": "82.1"}),
        ("ucag/table2-coco14", "vgg16", "any", "Ours", {"pointing": "61.8", "pointing_difficult": "57.6"}),
        (
            "ucag/table3", "vgg16", "any", "GCAM++ + UCAG",
            {"energy_pointing": "61.4", "energy_pointing_difficult": "47.6"},
        ),
        (
            "ucag/table3-coco14", "resnet50", "any", "WGCAM + UCAG",
            {"energy_pointing": "35.4", "energy_pointing_difficult": "29.6"},
        ),
        ("ucag/table4", "resnet50", "any", "AGF + UCAG", {"average_precision": "0.783", "pixel_accuracy": "0.826"}),
        (
            "ucag/table5", "densenet121", "any", "CAMERAS",
            {"positive_density": "3.23", "negative_density": "0.83"},
        ),
    ],
)  # fmt: skip
def test_figures_as_printed(name, model, layer, method, printed):
    found = published_figures(read_preset(name), model=model, layer=layer, method=method)
    assert {column: figure.text for column, figure in found.items()} == printed


def test_protocols():
    relevance, adcc = read_preset("relevance-cam/table1"), read_preset("adcc/table2")
    assert (relevance.subset, relevance.correct_only, relevance.options["mask"]) == (2000, True, "top50")
    assert (adcc.subset, adcc.correct_only, adcc.options["mask"]) == (None, False, "soft")
    assert len(adcc.models) == 6
    assert read_preset("ucag/table2").options["tolerance"] == 15


def test_an_unknown_preset_offers_close_names():
    with pytest.raises(ValueError, match=r"preset: 'relevance-cam/table4' given, .* relevance-cam/table"):
        read_preset("relevance-cam/table4")
