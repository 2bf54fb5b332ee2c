"""What it costs on a CPU that freed memory goes back to the system.

    make bench        # pytest bench/test_memory_cpu.py --benchmark-only, writes bench/results/memory.json

glibc gives blocks above 32 MiB back, and the free end of its heap, and the system hands them out again page by page,
unless the environment says that the process keeps what it frees. Each variant runs in processes of its own, in turn.
"""

import os
import subprocess
import sys

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.interleave import summary

KEPT = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0"}
ROUNDS = 3
PROGRAM = """
import statistics, sys, time, torch, torchvision, fastcam
from fastcam.network.cache import network_for

name, batch, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(2)
torch.manual_seed(0)
model = (fastcam.models if name == "efficientnet_lite0" else torchvision.models).__dict__[name]().eval()
images = torch.randn(batch, 3, 224, 224)
network = network_for(model, images)
stages = fastcam.Explainer(model, method="relevance_cam", layer=["layer1", "layer2", "layer3", "layer4"])

def run():
    if what == "relevance_cam layer1-4, one pass":
        return stages(images)
    if what == "own forward":
        return [network.forward(part) for part in images.split(network.portion(images.device))]
    with torch.inference_mode():
        return model(images)

seconds = []
for _ in range(9):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[2:]))
"""


def seconds_of(model: str, batch: int, what: str, environment: dict[str, str]) -> float:
    """The median of seven calls in a fresh process."""
    command = [sys.executable, "-c", PROGRAM, model, str(batch), what]
    whole = {**os.environ, **environment}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=whole).stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("model", "batch", "kinds"),
    [
        ("efficientnet_lite0", 32, ("own forward", "stock forward")),
        ("resnet50", 8, ("own forward", "relevance_cam layer1-4, one pass", "stock forward")),
    ],
)
def test_kept_memory(benchmark: BenchmarkFixture, model: str, batch: int, kinds: tuple[str, ...]) -> None:
    variants = {
        f"{kind}{', freed memory kept' if environment else ''}": (kind, environment)
        for environment in ({}, KEPT)
        for kind in kinds
    }

    def measure() -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(ROUNDS):
            for name, (kind, environment) in variants.items():
                seconds[name].append(seconds_of(model, batch, kind, environment))
        return seconds

    seconds = benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(
        model=model,
        batch=batch,
        precision="float32",
        yardstick=kinds[0],
        threads=torch.get_num_threads(),
        seconds={name: summary(values, seconds[kinds[0]]) for name, values in seconds.items()},
    )
