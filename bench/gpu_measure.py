"""Measure the parts of a GPU run, row by row, until time is up: the process that bench.gpu starts, and starts again.

    PYTHONPATH=.:kernels python -m bench.gpu_measure OUTPUT SECONDS PART[,PART...]

First every part has its share of the time for rows that are missing, then what is left goes to the rest in order, rows
that older sources measured among them. What fails is noted, and the next row begins.
"""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from bench.gpu_results import Job, Results, State


def _memory(ceilings: dict[str, float]) -> Iterable[Job]:
    from bench.gpu_memory_bound import jobs

    return jobs(ceilings["copy_bytes_per_s"])


def _relevance(ceilings: dict[str, float]) -> Iterable[Job]:
    from bench.gpu_relevance import jobs

    return jobs(ceilings["copy_bytes_per_s"], ceilings["bf16_flop_per_s"])


def _methods(_: dict[str, float]) -> Iterable[Job]:
    from bench.gpu_methods import SETTINGS, jobs

    return jobs(SETTINGS)


def _families(_: dict[str, float]) -> Iterable[Job]:
    from bench.gpu_methods import FAMILIES, jobs

    return jobs(FAMILIES)


MEASUREMENTS: dict[str, Callable[[dict[str, float]], Iterable[Job]]] = {
    "memory": _memory,
    "relevance": _relevance,
    "methods": _methods,
    "families": _families,
}
# Of the time, against each other; about as their rows take.
WEIGHTS = {"memory": 1, "relevance": 3, "methods": 2, "families": 2}
# The device does nothing more in this process.
LOST = 3


def measure(results: Results, parts: Sequence[str], until: float) -> None:
    """Measure what there is time for. until: on the monotonic clock."""
    jobs: dict[str, list[Job]] = {}
    for part in parts:
        try:
            jobs[part] = list(MEASUREMENTS[part](results.content["ceilings"]))
        except Exception as error:
            results.fail(part, "the list of its rows", _said(error))
            jobs[part] = []
    _count(results, jobs)
    longest = dict.fromkeys(parts, 0.0)
    for states in (("missing",), ("missing", "older")):
        waiting = list(parts)
        while waiting:
            part = waiting.pop(0)
            weights = [WEIGHTS[other] for other in (part, *waiting)]
            share = weights[0] / sum(weights) if states == ("missing",) else 1.0
            now = time.monotonic()
            latest = min(now + (until - now) * share, until - longest[part])
            longest[part] = max(longest[part], _turn(results, part, jobs, states, latest, until))


def _turn(
    results: Results, part: str, jobs: dict[str, list[Job]], states: Sequence[State], until: float, end: float
) -> float:
    """Measure rows in these states; none is begun after `until`, nor one that might last beyond `end`.

    Returns what the longest of them took.
    """
    longest = 0.0
    for job in jobs[part]:
        if results.state(part, job.name) not in states:
            continue
        started = time.monotonic()
        if started > until or started + longest > end:
            break
        results.start(part, job.name)
        try:
            row = {"name": job.name, **job.measure()}
        except Exception as error:
            results.fail(part, job.name, _said(error))
        else:
            results.keep(part, row)
            if part == "relevance":
                from bench.gpu_relevance import totals

                results.part(part)["totals"] = totals(results.part(part)["rows"])
            print(part, {key: value for key, value in row.items() if key != "conditions"}, flush=True)
        _count(results, jobs)
        longest = max(longest, time.monotonic() - started)
        _leave_nothing()
    return longest


def _said(error: Exception) -> str:
    traceback.print_exc()
    return f"{type(error).__name__}: {error}"


def _count(results: Results, jobs: dict[str, list[Job]]) -> None:
    """Note how many rows are still to be measured."""
    for part, of in jobs.items():
        results.part(part)["left"] = sum(results.state(part, job.name) in ("missing", "older") for job in of)
    results.write()


def _leave_nothing() -> None:
    """Free what a row held; SystemExit where the device does nothing more in this process."""
    from bench.gpu_machine import device_is_lost

    gc.collect()
    if device_is_lost():
        raise SystemExit(LOST)
    torch.cuda.empty_cache()


def main(arguments: Sequence[str]) -> None:
    from bench.gpu_machine import ceilings

    output, seconds, parts = arguments
    until = time.monotonic() + float(seconds)
    results = Results(Path(output))
    if "ceilings" not in results.content:
        results.content["ceilings"] = ceilings()
        results.write()
    measure(results, parts.split(",") if parts else [], until)


if __name__ == "__main__":
    main(sys.argv[1:])
