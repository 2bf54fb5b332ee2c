"""A convolution with its bias, residual and activation, fused where oneDNN can, against PyTorch's own steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops import convolution as module
from fastcam.ops.activation import activate
from fastcam.ops.convolution import convolution, fused_convolution

GEOMETRIES = {
    # stride, padding, dilation, groups, kernel
    "1x1": ([1, 1], [0, 0], [1, 1], 1, (1, 1)),
    "3x3-stride-2": ([2, 2], [1, 1], [1, 1], 1, (3, 3)),
    "depthwise-dilated": ([1, 1], [2, 2], [2, 2], 8, (3, 3)),
    "uneven": ([1, 2], [0, 1], [1, 1], 2, (1, 3)),
}


def draw(geometry: tuple, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stride, padding, dilation, groups, kernel = geometry
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 9, 7, generator=generator, dtype=dtype).contiguous(memory_format=layout)
    weight = 3 * torch.randn(8, 8 // groups, *kernel, generator=generator, dtype=dtype)
    bias = torch.randn(8, generator=generator, dtype=dtype)
    shape = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape
    residual = torch.randn(shape, generator=generator, dtype=dtype).contiguous(memory_format=layout)
    return x, weight, bias, residual


@pytest.mark.parametrize("run", [convolution, fused_convolution])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu", "hardswish"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_equals_the_single_steps(
    run: Callable[..., Tensor],
    geometry: tuple,
    activation: str,
    with_residual: bool,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> None:
    x, weight, bias, residual = draw(geometry, dtype, layout)
    stride, padding, dilation, groups, _ = geometry
    before = [t.clone() for t in (x, weight, bias, residual)]
    y = run(x, weight, bias, residual if with_residual else None, *geometry[:4], activation)
    single = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    expected = activate(single + residual if with_residual else single, activation)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert y.is_contiguous(memory_format=layout)
    for tensor, copy in zip((x, weight, bias, residual), before, strict=True):
        assert torch.equal(tensor, copy)


def test_what_fuses() -> None:
    x, weight, _, residual = draw(GEOMETRIES["3x3-stride-2"], torch.float32, torch.channels_last)
    assert module._fuses(x, weight, None, "relu6")
    assert module._fuses(x, weight, residual, "relu")
    assert not module._fuses(x, weight, residual, "relu6")
    assert not module._fuses(x, weight, None, "silu")
    assert not module._fuses(x.double(), weight.double(), None, "relu")
    assert not module._fuses(x[:0], weight, None, "relu")
    assert not module._fuses(x.clone().requires_grad_(), weight, None, "relu")
    with torch.backends.mkldnn.flags(enabled=False):
        assert not module._fuses(x, weight, None, "relu")


def test_gradients_pass() -> None:
    x, weight, bias, residual = draw(GEOMETRIES["3x3-stride-2"], torch.float32, torch.channels_last)
    x.requires_grad_()
    residual.requires_grad_()
    y = fused_convolution(x, weight, bias, residual, *GEOMETRIES["3x3-stride-2"][:4], "relu")
    gx, gr = torch.autograd.grad(y.sum(), [x, residual])
    assert gx.abs().sum() > 0
    torch.testing.assert_close(gr, (y > 0).float())


def test_a_build_without_fusion_takes_the_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._onednn_fuses()

    class Missing:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    module._onednn_fuses.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Missing())
    try:
        x, weight, bias, residual = draw(GEOMETRIES["1x1"], torch.float32, torch.channels_last)
        y = fused_convolution(x, weight, bias, residual, *GEOMETRIES["1x1"][:4], "relu")
        torch.testing.assert_close(y, (F.conv2d(x, weight, bias) + residual).relu())
        assert not module._onednn_fuses()
    finally:
        module._onednn_fuses.cache_clear()
