"""Timing on a CUDA device: variants of one call turn by turn, each as a CUDA graph of many calls.

A graph leaves out what the processor takes for a launch; inputs, and results, that rotate past the L2 cache leave out
what would be found there; and turns let a drift of the clocks hit all variants alike.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Call = Callable[[int], object]


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Return p20, p50 and p80, by linear interpolation between the sorted samples."""
    ordered = sorted(samples)

    def at(fraction: float) -> float:
        place = fraction * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return {"p20": at(0.2), "p50": at(0.5), "p80": at(0.8)}


def l2_bytes() -> int:
    """Return the size of the current device's L2 cache."""
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)


def copies_past_cache(one: int, cache: int) -> int:
    """Return how many sets of inputs of `one` byte length to rotate, so that none is found in the L2 cache."""
    return max(2, math.ceil(3 * cache / one) + 1)


def replay_of(call: Call, copies: int, calls: int, pool: Any = None) -> Callable[[], None]:
    """Return a replay of one CUDA graph of `calls` calls; each is given the number of the inputs to take.

    Every set of inputs is taken once before, so that what is prepared once for a set is not prepared in the graph.

    pool: memory that graphs share which are never replayed at once (`torch.cuda.graph_pool_handle()`).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for copy in range(copies):
            call(copy)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    # A result that nobody holds is overwritten by the next, in the cache: as many are held as there are inputs.
    results: deque[object] = deque(maxlen=copies)
    with torch.cuda.graph(graph, pool=pool):
        for number in range(calls):
            results.append(call(number % copies))
    return graph.replay


def measure(variants: Mapping[str, Call], copies: int, *, rounds: int = 30) -> dict[str, dict[str, float]]:
    """Return microseconds a call for each variant, as p20, p50 and p80 over the rounds."""
    calls = max(copies, 10)
    pool = torch.cuda.graph_pool_handle()
    replays = {name: replay_of(call, copies, calls, pool) for name, call in variants.items()}
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 3):
        for name, replay in replays.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            replay()
            end.record()
            end.synchronize()
            if turn >= 3:  # the first turns warm up
                samples[name].append(start.elapsed_time(end) * 1000 / calls)
    return {name: percentiles(values) for name, values in samples.items()}
