"""One comparison: variants of one job, timed turn by turn, kept with the benchmark."""

from collections.abc import Callable
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.interleave import interleave

Variants = dict[str, Callable[[], Any]]


def compare(
    benchmark: BenchmarkFixture, variants: Variants, *, yardstick: str, rounds: int, warmups: int = 1, **setting: Any
) -> None:
    """Time variants turn by turn and keep the outcome with the benchmark."""
    options = {"yardstick": yardstick, "rounds": rounds, "warmups": warmups}
    result = benchmark.pedantic(interleave, (variants,), options, rounds=1)
    benchmark.extra_info.update(**setting, yardstick=yardstick, threads=torch.get_num_threads(), seconds=result)


def fastest_batch(module: nn.Module, image: Tensor, *, rounds: int = 5) -> int:
    """The batch size at which a model takes the least time an image."""

    def forward(images: Tensor) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return module(images)

        return run

    sizes = {str(size): size for size in (4, 8, 16, 32)}
    runs = {name: forward(image.repeat(size, 1, 1, 1)) for name, size in sizes.items()}
    timed = interleave(runs, yardstick="4", rounds=rounds)
    return min(sizes.values(), key=lambda size: timed[str(size)]["median"] / size)
