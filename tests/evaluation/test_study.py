import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastcam.evaluation.checks import check_study
from fastcam.evaluation.presets import preset_names, read_preset
from fastcam.evaluation.study import MethodSpec, ModelSpec, Study, as_table, differences, read_study, study_from
from tests.evaluation.conftest import STUDY

TOML = """
dataset = "folder"
metrics = ["drop"]
models = ["resnet50", { name = "vgg16", layers = ["features.29"], crop = "none", resize = "224x224" }]
methods = ["grad_cam", { name = "rise", label = "RISE 100", options = { masks = 100 } }]
published = [{ model = "vgg16", drop = "1.0" }]
[options]
mask = "top50"
"""


def test_a_study_comes_back_from_json() -> None:
    study = study_from(tomllib.loads(TOML), source="test")
    assert study.methods[1] == MethodSpec(name="rise", label="RISE 100", options={"masks": 100})
    assert study_from(as_table(study), source="json") == study
    assert differences(study, study_from(as_table(study), source="json")) == []


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_carried_out(name: str) -> None:
    check_study(read_preset(name))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch": 16}, ["batch (--batch): 4 and 16"]),
        ({"subset": 5, "seed": 1}, ["subset (--subset): not given and 5", "seed (--seed): 0 and 1"]),
        (
            {"models": (ModelSpec(name="vgg16"),)},
            ['models[0].name (--model): "tests.evaluation.nets:tiny" and "vgg16"'],
        ),
        (
            {"methods": STUDY.methods[:1]},
            ['methods (--methods): ["eigen_cam", "random_cam", "fake_cam"] and ["eigen_cam"]'],
        ),
        ({"options": {"step": 64, "mask": "top50"}}, ['options.mask (--mask): not given and "top50"']),
        ({"correct_only": True}, ["correct_only (--correct-only): false and true"]),
        ({"title": "T", "source": "S", "published": ({"drop": 1},)}, []),
    ],
    ids=["one", "two", "model", "methods", "option", "flag", "words"],
)
def test_differences_are_named_with_both_values(change: dict[str, Any], told: list[str]) -> None:
    found = differences(STUDY, replace(STUDY, **change))
    assert [line for line in found if not line.startswith("models[0].") or ".name" in line] == told


MODEL = STUDY.models[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": (MethodSpec(name="gradcam", label="a"),)}, "methods: 'gradcam' is unknown; close names: grad_cam"),
        ({"methods": (STUDY.methods[0],) * 2}, "label 'eigen_cam' stands 2 times"),
        (
            {"methods": (MethodSpec(name="rise", label="R", options={"mask": 3}),)},
            "methods: R: option 'mask' is unknown; close names: masks",
        ),
        ({"methods": (MethodSpec(name="rise", label="R", options={"masks": 0}),)}, "masks: 0 given"),
        ({"methods": (MethodSpec(name="rise", label="R", options={"generator": 1}),)}, "'generator' is unknown"),
        (
            {"methods": (MethodSpec(name="ucag", label="U", options={"method": "grad_camm"}),)},
            "methods: 'grad_camm' is unknown; close names: grad_cam",
        ),
        ({"metrics": ("dropp",)}, "metrics: 'dropp' is unknown; close names: drop"),
        ({"metrics": ()}, "metrics: none given; drop, increase"),
        ({"metrics": ("drop", "drop"), "options": {}}, "metrics: 'drop' stands 2 times"),
        ({"options": {"stepp": 3}}, "options: 'stepp' is no option of these metrics; close names: step"),
        ({"options": {"step": 0}}, "step: 0 given"),
        ({"options": {"baseline": 1.0}, "space": "pixel"}, "baseline given beside space"),
        ({"targets": "labels"}, "targets: 'labels' given"),
        ({"space": "pixels"}, "space: 'pixels' given"),
        ({"precision": "float8"}, "precision: 'float8' given"),
        ({"subset": 0}, "subset: 0 given, a positive integer"),
        ({"batch": 0}, "batch: 0 given"),
        ({"batch": True}, "batch: True given"),
        ({"part": -1}, "part: -1 given"),
        ({"seed": 0.5}, "seed: 0.5 given"),
        ({"correct_only": "yes"}, "correct_only: 'yes' given"),
        ({"models": (MODEL, MODEL)}, "stands 2 times"),
        ({"models": (replace(MODEL, layers=()),)}, "layers: () given"),
        ({"models": (replace(MODEL, layers=("a", 1)),)}, "layers: ('a', 1) given"),
        ({"models": (replace(MODEL, resize="big"),)}, "'big'"),
        ({"models": (replace(MODEL, crop="0"),)}, "'0'"),
        ({"models": (replace(MODEL, name=""),)}, "name: '' given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_carried_out_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        check_study(replace(STUDY, **change))
    assert message in str(refused.value)


def test_the_study_of_these_tests_can_be_carried_out() -> None:
    check_study(STUDY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('models = ["a"]', "methods is None"),
        ("[", "cannot be read"),
        (TOML.replace("[options]", "[option]"), "'option' is unknown"),
        ('model = "a"', "'model' is unknown; .*models"),
        (TOML.replace('dataset = "folder"', ""), "missing"),
    ],
    ids=["methods", "syntax", "key", "key_for_another", "dataset"],
)
def test_a_file_that_is_no_study_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_study(path)
    assert str(path) in str(refused.value)


def test_a_minimal_study_has_the_defaults() -> None:
    study = study_from({"dataset": "folder", "models": ["a"], "methods": ["cam"], "metrics": ["drop"]}, source="t")
    assert study == Study(
        dataset="folder",
        models=(ModelSpec(name="a"),),
        methods=(MethodSpec(name="cam", label="cam"),),
        metrics=("drop",),
    )
