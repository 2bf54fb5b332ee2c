"""A pytest plugin (`-p bench.gpu_outcomes`): each finished test is written at once; what has an outcome is left out.

The environment names a file of JSON lines, how much of it the run began with, and the sources that the tests are of. A
test that leaves the device in a state in which nothing more runs (an illegal access, say) takes its process with it,
and no other test.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FILE, BEGAN_WITH, SOURCES = "FASTCAM_OUTCOMES", "FASTCAM_OUTCOMES_BYTES", "FASTCAM_SOURCES"
# How a process ends whose device is lost: none of pytest's codes.
LOST = 70
_WORKER = "PYTEST_XDIST_WORKER"


@dataclass
class Outcomes:
    """What is known of the tests of some sources: how many there are, and by name those that ended."""

    collected: int = 0
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, str]:
        """What each of those that failed said."""
        return {test: entry["error"] for test, entry in self.tests.items() if entry["outcome"] == "failed"}

    def count(self, outcome: str) -> int:
        return sum(entry["outcome"] == outcome for entry in self.tests.values())


def read(path: Path, sources: str, size: int | None = None) -> Outcomes:
    """Read the first `size` bytes of a file, or all of it. Of several entries of one test its first failure counts."""
    found = Outcomes()
    for line in path.read_bytes()[:size].splitlines() if path.exists() else ():
        entry = _entry(line)
        if entry.get("sources") != sources:
            continue
        if "collected" in entry:
            found.collected = entry["collected"]
        elif found.tests.get(entry["test"], {}).get("outcome") != "failed":
            found.tests[entry["test"]] = entry
    return found


def forget_failures(path: Path) -> None:
    """Leave out all that is written of tests that failed."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    failed = {entry.get("test") for entry in map(_entry, lines) if entry.get("outcome") == "failed"}
    path.write_text(
        "".join(f"{line}\n" for line in lines if _entry(line).get("test", "") not in failed), encoding="utf-8"
    )


def _entry(line: str | bytes) -> dict[str, Any]:
    """What a line says; nothing where it was cut off with its writer."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return found


def _write(**entry: Any) -> None:
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**entry, "sources": os.environ[SOURCES]}) + "\n")


def _ended(report: pytest.TestReport | pytest.CollectReport, seconds: float = 0.0) -> None:
    entry: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(seconds, 3)}
    # The end of it is what was raised, and where.
    _write(**entry, **({} if report.passed else {"error": str(report.longrepr)[-1000:]}))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Of the file as it was at the start: all processes must agree, also one that takes another's place later.
    done = read(Path(os.environ[FILE]), os.environ[SOURCES], int(os.environ[BEGAN_WITH])).tests
    if os.environ.get(_WORKER, "gw0") == "gw0":
        _write(collected=len(items))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and _WORKER not in os.environ:
        _ended(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _WORKER not in os.environ and (report.when == "call" or not report.passed):
        _ended(report, report.duration)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    if report.failed and device_is_lost():
        _ended(report, report.duration)
        os._exit(LOST)
    return report


def device_is_lost() -> bool:
    """Whether nothing more runs on a device in this process."""
    if "torch" not in sys.modules:
        return False
    from bench import gpu_machine

    return gpu_machine.device_is_lost()
