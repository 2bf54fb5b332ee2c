"""A kernel launch as a value: what to run, with what, on how many programs.

A launcher first plans (pure functions of shapes, strides and dtypes, so that tensors on the "meta" device
will do) and then runs the plan. The ahead-of-time gate compiles the same plans without running them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Launch:
    """One launch of one kernel on `programs` programs.

    num_stages: how many steps of its loops' loads the compiler may have under way at once.
    """

    kernel: Any
    programs: int
    arguments: Mapping[str, Tensor | int]
    constants: Mapping[str, int | float | bool | str]
    num_warps: int
    num_stages: int = 3
    # Set explicitly: triton's default changes between versions, and with it the last bit of every sum.
    options: Mapping[str, bool] = field(default_factory=lambda: {"enable_fp_fusion": True})

    def run(self) -> None:
        """Put the kernel on the current stream of the tensors' device."""
        device = next(value.device for value in self.arguments.values() if isinstance(value, Tensor))
        if self.programs == 0:
            return
        keywords = {**self.arguments, **self.constants, **self.options, "num_warps": self.num_warps}
        keywords["num_stages"] = self.num_stages
        if device.type == "cuda":
            with torch.cuda.device(device):
                self.kernel[(self.programs,)](**keywords)
        else:
            self.kernel[(self.programs,)](**keywords)


def require_runnable(device: torch.device, kernel: Any) -> None:
    """Refuse a device on which `kernel` cannot run.

    Raises:
        ValueError: the device is neither CUDA nor a CPU on which triton's interpreter runs the kernels.
    """
    if device.type == "cuda":
        return
    if device.type != "cpu":
        raise ValueError(f"the Triton kernels run on CUDA devices; the tensors are on {device}")
    if isinstance(kernel, JITFunction):
        raise ValueError(
            "the Triton kernels run on CUDA devices; the tensors are on the CPU. To run a kernel there in"
            " triton's interpreter, set TRITON_INTERPRET=1 before fastcam_kernels is imported"
        )


def alignment(*numbers: int) -> int:
    """Return the largest power of two up to 16 that divides all numbers: what loads of many bits must know."""
    return math.gcd(16, *numbers)


def processors(device: torch.device) -> int:
    """Return how many multiprocessors a launch should try to fill: an H100's number without a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 132
