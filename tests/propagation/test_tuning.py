"""Choosing kernels by measurement: what can be said without a device."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from fastcam.network.units import Geometry
from fastcam.propagation import tuning
from fastcam.propagation.convolutions import Convolution
from fastcam_kernels.tuning import Choice

CONV = Convolution(8, 12, (9, 7), (3, 3), Geometry((2, 2), (1, 1), (1, 1), 1), "relu", signed=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
def test_problems_are_what_the_operators_take(dtype: torch.dtype, signed: bool) -> None:
    conv = Convolution(**{**vars(CONV), "signed": signed})
    problem = tuning.make_problem(conv, 2, dtype, "cpu")
    y, gate = tuning.reference_forward(conv, problem)
    g = tuning.reference_backward(conv, problem)
    assert y.shape == gate.shape == problem.signal.shape
    assert (y.dtype, gate.dtype, g.dtype) == (dtype, problem.gate.dtype, problem.gate.dtype)
    assert g.shape == problem.x.shape
    assert bool((problem.x < 0).any()) is signed
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (problem.x, problem.weight, problem.signal))


def test_agreement_sees_one_wrong_element() -> None:
    expected = torch.rand(4, 5, 6) + 0.1
    assert tuning.agrees(expected * (1 + 1e-6), expected)
    wrong = expected.clone()
    wrong[1, 2, 3] *= 1.01
    assert not tuning.agrees(wrong, expected)
    wrong[1, 2, 3] = torch.nan
    assert not tuning.agrees(wrong, expected)


def test_candidates_differ_and_hold_both_algorithms() -> None:
    tried = list(tuning.candidates())
    assert len(set(tried)) == len(tried) > 10
    assert {choice.algorithm for choice in tried} == {"triton", "composition"}


def test_keys_tell_operators_and_dtypes_apart() -> None:
    problems = [tuning.make_problem(CONV, 2, dtype, "cpu") for dtype in (torch.float32, torch.bfloat16)]
    keys = {tuning._key(operator, CONV, problem) for operator in tuning.OPERATORS for problem in problems}
    assert len(keys) == 4


def test_a_table_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    entries = {"relevance_conv ...": asdict(Choice("triton", positions=128)), "other": asdict(Choice("composition"))}
    path.write_text(json.dumps(entries))
    assert tuning.read_table(path) == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("[1]", "holds no JSON object"), ('{"a": {"algorithm": "magic"}}', "'magic'")],
    ids=["broken", "a-list", "unknown"],
)
def test_a_bad_table_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        tuning.read_table(path)
    assert str(path) in str(caught.value)
