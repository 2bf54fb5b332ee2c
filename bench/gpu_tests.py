"""The GPU tests: one start of pytest, that goes on after what fails and begins with what has not ended yet."""

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import gpu_outcomes
from bench.gpu_outcomes import Outcomes
from bench.gpu_process import run

TESTS = Path("tests") / "gpu"


def run_tests(file: Path, sources: str, seconds: float, tests: Path = TESTS) -> Outcomes:
    """Run the tests without an outcome in the file for so long; return what is known of all of them then."""
    until = time.monotonic() + seconds
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "bench.gpu_outcomes", "-p", "no:cacheprovider"),
        *("--continue-on-collection-errors", *_spread(), str(tests)),
    ]
    while True:
        before = gpu_outcomes.read(file, sources)
        with file.open("a", encoding="utf-8") as lines:
            lines.write("\n")  # behind a line that was cut off with its writer
        environment = {
            # Without those of a pytest that calls this one.
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            gpu_outcomes.FILE: str(file.resolve()),
            gpu_outcomes.BEGAN_WITH: str(file.stat().st_size),
            gpu_outcomes.SOURCES: sources,
            "OMP_NUM_THREADS": "1",  # there are as many processes as cores
        }
        ended = run(command, lambda: "time is up" if time.monotonic() >= until else None, environment)
        found = gpu_outcomes.read(file, sources)
        # Without pytest-xdist a test that takes its process with it ends pytest: the rest has not had its turn.
        usual = ("time is up", *(f"ended with {code}" for code in (0, 1, 5)))
        if ended in usual or len(found.tests) == len(before.tests):
            return found


def _spread() -> list[str]:
    """Options for as many processes as there are cores for: most of the tests' time is Triton's compiler's."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["--numprocesses", str(max((os.cpu_count() or 1) * 3 // 4, 1)), "--dist", "worksteal"]


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """What a file of results holds of the tests."""
    return {
        "passed": outcomes.count("passed"),
        "skipped": outcomes.count("skipped"),
        "failed": outcomes.failed,
        "left": max(outcomes.collected - sum("::" in test for test in outcomes.tests), 0),
        "seconds": round(sum(entry["seconds"] for entry in outcomes.tests.values()), 1),
    }
