"""Which implementation serves an operator on CUDA: its Triton kernel or its PyTorch reference.

On every other device the reference serves, whatever is chosen here. The choice is a context variable: it
holds for the thread or task that makes it, nests, and is part of every cache key.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

BACKENDS = ("auto", "triton", "reference")
# The kernels are written for, and compiled ahead of time from, Ampere on.
LOWEST_CAPABILITY = (8, 0)

_chosen: ContextVar[str] = ContextVar("fastcam_backend", default="auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the implementation of fastcam's operators inside the block.

    Args:
        name: "auto", the kernel where it can run and the reference elsewhere; "reference", the reference
            everywhere; "triton", as "auto", but an error on a CUDA device on which the kernels cannot run.

    Raises:
        ValueError: any other name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} does not exist; valid names: {', '.join(map(repr, BACKENDS))}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def current_backend() -> str:
    """Return the chosen backend: "auto", "triton" or "reference"."""
    return _chosen.get()


@cache
def triton_installed() -> bool:
    """Say whether the triton package can be imported."""
    return importlib.util.find_spec("triton") is not None


def kernels_serve(device: torch.device) -> bool:
    """Say whether the Triton kernels serve tensors on this CUDA device, as the chosen backend has it.

    Raises:
        RuntimeError: the backend is "triton" and the kernels cannot run; the message says why.
    """
    backend = current_backend()
    if backend == "reference":
        return False
    obstacle = _obstacle(device)
    if obstacle is not None and backend == "triton":
        raise RuntimeError(f'use_backend("triton"): {obstacle}; use "auto" or "reference"')
    return obstacle is None


@cache
def _obstacle(device: torch.device) -> str | None:
    if not triton_installed():
        return "the package triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < LOWEST_CAPABILITY:
        return f"{device} has compute capability {capability}, the kernels need {LOWEST_CAPABILITY} or newer"
    return None
