"""The GPU tests are gone on with, whatever fails among them."""

from pathlib import Path

import pytest

from bench import gpu_outcomes, gpu_tests
from bench.gpu_tests import run_tests, summary

# In one thread, as many processes as cores have them all.
PASSES = "import os\n\ndef test_{name}() -> None:\n    assert os.environ['OMP_NUM_THREADS'] == '1'\n"
FAILS = "def test_{name}() -> None:\n    assert 1 == 2, 'not the reference'\n"
SKIPS = "import pytest\n\n@pytest.mark.skip(reason='no')\ndef test_{name}() -> None: ...\n"
ENDS = "import os\n\ndef test_{name}() -> None:\n    os._exit(7)\n"
HANGS = "import time\n\ndef test_{name}() -> None:\n    time.sleep(600)\n"
BREAKS = "import no_such_module\n"
# As a device is after an illegal access.
LOSES = (
    "import bench.gpu_outcomes as outcomes\n\ndef test_{name}() -> None:\n"
    "    outcomes.device_is_lost = lambda: True\n    assert 1 == 2, 'an illegal access'\n"
)


def write(folder: Path, **kinds: str) -> None:
    for name, text in kinds.items():
        (folder / f"test_{name}.py").write_text(text.format(name=name), encoding="utf-8")


def outcomes(file: Path, sources: str = "1") -> dict[str, str]:
    """By the tests' own names."""
    return {test.split("test_")[-1]: e["outcome"] for test, e in gpu_outcomes.read(file, sources).tests.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fails_stops_no_other_and_no_test_runs_twice(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tests, "_spread", lambda: ["--numprocesses", "2"] if processes == 2 else [])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    folder, file = tmp_path / "tests", tmp_path / "gpu-tests.jsonl"
    folder.mkdir()
    write(folder, a=PASSES, b=FAILS, c=LOSES, d=SKIPS, e=BREAKS, f=ENDS if processes == 2 else FAILS, g=PASSES)
    found = summary(run_tests(file, "1", 200, folder))
    assert (found["passed"], found["skipped"], found["left"]) == (2, 1, 0)
    messages = {test.split("test_")[-1]: error for test, error in found["failed"].items()}
    assert "not the reference" in messages["b"]
    assert "an illegal access" in messages["c"]
    assert "no_such_module" in messages["e.py"]
    assert set(messages) == {"b", "c", "e.py", "f"}

    lines = len(file.read_text().splitlines())
    write(folder, h=PASSES)
    (folder / "test_e.py").unlink()
    found = summary(run_tests(file, "1", 200, folder))
    assert (found["passed"], found["left"]) == (3, 0)
    assert len([line for line in file.read_text().splitlines()[lines:] if '"outcome"' in line]) == 1


def test_time_is_up_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tests, "_spread", list)
    folder, file = tmp_path / "tests", tmp_path / "gpu-tests.jsonl"
    folder.mkdir()
    write(folder, a=PASSES, b=HANGS, c=PASSES)
    run = gpu_tests.run

    def until_b(command: list[str], stop: object, environment: dict[str, str]) -> str:
        # Time is up when the first has passed, however long the processes took to start.
        return run(command, lambda: "time is up" if outcomes(file) else None, environment)

    monkeypatch.setattr(gpu_tests, "run", until_b)
    found = summary(run_tests(file, "1", 200, folder))
    assert (found["passed"], found["left"]) == (1, 2)
    monkeypatch.setattr(gpu_tests, "run", run)
    with file.open("a") as lines:
        lines.write('{"test": "cut o')
    write(folder, b=PASSES)
    found = summary(run_tests(file, "1", 200, folder))
    assert (found["passed"], found["left"]) == (3, 0)


def test_a_process_is_stopped_on_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tests, "_spread", list)
    write(tmp_path, a=HANGS)
    assert run_tests(tmp_path / "gpu-tests.jsonl", "1", 1, tmp_path).tests == {}


def test_outcomes_are_those_of_the_sources_and_failures_can_be_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "gpu-tests.jsonl"
    lines = [
        '{"collected": 4, "sources": "1"}',
        '{"test": "test_a", "outcome": "passed", "seconds": 1, "sources": "1"}',
        '{"test": "test_b", "outcome": "passed", "seconds": 1, "sources": "1"}',
        '{"test": "test_b", "outcome": "failed", "seconds": 1, "error": "at teardown", "sources": "1"}',
        '{"test": "test_b", "outcome": "failed", "seconds": 1, "error": "crashed", "sources": "1"}',
        '{"test": "test_c", "outcome": "passed", "seconds": 1, "sources": "2"}',
        '{"test": "test_',
    ]
    file.write_text("\n".join(lines))
    assert outcomes(file) == {"a": "passed", "b": "failed"}
    assert gpu_outcomes.read(file, "1").failed == {"test_b": "at teardown"}
    assert gpu_outcomes.read(file, "1").collected == 4
    assert outcomes(file, "2") == {"c": "passed"}
    gpu_outcomes.forget_failures(file)
    assert outcomes(file) == {"a": "passed"}
    assert gpu_outcomes.read(file, "1").collected == 4
    gpu_outcomes.forget_failures(tmp_path / "none.jsonl")
