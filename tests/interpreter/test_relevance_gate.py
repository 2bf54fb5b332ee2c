"""The elementwise kernels around a library's convolutions, in the interpreter, against their formulas."""

import pytest
import torch
from torch import Tensor

from fastcam.ops.activation import activate
from fastcam.ops.gate import gate
from fastcam_kernels import relevance_gate as kernel

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
SHARE = 1e-6


def sums(*shape: int) -> tuple[Tensor, Tensor]:
    """c of either sign; Z with zeros and residues of either sign, an image of residues alone included."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(shape, generator=generator)
    z = torch.rand(shape, generator=generator) + 0.1
    z[:, 0, 0, :2] = torch.tensor([1e-9, -1e-9])
    z[:, -1, -1] = 0
    z[-1] *= 1e-12
    return c, z


def stack(c: Tensor, z: Tensor, groups: int) -> Tensor:
    parts = [t.unflatten(1, (groups, -1)) for t in (c, z)]
    return torch.cat(parts, dim=2).flatten(1, 2)


def expected(c: Tensor, z: Tensor, bias: Tensor | None, activation: str, reciprocal: bool) -> tuple[Tensor, Tensor]:
    y = activate(c.clone() if bias is None else c + bias.view(-1, 1, 1), activation)
    return y, gate(y, z.clone(), reciprocal=reciprocal, dtype=torch.float32)


@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
@pytest.mark.parametrize("activation", kernel.ACTIVATIONS)
@pytest.mark.parametrize(("channels", "groups"), [(6, None), (6, 1), (6, 3), (24, 3)], ids=str)
def test_equals_the_formula(channels: int, groups: int | None, activation: str, reciprocal: bool) -> None:
    c, z = sums(3, channels, 3, 5)
    c *= 5
    bias = torch.randn(channels)
    operands = (c, z) if groups is None else (stack(c, z, groups), None)
    actual = kernel.gate_sums(*operands, bias, None, groups or 1, activation, reciprocal, zero_share=SHARE)
    torch.testing.assert_close(actual, expected(c, z, bias, activation, reciprocal), rtol=1e-5, atol=1e-6)
    assert (actual[1][:, 0, 0, :2] == 0).all()


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_residual(activation: str) -> None:
    c, z = sums(2, 5, 2, 3)
    residual = torch.randn(2, 5, 2, 3)
    residual[:, 1] = -c[:, 1]
    y, q = kernel.gate_sums(stack(c, z, 1), None, None, residual, 1, activation, False, zero_share=SHARE)
    a = activate(c + residual, activation)
    torch.testing.assert_close(y, a)
    torch.testing.assert_close(q, gate(torch.where(a == 0, 0.0, c), z, reciprocal=False, dtype=torch.float32))
    assert (q[:, 1] == 0).all()


def test_several_blocks_of_rows_and_channels() -> None:
    # 2,048 elements a block: rows of 300 take two blocks each, 45 rows several.
    c, z = sums(3, 300, 3, 5)
    bias = torch.randn(300)
    actual = kernel.gate_sums(stack(c, z, 1), None, bias, None, 1, "relu", False, zero_share=SHARE)
    torch.testing.assert_close(actual, expected(c, z, bias, "relu", False), rtol=1e-5, atol=1e-6)


def test_float16_gives_bfloat16_gates() -> None:
    c, z = (t.half() for t in sums(2, 8, 2, 2))
    y, q = kernel.gate_sums(c, z, None, None, 1, "relu", False, zero_share=SHARE)
    assert (y.dtype, q.dtype) == (torch.float16, torch.bfloat16)
    # The interpreter cuts bfloat16 off where a device rounds.
    torch.testing.assert_close(
        q.float(), gate(c.clamp(min=0), z, reciprocal=False, dtype=torch.float32), rtol=2**-7, atol=0
    )


@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 3), (6, 6), (300, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_split_signs(channels: int, groups: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, channels, 3, 4)
    x[0, 0] = 0
    x[1, 1, 0, 0] = torch.nan
    halves = kernel.split_signs(x, groups, dtype)
    assert halves.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        halves, stack(x.clamp(min=0), x.clamp(max=0), groups).to(dtype), rtol=0, atol=0, equal_nan=True
    )


def test_no_images() -> None:
    y, q = kernel.gate_sums(torch.empty(0, 8, 3, 3), None, None, None, 1, "relu", False, zero_share=SHARE)
    assert y.shape == q.shape == (0, 4, 3, 3)
    assert kernel.split_signs(torch.empty(0, 4, 3, 3), 2, torch.float32).shape == (0, 8, 3, 3)


C = torch.zeros(2, 6, 3, 3)
BAD = {
    "dtype": ((C.double(), None, None, None, 1, "relu", False), TypeError, "c is torch.float64"),
    "z-dtype": ((C, C.long(), None, None, 1, "relu", False), TypeError, "z is torch.int64"),
    "odd": ((C[:, :5], None, None, None, 1, "relu", False), ValueError, "K a multiple of 2"),
    "groups": ((C, None, None, None, 2, "relu", False), ValueError, "K a multiple of 4"),
    "z-shape": ((C, C[:1], None, None, 1, "relu", False), ValueError, r"z has shape \(1, 6, 3, 3\)"),
    "bias": ((C, None, torch.zeros(6), None, 1, "relu", False), ValueError, r"bias has shape \(6,\); \(3,\)"),
    "activation": ((C, C, None, None, 1, "gelu", False), ValueError, "activation: 'gelu'"),
    "device": ((C.to("meta"), None, None, None, 1, "relu", False), ValueError, "run on CUDA devices"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.gate_sums(*arguments, zero_share=SHARE)


def test_bad_input_to_split_is_named() -> None:
    with pytest.raises(ValueError, match="C a multiple of groups=4"):
        kernel.split_signs(C, 4, torch.float32)
    with pytest.raises(TypeError, match=r"dtype is torch\.float64"):
        kernel.split_signs(C, 1, torch.float64)
