from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_machine
from bench.gpu_machine import watched
from bench.gpu_memory_bound import BATCHES, cases
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
    result = getattr(ops, case.operator)(*arguments)
    assert result.numel() * result.element_size() == case.written
    tensors = [a for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
    if case.operator == "masked_inputs":  # of all channels' activations one is used
        tensors[1] = tensors[1][:, :1]
    if case.operator == "perturbed_inputs":
        tensors.append(arguments[2])
    assert sum(t.numel() * t.element_size() for t in tensors) == case.read
    assert (result.float() - getattr(reference, case.operator)(*arguments).float()).abs().max() <= case.tolerance


def test_every_memory_bound_operator_is_measured_at_every_batch() -> None:
    measured = {(case.operator, case.setting["batch"]) for case in cases("meta")}
    operators = {"cam_map", "masked_inputs", "perturbed_inputs", "unfold_patches", "fold_patches"}
    assert measured == {(operator, batch) for operator in operators for batch in BATCHES}


def test_parts_are_chosen_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.parse(["--parts", "tests,memory"]).parts == ["tests", "memory"]
    assert gpu.parse([]).parts == ["tests", "ceilings", "memory", "relevance", "methods", "families"]
    with pytest.raises(SystemExit):
        gpu.parse(["--parts", "tests,speed"])
    assert "unknown part speed; valid: tests, ceilings, memory" in capsys.readouterr().err


def test_help_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--help"])
    assert stopped.value.code == 0
    assert "--parts" in capsys.readouterr().out


def test_each_file_of_tests_is_kept_and_not_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("test_a.py", "test_b.py", "test_c.py"):
        (tmp_path / name).write_text("def test() -> None:\n    assert '_c' not in __file__\n", encoding="utf-8")
    monkeypatch.setattr(gpu, "TESTS", tmp_path)
    kept: list[list[str]] = []
    with pytest.raises(SystemExit, match=r"test_c\.py ended with 1: nothing is measured"):
        gpu.run_tests({"test_a.py": 1.0}, lambda passed: kept.append(list(passed)))
    assert kept == [["test_a.py", "test_b.py"]]


def test_what_the_file_holds_is_not_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a device")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)
    monkeypatch.setattr(gpu_machine, "ceilings", lambda: {"copy_bytes_per_s": 1.0, "bf16_flop_per_s": 1.0})
    made: list[str] = []

    def rows(name: str) -> Callable[[object], Iterator[dict[str, Any]]]:
        def measure(_: object) -> Iterator[dict[str, Any]]:
            made.append(name)
            yield {"part": name}

        return measure

    monkeypatch.setattr(gpu, "MEASUREMENTS", {name: rows(name) for name in gpu.MEASUREMENTS})
    output = str(tmp_path / "gpu.json")
    gpu.main(["--parts", "ceilings,memory", "--output", output])
    gpu.main(["--parts", "ceilings,memory,relevance", "--output", output])
    assert made == ["memory", "relevance"]


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
