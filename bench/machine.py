"""What figures of a CPU were measured on, and with which packages."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch


def cpu_machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor and the versions of packages."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": capabilities.get("cpu_name", platform.processor()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_arithmetic": bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
