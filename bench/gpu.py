"""Tests and measurements on a machine with an NVIDIA GPU.

    PYTHONPATH=.:kernels python -m bench.gpu --output results.json [--parts tests,ceilings,memory,relevance]

Parts: first the GPU tests: if one fails, nothing is measured. Then the two ceilings, copy bandwidth and bfloat16
matrix products; the memory-bound operators; the z+ convolutions over the layers of three networks; whole explanations
by the first four methods; some methods of every other family. Each finished row is written at once, and a part that
the output file holds whole is not run again: an interrupted run goes on where it was.
"""

import argparse
import json
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


def run_tests() -> dict[str, Any]:
    """Run the GPU tests; raise SystemExit if they are not green."""
    started = time.time()
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/gpu"], check=False).returncode
    if code != 0:
        raise SystemExit(f"the GPU tests ended with {code}: nothing is measured")
    return {"passed": True, "seconds": time.time() - started}


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
    if "tests" in options.parts and "tests" not in results:
        keep("tests", run_tests())
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
