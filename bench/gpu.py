"""Tests and measurements on a machine with an NVIDIA GPU.

    PYTHONPATH=.:kernels python -m bench.gpu --output results.json [--parts tests,ceilings,memory,relevance]

Parts: the GPU tests; the two ceilings, copy bandwidth and bfloat16 matrix products; the operators that memory bounds;
the z+ convolutions over the layers of three networks; whole explanations by the first four methods; some methods of
every other family. Each part has its share of the seconds; what a part leaves of it goes to those behind it, and what
all leave to those that need more.

Each finished test and row is written at once, and what the output file holds is not run again: the same command goes on
where an earlier one ended. What fails is noted by its name and stops nothing else; where something failed, the exit
code is 1. Rows that older sources measured are measured again when nothing is missing, and stay until then. Beside the
output file lies one of its tests' outcomes (results-tests.jsonl): whoever moves one moves both.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import gpu_outcomes, gpu_process
from bench.gpu_measure import LOST, MEASUREMENTS
from bench.gpu_results import TESTED, Results, digest
from bench.gpu_tests import run_tests, summary

PARTS = ("tests", "ceilings", *MEASUREMENTS)
# Below nine minutes with what the last row may take beyond them.
SECONDS, BEYOND = 500.0, 35.0
OF_TESTS = 0.35
# A row takes half a minute; its process, when it starts, as long.
QUIET = 150.0
# Starting again for less is not worth it.
LEAST = 20.0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON file, gone on with if it exists")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no row is begun later (default: %(default)s)")
    parser.add_argument("--commit", help="of the sources, noted with the rows (default: git's)")
    parser.add_argument("--again", action="store_true", help="run again what failed")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; valid: {', '.join(PARTS)}")
    if not options.seconds > 0:
        parser.error(f"--seconds: {options.seconds} given, a number above 0 is valid")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    until = time.monotonic() + options.seconds
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device; there is none")
    from bench.gpu_machine import conditions_of_run, machine

    results = Results(options.output)
    try:
        differ = results.begin(machine(), conditions_of_run(options.commit))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if differ:
        print(f"note: the runs of {options.output} differ in {', '.join(differ)}; each row names its run", flush=True)
    if options.again:
        results.forget_failures(set(options.parts) & set(MEASUREMENTS))
        gpu_outcomes.forget_failures(_outcomes(options.output))
    measured = [part for part in PARTS if part in options.parts and part != "tests"]
    if "tests" in options.parts:
        _test(options.output, options.seconds * (OF_TESTS if measured else 1.0))
    if measured:
        _measure(options.output, [part for part in measured if part != "ceilings"], until)
    if "tests" in options.parts and measured and _left(options.output, "tests"):
        _test(options.output, until - time.monotonic())
    raise SystemExit(report(options.output, options.parts))


def _outcomes(output: Path) -> Path:
    return output.with_name(f"{output.stem}-tests.jsonl")


def _test(output: Path, seconds: float) -> None:
    """Run tests for so long and note how they stand."""
    if seconds >= LEAST:
        found = summary(run_tests(_outcomes(output), digest(TESTED), seconds))
        results = Results(output)
        results.content["tests"] = found
        results.write()


def _left(output: Path, part: str) -> int:
    return int(Results(output).content.get(part, {}).get("left", 0))


def _measure(output: Path, parts: Sequence[str], until: float) -> None:
    """Measure in a process of its own, and in another one where a row took that with it."""
    while until - time.monotonic() >= LEAST:
        Results(output).write()  # the file's time is when something was last heard
        command = [sys.executable, "-m", "bench.gpu_measure", str(output.resolve())]
        command += [str(until - time.monotonic()), ",".join(parts)]

        def stop() -> str | None:
            if time.monotonic() >= until + BEYOND:
                return "time is up"
            quiet = time.time() - output.stat().st_mtime
            return f"wrote nothing for {QUIET:.0f} s" if quiet > QUIET else None

        ended = gpu_process.run(command, stop)
        results = Results(output)
        row = results.content.pop("measuring", None)
        if ended in ("ended with 0", "time is up"):
            results.write()
            return
        if row is not None:
            results.fail(*row, f"its process {ended}")
        elif ended != f"ended with {LOST}":
            raise SystemExit(f"the process that measures {ended}, before its first row: see what it printed")


def report(output: Path, parts: Sequence[str]) -> int:
    """Say what failed and what is left; return the exit code: 1 where something failed."""
    content: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    failures = 0
    for part in parts:
        kept = content.get(part)
        if kept is None or part == "ceilings":
            continue
        done = kept["passed"] if part == "tests" else len(kept["rows"])
        print(f"{part}: {done} {'passed' if part == 'tests' else 'measured'}, {kept.get('left', 'some')} left")
        failed = {name: said if part == "tests" else said["error"] for name, said in kept["failed"].items()}
        for row in kept.get("rows", ()):
            failed |= {f"{row['name']}, {name}": said for name, said in row.get("failed", {}).items()}
        for name, said in failed.items():
            print(f"  failed: {name}: {(said.strip().splitlines() or [''])[-1][:200]}")
        failures += len(failed)
    if failures:
        print(f"{failures} failed; --again runs them again, as does any other call once the sources have changed")
    return int(failures > 0)


if __name__ == "__main__":
    main()
