"""Choosing kernels by measurement: what can be said without a device."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from triton.runtime.errors import OutOfResources

from fastcam.network.units import Geometry
from fastcam.propagation import tuning
from fastcam.propagation.convolutions import Convolution
from fastcam_kernels import timing
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


PLAIN = Convolution(8, 12, (9, 7), (3, 3), Geometry((1, 1), (1, 1), (1, 1), 1), "relu", signed=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_agreement_allows_rounding_and_no_more(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    problem = tuning.make_problem(PLAIN, 2, dtype, "cpu")
    y, gate = tuning.reference_forward(PLAIN, problem)
    g = tuning.reference_backward(PLAIN, problem)
    for expected in (y, gate, g):
        assert tuning.agrees((expected.double() * (1 + torch.finfo(expected.dtype).eps)).to(expected.dtype), expected)
        assert not tuning.agrees((expected.float() * 1.1).to(expected.dtype), expected)
    tapless = problem.positive.clone()
    tapless[..., 1, 2] = 0
    assert not tuning.agrees(tuning.reference_backward(PLAIN, replace(problem, positive=tapless)), g)
    assert not tuning.agrees(tuning.reference_forward(PLAIN, replace(problem, positive=tapless))[1], gate)


def test_agreement_in_tf32_is_of_ten_bits() -> None:
    expected = torch.rand(4, 5, 6) + 0.1
    assert tuning.agrees(expected * (1 + 2**-10), expected, tf32=True)
    assert not tuning.agrees(expected * (1 + 2**-10), expected)
    assert not tuning.agrees(expected * 1.01, expected, tf32=True)


def test_candidates_differ_and_hold_both_algorithms() -> None:
    tried = list(tuning.candidates())
    assert len(set(tried)) == len(tried) > 10
    assert {choice.algorithm for choice in tried} == {"triton", "composition"}
    stages = [other.num_stages for other in tuning.refined(tried[1])]
    assert stages == [3, 2, 4]
    assert list(tuning.refined(tried[0])) == [tried[0]]


def test_keys_tell_operators_dtypes_and_batches_apart() -> None:
    dtypes = (torch.float32, torch.bfloat16)
    keys = {tuning._key(operator, CONV, n, dtype) for operator in tuning.OPERATORS for dtype in dtypes for n in (1, 2)}
    assert len(keys) == 8


def test_the_fastest_of_those_that_run_and_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tuning.make_problem(CONV, 2, torch.float32, "cpu")
    seen: list[tuple[int, int]] = []

    def run(conv: Convolution, given: tuning.Problem, choice: Choice) -> torch.Tensor:
        if choice.num_stages == 4:
            raise OutOfResources(300_000, 232_448, "shared memory")
        if choice.outputs == 128:
            raise ValueError("blocks that the kernel refuses")
        right = tuning.reference_backward(conv, given)
        return right * 1.01 if choice.channels == 32 else right

    def measure(calls: dict[str, Any], copies: int, *, rounds: int) -> dict[str, dict[str, float]]:
        seen.append((len(calls), rounds))
        for call in calls.values():
            assert call(copies - 1).shape == problem.x.shape
        # More positions and more stages are slower, the composition slowest.
        choices = [eval(name, {"Choice": Choice}) for name in calls]
        times = [100.0 if c.algorithm == "composition" else c.positions + c.num_stages for c in choices]
        return {name: {"p50": time} for name, time in zip(calls, times, strict=True)}

    monkeypatch.setattr(tuning, "backward", run)
    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(timing, "l2_bytes", lambda: 100_000)
    choice, microseconds, runs = tuning.fastest("relevance_conv_backward", CONV, problem)
    assert (choice, microseconds) == (Choice("triton", 64, 32, 64, 4, 2), 66)
    # Of 64 channels and at most 64 outputs: four, and the composition. Then two of these with two stages, too, and the
    # composition.
    assert [count for count, _ in seen] == [5, 5]
    assert seen[0][1] < seen[1][1]
    assert runs == 7


def test_a_layer_for_which_nothing_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tuning.make_problem(CONV, 2, torch.float32, "cpu")
    monkeypatch.setattr(tuning, "backward", lambda conv, given, choice: tuning.reference_backward(conv, given) + 1)
    monkeypatch.setattr(timing, "measure", lambda calls, *_, **__: {})
    monkeypatch.setattr(timing, "l2_bytes", lambda: 1)
    with pytest.raises(tuning.NothingRunsError, match="no candidate runs"):
        tuning.fastest("relevance_conv_backward", CONV, problem)


def test_tuning_keeps_each_entry_and_skips_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    table: dict[str, dict[str, Any]] = {}

    def fastest(operator: str, conv: Convolution, problem: tuning.Problem) -> tuple[Choice, float, int]:
        batch = len(problem.x)
        if batch == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if batch == 8:
            raise tuning.NothingRunsError("no candidate runs")
        return Choice("triton"), float(batch), 3

    def go(known: dict[str, Any]) -> None:
        cpu = torch.device("cpu")
        tuning.tune([CONV, PLAIN], [1, 2, 4, 8], "bfloat16", cpu, known=known, keep=keep, note=lines.append)

    def keep(key: str, entry: dict[str, Any]) -> None:
        table[key] = entry

    monkeypatch.setattr(tuning, "fastest", fastest)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    go({})
    assert len(table) == 8
    assert sum("left out: CUDA out of memory" in line for line in lines) == 4
    assert sum("left out: no candidate runs" in line for line in lines) == 4
    assert sum("triton, 2.0 us, the fastest of 3" in line for line in lines) == 4
    held = dict(table)
    missing = held.popitem()[0]
    table.clear()
    go(held)
    assert list(table) == [missing]


@pytest.mark.parametrize(("precision", "allowed", "number"), [("float32", False, "float32"), ("tf32", True, "tf32")])
def test_candidates_run_in_the_precision_that_is_asked_for(
    precision: str, allowed: bool, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul, keys = torch.backends.cuda.matmul, []

    def fastest(*_: object) -> tuple[Choice, float, int]:
        assert (matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
        return Choice("triton"), 1.0, 1

    monkeypatch.setattr(tuning, "make_problem", lambda *_: None)
    monkeypatch.setattr(tuning, "fastest", fastest)
    before, matmul.allow_tf32 = matmul.allow_tf32, not allowed
    try:
        cuda = torch.device("cuda")
        tuning.tune([CONV], [1], precision, cuda, keep=lambda key, _: keys.append(key), note=lambda _: None)
        assert matmul.allow_tf32 is not allowed
    finally:
        matmul.allow_tf32 = before
    assert [key.split()[1] for key in keys] == [number] * 2


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
