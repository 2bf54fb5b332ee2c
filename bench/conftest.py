"""What is written down with every figure, and into which file."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.machine import cpu_machine

PACKAGES = ("torch", "torchvision", "triton", "grad-cam", "torchcam", "captum", "zennit", "numpy")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Two threads for everybody, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(cpu_machine(PACKAGES))


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Keep what a reader needs: per comparison its setting and its variants."""
    output_json["benchmarks"] = [{"name": row["name"], **row["extra_info"]} for row in output_json["benchmarks"]]
    output_json["commit_info"] = {key: output_json["commit_info"].get(key) for key in ("id", "dirty", "time")}
