"""Rows are measured until time is up, and what fails stops nothing."""

import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_machine, gpu_measure
from bench.gpu_measure import LOST, MEASUREMENTS, WEIGHTS, measure
from bench.gpu_results import Job, Results


class Bench:
    """Two parts of rows that take a second each by a clock of their own."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.now, self.measured = path, 0.0, list[str]()
        self.rows = {"memory": 4, "methods": 4}
        self.ends: dict[str, Callable[[], dict[str, Any]]] = {}
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(gc, "collect", lambda: 0)  # takes long among all that tests have made
        for part in self.rows:
            monkeypatch.setitem(MEASUREMENTS, part, lambda _, part=part: self.jobs(part))
            monkeypatch.setitem(WEIGHTS, part, 1)

    def jobs(self, part: str) -> Iterable[Job]:
        for number in range(self.rows[part]):
            yield Job(f"{part} {number}", lambda name=f"{part} {number}": self.one(name))

    def one(self, name: str) -> dict[str, Any]:
        self.measured.append(name)
        self.now += 1
        return self.ends.get(name, dict)()

    def run(self, seconds: float, code: str = "1") -> dict[str, Any]:
        results = Results(self.path)
        results.begin({}, {"code": code})
        results.content["ceilings"] = {}
        self.measured.clear()
        measure(results, ["memory", "methods"], self.now + seconds)
        return Results(self.path).content


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path / "gpu.json", monkeypatch)


def names(part: str, *numbers: int) -> list[str]:
    return [f"{part} {number}" for number in numbers]


def test_every_part_has_its_share_and_a_later_run_goes_on(bench: Bench) -> None:
    content = bench.run(5)
    assert bench.measured == [*names("memory", 0, 1, 2), *names("methods", 0, 1)]
    assert (content["memory"]["left"], content["methods"]["left"]) == (1, 2)
    content = bench.run(10)
    assert bench.measured == [*names("memory", 3), *names("methods", 2, 3)]
    assert [row["name"] for row in content["memory"]["rows"]] == names("memory", 0, 1, 2, 3)
    assert (content["memory"]["left"], content["methods"]["left"]) == (0, 0)
    assert [row["run"] for row in content["methods"]["rows"]] == [0, 0, 1, 1]


def test_what_a_part_leaves_goes_to_the_others(bench: Bench) -> None:
    bench.rows = {"memory": 1, "methods": 9}
    bench.run(6)
    assert bench.measured == [*names("memory", 0), *names("methods", 0, 1, 2, 3, 4)]
    bench.rows = {"memory": 9, "methods": 5}
    bench.run(6)
    assert bench.measured == names("memory", 1, 2, 3, 4, 5, 6)


def test_no_row_is_begun_that_may_last_beyond_the_end(bench: Bench) -> None:
    bench.rows = {"memory": 9, "methods": 0}
    bench.run(2.5)
    assert bench.measured == names("memory", 0, 1)


@pytest.mark.parametrize("error", [ValueError("wrong"), type("TritonError", (Exception,), {})("wrong")], ids=repr)
def test_a_row_that_fails_is_named_and_the_rest_is_measured(error: Exception, bench: Bench) -> None:
    def fails() -> dict[str, Any]:
        raise error

    bench.ends["memory 1"] = fails
    content = bench.run(99)
    assert bench.measured == [*names("memory", 0, 1, 2, 3), *names("methods", 0, 1, 2, 3)]
    assert content["memory"]["failed"] == {"memory 1": {"run": 0, "error": f"{type(error).__name__}: wrong"}}
    assert len(content["memory"]["rows"]) == 3
    bench.run(99)
    assert bench.measured == []
    bench.ends.clear()
    content = bench.run(99, "2")
    assert bench.measured[0] == "memory 1"  # of changed sources, what is missing comes before what is there
    assert content["memory"]["failed"] == {}


def test_older_rows_stay_until_they_are_measured_again(bench: Bench) -> None:
    bench.run(99)
    bench.rows["methods"] = 5
    content = bench.run(3, "2")
    assert bench.measured == [*names("methods", 4), *names("memory", 0, 1)]
    assert [row["run"] for row in content["memory"]["rows"]] == [1, 1, 0, 0]
    assert len(content["methods"]["rows"]) == 5
    assert content["memory"]["left"] == 2


def test_a_part_without_a_list_stops_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASUREMENTS, "memory", lambda _: 1 / 0)
    content = bench.run(99)
    assert "division by zero" in content["memory"]["failed"]["the list of its rows"]["error"]
    assert len(content["methods"]["rows"]) == 4


def test_a_lost_device_ends_the_process_behind_the_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> dict[str, Any]:
        monkeypatch.setattr(gpu_machine, "device_is_lost", lambda: True)
        raise RuntimeError("an illegal memory access")

    bench.ends["memory 1"] = fails
    with pytest.raises(SystemExit) as stopped:
        bench.run(99)
    assert stopped.value.code == LOST
    content = Results(bench.path).content
    assert "illegal" in content["memory"]["failed"]["memory 1"]["error"]
    assert "measuring" not in content
    monkeypatch.setattr(gpu_machine, "device_is_lost", lambda: False)
    content = bench.run(99)
    assert bench.measured == [*names("memory", 2, 3), *names("methods", 0, 1, 2, 3)]


def test_ceilings_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "gpu.json"
    Results(output).begin({}, {"code": "1"})
    monkeypatch.setattr(gpu_machine, "ceilings", lambda: {"copy_bytes_per_s": 1.0})
    gpu_measure.main([str(output), "9", ""])
    monkeypatch.setattr(gpu_machine, "ceilings", lambda: {"copy_bytes_per_s": 2.0})
    gpu_measure.main([str(output), "9", ""])
    assert Results(output).content["ceilings"] == {"copy_bytes_per_s": 1.0}
