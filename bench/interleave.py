"""Timing several variants of one job, turn by turn, so that all see the same machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleave(
    variants: Mapping[str, Callable[[], Any]], *, yardstick: str, rounds: int, warmups: int = 1
) -> dict[str, dict[str, float]]:
    """Run every variant once per round; return seconds per variant as median, p20, p80 and the fastest.

    times_yardstick: the median over the rounds of what a variant took in terms of the yardstick's time in the same
        round. A machine that slows down for some seconds then slows both.
    """
    for _ in range(warmups):
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: summary(values, seconds[yardstick]) for name, values in seconds.items()}


def summary(values: list[float], units: list[float]) -> dict[str, float]:
    """Seconds of one variant as median, p20, p80 and the fastest; units: those of the yardstick, round by round."""
    # Of a single round there is no spread.
    fifths = statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else values * 4
    return {
        "median": statistics.median(values),
        "p20": fifths[0],
        "p80": fifths[3],
        "min": min(values),
        "times_yardstick": statistics.median(value / unit for value, unit in zip(values, units, strict=True)),
        "rounds": len(values),
    }
