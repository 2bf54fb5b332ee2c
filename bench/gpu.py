"""Tests and measurements on a machine with an NVIDIA GPU.

    PYTHONPATH=.:kernels python -m bench.gpu --output results.json [--parts tests,ceilings,memory,relevance]

Parts: first the GPU tests, file by file: if one fails, nothing is measured. Then the two ceilings, copy bandwidth and
bfloat16 matrix products; the memory-bound operators; the z+ convolutions over the layers of three networks; whole
explanations by the first four methods; some methods of every other family. Each finished file of tests and each
finished row is written at once, and what the output file holds is not run again: an interrupted run goes on where it
was.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

Rows = Callable[[dict[str, float]], Iterator[dict[str, Any]]]


def _memory(ceilings: dict[str, float]) -> Iterator[dict[str, Any]]:
    from bench.gpu_memory_bound import rows

    return rows(ceilings["copy_bytes_per_s"])


def _relevance(ceilings: dict[str, float]) -> Iterator[dict[str, Any]]:
    from bench.gpu_relevance import rows

    return rows(ceilings["copy_bytes_per_s"], ceilings["bf16_flop_per_s"])


def _methods(ceilings: dict[str, float]) -> Iterator[dict[str, Any]]:
    from bench.gpu_methods import SETTINGS, rows

    return rows(SETTINGS)


def _families(_: dict[str, float]) -> Iterator[dict[str, Any]]:
    from bench.gpu_methods import FAMILIES, rows

    return rows(FAMILIES)


MEASUREMENTS: dict[str, Rows] = {
    "memory": _memory,
    "relevance": _relevance,
    "methods": _methods,
    "families": _families,
}
PARTS = ("tests", "ceilings", *MEASUREMENTS)


TESTS = Path(__file__).parent.parent / "tests" / "gpu"


def run_tests(passed: dict[str, float], keep: Callable[[dict[str, float]], None]) -> None:
    """Run the files of GPU tests that have not passed, and keep the seconds of each; SystemExit if one is not green."""
    for file in sorted(TESTS.glob("test_*.py")):
        if file.name in passed:
            continue
        started = time.time()
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", *_spread(), str(file)], check=False).returncode
        if code != 0:
            raise SystemExit(f"{file.name} ended with {code}: nothing is measured")
        passed[file.name] = time.time() - started
        keep(passed)


def _spread() -> list[str]:
    """Options for as many processes as there are cores for: most of the tests' time is Triton's compiler's."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["--numprocesses", str(max((os.cpu_count() or 1) * 3 // 4, 1)), "--dist", "worksteal"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON file, gone on with if it exists")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; valid: {', '.join(PARTS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device; there is none")
    from bench.gpu_machine import ceilings, machine

    results = json.loads(options.output.read_text()) if options.output.exists() else {}

    def keep(part: str, value: Any) -> None:
        results[part] = value
        options.output.write_text(json.dumps(results, indent=1) + "\n")

    here = machine()
    before = results.get("machine", here)
    changed = [key for key in here if key != "time" and here[key] != before.get(key)]
    if changed:
        raise SystemExit(f"{options.output} was begun with another {', '.join(changed)}: choose another --output")
    keep("machine", before)
    if "tests" in options.parts:
        run_tests(results.get("tests", {}), lambda passed: keep("tests", passed))
    if "ceilings" not in results and set(options.parts) - {"tests"}:
        keep("ceilings", ceilings())
    for part, rows_of in MEASUREMENTS.items():
        if part in options.parts and not results.get(part, {}).get("complete"):
            rows: list[dict[str, Any]] = []
            started = time.time()
            for row in rows_of(results["ceilings"]):
                rows.append(row)
                print(part, {key: value for key, value in row.items() if key != "conditions"}, flush=True)
                keep(part, {"complete": False, "rows": rows})
            keep(part, {"complete": True, "seconds": time.time() - started, "rows": rows})


if __name__ == "__main__":
    main()
