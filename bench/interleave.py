"""Timing several variants of one job, turn by turn, so that all see the same machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleave(
    variants: Mapping[str, Callable[[], Any]], *, rounds: int, warmups: int = 1
) -> dict[str, dict[str, float]]:
    """Run every variant once per round; return seconds per variant as median, p20, p80 and the fastest."""
    for _ in range(warmups):
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: _summary(sorted(values)) for name, values in seconds.items()}


def _summary(values: list[float]) -> dict[str, float]:
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return {
        "median": statistics.median(values),
        "p20": fifths[0],
        "p80": fifths[3],
        "min": values[0],
        "rounds": len(values),
    }
