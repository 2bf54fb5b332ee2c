"""Which formats stand behind a precision."""

import pytest
import torch

from fastcam.network import precision
from fastcam.network.precision import resolve

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("name", "model", "device", "formats"),
    [
        (None, F32, CPU, (F32, F32, F32, F32, False)),
        (None, F64, CPU, (F64, F64, F64, F64, False)),
        ("tf32", F32, CUDA, (F32, F32, F32, F32, True)),
        ("bfloat16", F32, CUDA, (BF16, BF16, BF16, BF16, False)),
        ("float16", F32, CUDA, (F16, BF16, F16, BF16, False)),
        (None, F16, CUDA, (F16, BF16, F16, BF16, False)),
        # Without 16-bit instructions, values are rounded to 16 bits and multiplied in float32.
        ("bfloat16", F32, CPU, (BF16, BF16, F32, F32, False)),
        ("float16", F64, CPU, (F16, BF16, F32, F32, False)),
    ],
)
def test_formats(
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    model: torch.dtype,
    device: torch.device,
    formats: tuple[object, ...],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    precision._has_fast_arithmetic.cache_clear()
    p = resolve(name, model, device)
    precision._has_fast_arithmetic.cache_clear()
    assert (p.forward, p.signal, p.compute, p.compute_signal, p.tf32) == formats
    assert p.memory_format is (torch.contiguous_format if p.forward is F64 else torch.channels_last)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision: 'half' given, .*'float16'"):
        resolve("half", F32, CPU)
