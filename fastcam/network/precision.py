"""Precisions: what a forward pass, a relevance signal and a convolution are computed in."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch

PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """Number formats of one run.

    forward: of activations. signal: of relevance on its way back; bfloat16 for both 16-bit precisions, since
        relevance spans more orders of magnitude than float16 holds. compute: of a convolution's operands, forward;
        float32 where the processor has no 16-bit arithmetic (the values are rounded to 16 bits all the same).
    tf32: whether CUDA may multiply float32 numbers as TF32.
    """

    forward: torch.dtype
    signal: torch.dtype
    compute: torch.dtype
    compute_signal: torch.dtype
    tf32: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of activations: channels-last, but for float64, which has no fast path in it."""
        return torch.contiguous_format if self.forward == torch.float64 else torch.channels_last


def resolve(precision: str | None, model_dtype: torch.dtype, device: torch.device) -> Precision:
    """Return the formats behind a user's `precision`; None stands for the model's own dtype."""
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(
            f"precision: {precision!r} given, None (the model's dtype) or one of "
            f"{', '.join(map(repr, PRECISIONS))} is valid"
        )
    forward = model_dtype if precision is None else PRECISIONS[precision]
    half = forward in (torch.float16, torch.bfloat16)
    signal = torch.bfloat16 if half else forward
    return Precision(
        forward=forward,
        signal=signal,
        compute=torch.float32 if half and not _has_fast_arithmetic(forward, device.type) else forward,
        compute_signal=torch.float32 if half and not _has_fast_arithmetic(signal, device.type) else signal,
        tf32=precision == "tf32",
    )


@cache
def _has_fast_arithmetic(dtype: torch.dtype, device: str) -> bool:
    """Whether a device multiplies 16-bit numbers itself.

    A processor without such instructions takes some ten times longer than in float32.
    """
    if device != "cpu":
        return True
    if dtype != torch.bfloat16:
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # older than torch 2.13 or so
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextlib.contextmanager
def matrix_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Allow TF32 on CUDA or forbid it, for the duration of a run."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=torch.backends.cudnn.benchmark,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=precision.tf32,
    ):
        matmul.allow_tf32 = precision.tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before
