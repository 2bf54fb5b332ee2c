import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import gpu, gpu_machine, gpu_process
from bench.gpu_machine import watched
from bench.gpu_memory_bound import BATCHES, Case, cases, differs
from bench.gpu_outcomes import Outcomes
from bench.gpu_process import ROOT
from fastcam import ops
from fastcam.ops import reference
from fastcam_kernels import timing


def test_percentiles_interpolate() -> None:
    assert timing.percentiles([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]) == {"p20": 2.0, "p50": 3.5, "p80": 5.0}
    assert timing.percentiles([7.0]) == {"p20": 7.0, "p50": 7.0, "p80": 7.0}


@pytest.mark.parametrize(("one", "cache"), [(1, 50), (50, 50), (1000, 50)])
def test_rotated_inputs_exceed_three_caches_between_two_uses(one: int, cache: int) -> None:
    copies = timing.copies_past_cache(one, cache)
    assert copies >= 2
    assert (copies - 1) * one >= 3 * cache


MEMORY_BOUND = [case for case in cases("cpu") if case.setting["batch"] == 1]


@pytest.mark.parametrize("case", MEMORY_BOUND, ids=lambda case: f"{case.operator}-{case.setting['dtype']}")
def test_bytes_are_those_of_inputs_and_result(case) -> None:
    arguments = case.make()
    found = getattr(ops, case.operator)(*arguments)
    results = found if isinstance(found, tuple) else (found,)
    assert sum(result.numel() * result.element_size() for result in results) == case.written
    tensors = [a for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
    if case.operator == "masked_inputs":  # of all channels' activations one is used
        tensors[1] = tensors[1][:, :1]
    if case.operator == "perturbed_inputs":
        tensors.append(arguments[2])
    assert sum(t.numel() * t.element_size() for t in tensors) == case.read


def exactly(case: Case, arguments: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """The results as a kernel of the same dtypes gives them at best: those in float64, rounded once."""
    wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
    results = (getattr(module, case.operator)(*given) for module, given in ((reference, wide), (ops, arguments)))
    exact, rounded = (result if isinstance(result, tuple) else (result,) for result in results)
    return tuple(e.to(r.dtype) for e, r in zip(exact, rounded, strict=True))


@pytest.mark.parametrize("case", MEMORY_BOUND, ids=lambda case: case.name)
def test_a_result_is_held_against_the_exact_one(case: Case) -> None:
    torch.manual_seed(0)
    arguments = case.make()
    found = exactly(case, arguments)
    assert differs(case, arguments, found if len(found) > 1 else found[0]) is None
    for number, (result, tolerance) in enumerate(zip(found, case.tolerance, strict=True)):
        off = torch.zeros_like(result).flatten()
        off[-1] = max(2 * tolerance, torch.finfo(result.dtype).eps) * result.abs().max()
        wrong = (*found[:number], result + off.view_as(result), *found[number + 1 :])
        assert f"result {number} differs" in str(differs(case, arguments, wrong))
    assert differs(case, arguments, tuple(torch.full_like(result, torch.nan) for result in found)) is not None


def test_what_float32_rounds_between_pixels_is_no_fault_of_a_kernel() -> None:
    (case,) = (c for c in MEMORY_BOUND if c.operator == "unfold_patches" and "float32" in c.setting["dtype"])
    arguments = case.make()
    assert differs(case, arguments, exactly(case, arguments)) is None
    assert differs(case, arguments, reference.unfold_patches(*arguments)) is not None


def test_every_memory_bound_operator_is_measured_at_every_batch() -> None:
    measured = {(case.operator, case.setting["batch"]) for case in cases("meta")}
    # The other two are measured layer by layer.
    operators = set(reference.__all__) - {"relevance_conv", "relevance_conv_backward"}
    assert measured == {(operator, batch) for operator in operators for batch in BATCHES}


def test_parts_are_chosen_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.parse(["--parts", "tests,memory"]).parts == ["tests", "memory"]
    assert gpu.parse([]).parts == ["tests", "ceilings", "memory", "relevance", "methods", "families"]
    with pytest.raises(SystemExit):
        gpu.parse(["--parts", "tests,speed"])
    assert "unknown part speed; valid: tests, ceilings, memory" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "nan", "-1"])
def test_seconds_are_above_zero(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.parse(["--seconds", seconds])
    assert "a number above 0 is valid" in capsys.readouterr().err


def test_help_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--help"])
    assert stopped.value.code == 0
    assert "--parts" in capsys.readouterr().out


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a device")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)


PROCESS = """
import os, sys, time
from pathlib import Path
from bench.gpu_results import Results
results = Results(Path(sys.argv[1]))
for part in sys.argv[3].split(","):
    for name in ("a", "b", "c"):
        if results.state(part, name) == "missing":
            results.start(part, name)
            if name == "b":
                {ending}
            results.keep(part, {{"name": name}})
    results.part(part)["left"] = 0
results.write()
"""


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("ending", "said"),
    [
        pytest.param("os._exit(7)", "its process ended with 7", id="exit"),
        pytest.param("os.abort()", "its process ended with -6", id="abort"),
        pytest.param("time.sleep(600)", "its process wrote nothing for 3 s", id="hang"),
        pytest.param("results.fail(part, name, 'lost'); sys.exit(3); 1", "lost", id="lost-device"),
    ],
)
def test_a_row_that_takes_its_process_with_it_is_noted_and_the_rest_is_measured(
    ending: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "measure.py"
    script.write_text(PROCESS.format(ending=ending))
    run = gpu_process.run
    monkeypatch.setattr(gpu, "QUIET", 3.0)
    monkeypatch.setattr(
        gpu_process,
        "run",
        lambda command, stop: run(
            [sys.executable, str(script), *command[3:]], stop, {**os.environ, "PYTHONPATH": str(ROOT)}
        ),
    )
    output = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--parts", "memory,methods", "--output", str(output)])
    assert stopped.value.code == 1
    content = json.loads(output.read_text())
    for part in ("memory", "methods"):
        assert [row["name"] for row in content[part]["rows"]] == ["a", "c"]
        assert content[part]["failed"]["b"]["error"] == said
    assert "measuring" not in content
    assert f"failed: b: {said}" in capsys.readouterr().out


@pytest.mark.usefixtures("device")
def test_a_process_is_stopped_when_time_is_up_and_its_row_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "measure.py"
    script.write_text(PROCESS.format(ending="time.sleep(600)"))
    run = gpu_process.run
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    monkeypatch.setattr(gpu, "BEYOND", 0.0)
    monkeypatch.setattr(gpu, "LEAST", 0.0)
    monkeypatch.setattr(
        gpu_process, "run", lambda command, stop: run([sys.executable, str(script), *command[3:]], stop, environment)
    )
    output = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--parts", "memory", "--output", str(output), "--seconds", "2"])
    assert stopped.value.code == 0
    content = json.loads(output.read_text())
    assert [row["name"] for row in content["memory"]["rows"]] == ["a"]
    assert content["memory"]["failed"] == {}


@pytest.mark.usefixtures("device")
def test_tests_that_fail_stop_no_measurement_and_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"test": "tests/gpu/test_a.py::test", "outcome": "failed", "seconds": 1.0, "error": "E  wrong by 1"}
    asked: list[float] = []

    def run(file: Path, sources: str, seconds: float) -> Outcomes:
        asked.append(seconds)
        return Outcomes(3, {failed["test"]: failed})

    monkeypatch.setattr(gpu, "run_tests", run)
    measured: list[str] = []
    monkeypatch.setattr(gpu, "_measure", lambda output, parts, until: measured.extend(parts))
    output = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--output", str(output), "--seconds", "100"])
    assert stopped.value.code == 1
    assert measured == list(gpu.MEASUREMENTS)
    # Their share, and what the others left.
    assert asked == [pytest.approx(35), pytest.approx(100, abs=5)]
    assert json.loads(output.read_text())["tests"]["failed"] == {failed["test"]: "E  wrong by 1"}
    assert "failed: tests/gpu/test_a.py::test: E  wrong by 1" in capsys.readouterr().out


def test_a_variant_that_failed_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gpu.json"
    rows = [{"name": "a", "failed": {"compiled": "no compiler"}}, {"name": "b", "failed": {}}]
    output.write_text(json.dumps({"memory": {"rows": rows, "failed": {}, "left": 0}}))
    assert gpu.report(output, ["memory"]) == 1
    assert "failed: a, compiled: no compiler" in capsys.readouterr().out


@pytest.mark.parametrize("error", [FileNotFoundError("git"), PermissionError("git")])
def test_without_git_the_commit_is_the_one_given(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gpu_machine.subprocess, "run", absent)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)
    assert gpu_machine.conditions_of_run()["commit"] is None
    run = gpu_machine.conditions_of_run("abc")
    assert run["commit"] == "abc"
    assert len(run["code"]) == 16


def test_a_variant_that_does_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def fails(_: int) -> None:
        raise TypeError("no compiler")

    run, failed = gpu_machine.measurable({"good": lambda i: i, "bad": fails})
    assert list(run) == ["good"]
    assert failed == {"bad": "TypeError: no compiler"}


def test_conditions_have_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_CLOCK_SM=0,
        NVML_CLOCK_MEM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetPowerUsage=lambda handle: asked.append(handle) or (100_000 if len(asked) == 1 else 400_000),
    )
    for name in (
        "ClockInfo",
        "Temperature",
        "TotalEnergyConsumption",
        "EnforcedPowerLimit",
        "CurrentClocksEventReasons",
    ):
        setattr(nvml, f"nvmlDeviceGet{name}", lambda *_: 1000)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with watched() as seen:
        while len(asked) < 3:
            time.sleep(0.01)
    mean = pytest.approx(400 - 300 / len(asked))
    assert seen["watts"] == {"min": 100, "median": 400, "mean": mean, "max": 400}
    assert seen["sm_mhz"] == {"min": 1000, "median": 1000, "mean": 1000, "max": 1000}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_without_a_device_it_says_so() -> None:
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.main([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without NVML")
def test_conditions_are_null_where_nvml_is_absent() -> None:
    with watched() as conditions:
        pass
    assert conditions
    assert set(conditions.values()) == {None}
