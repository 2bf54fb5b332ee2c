"""The full matrix as a command: what it calls wrong, what it goes on with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer import BadParameter, Exit

import fastcam
from bench import matrix
from tests.attribution.test_matrix import PRECISIONS

GOOD = torch.ones(2, 2, 64, 64)


def run(output: Path, methods: str) -> int:
    with pytest.raises(Exit) as stopped:
        matrix.main("vgg16", methods, True, output)
    return stopped.value.exit_code


def test_pairs_that_are_held_as_good_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of narrow models, for time.
    monkeypatch.setattr(matrix, "PER_CHANNEL", ("grad_cam", "cam"))
    output = tmp_path / "matrix.json"
    assert run(output, "grad_cam,cam") == 0
    found = json.loads(output.read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert [(row["refused"], row["narrow"], row["problems"]) for row in rows.values()] == [
        (False, True, []),
        (True, True, []),
    ]
    assert len(found["precisions"]) == len(PRECISIONS)
    rows["cam"]["problems"] = ["float32: wrong"]
    output.write_text(json.dumps({**found, "rows": list(rows.values())}))
    monkeypatch.setattr(matrix, "problem", lambda *_: ["again"])
    assert run(output, "grad_cam,cam") == 1
    problems = {row["method"]: row["problems"] for row in json.loads(output.read_text())["rows"]}
    assert problems == {"grad_cam": [], "cam": ["again"] * len(PRECISIONS)}
    # What failed and is not chosen stays in the file.
    assert run(output, "grad_cam") == 0
    assert {row["method"] for row in json.loads(output.read_text())["rows"] if row["problems"]} == {"cam"}
    output.write_text(json.dumps({**found, "threads": found["threads"] + 1}))
    with pytest.raises(BadParameter, match="begun with other threads: choose another"):
        matrix.main("vgg16", "cam", True, output)


@pytest.mark.parametrize(
    ("found", "name", "method", "expected"),
    [
        pytest.param([GOOD, GOOD], "resnet18", "grad_cam", [], id="good"),
        pytest.param([GOOD, GOOD[0]], "resnet18", "grad_cam", ["tf32, last: maps of shape (2, 64, 64)"], id="shape"),
        pytest.param([GOOD / 0, GOOD], "resnet18", "grad_cam", ["tf32, early: NaN or infinite values"], id="infinite"),
        pytest.param(GOOD / 0, "resnet18", "gradient", ["tf32, images: NaN or infinite values"], id="no-layer"),
        pytest.param(ValueError("bad"), "vgg16", "cam", ["tf32: bad"], id="refused-for-another-reason"),
        pytest.param(ValueError("cam needs"), "resnet18", "cam", ["tf32: cam needs"], id="refused-where-defined"),
        pytest.param(ValueError("cam needs one linear layer"), "vgg16", "cam", [], id="refused-rightly"),
        pytest.param([GOOD], "vgg16", "cam", ["tf32: maps where cam is not defined"], id="not-refused"),
        pytest.param(KeyError("lost"), "resnet18", "cam", ["tf32: KeyError: 'lost'"], id="error"),
    ],
)
def test_what_is_wrong(
    found: Any, name: str, method: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(*_: Any, **__: Any) -> Tensor | list[Tensor]:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(fastcam, "explain", explain)
    told = matrix.problem(torch.nn.Identity(), torch.rand(2, 3, 64, 64), name, method, "tf32", ["early", "last"])
    assert told == expected
