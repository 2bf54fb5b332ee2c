"""Convolutions by oneDNN, with what follows them and from blocks made once, against PyTorch's own steps."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops import convolution as module
from fastcam.ops import packing
from fastcam.ops.activation import activate
from fastcam.ops.convolution import convolution, transposed_convolution
from fastcam.ops.packing import MOST_SIZES, is_kept, keep

GEOMETRIES = {
    # stride, padding, dilation, groups, kernel
    "1x1": ([1, 1], [0, 0], [1, 1], 1, (1, 1)),
    "3x3-stride-2": ([2, 2], [1, 1], [1, 1], 1, (3, 3)),
    "depthwise-dilated": ([1, 1], [2, 2], [2, 2], 8, (3, 3)),
    "uneven": ([1, 2], [0, 1], [1, 1], 2, (1, 3)),
}
# bfloat16 rounds to 8 bits.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 2**-8}


def served(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in this dtype here: not every processor has bfloat16 arithmetic."""
    return dtype != torch.float64 and module._onednn_works(dtype)


def draw(geometry: tuple, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stride, padding, dilation, groups, kernel = geometry
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 9, 7, generator=generator, dtype=dtype).contiguous(memory_format=layout)
    weight = 3 * torch.randn(8, 8 // groups, *kernel, generator=generator, dtype=dtype)
    bias = torch.randn(8, generator=generator, dtype=dtype)
    shape = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape
    residual = torch.randn(shape, generator=generator, dtype=dtype).contiguous(memory_format=layout)
    return x, weight, bias, residual


@pytest.mark.parametrize("kept", [False, True], ids=["plain-weights", "kept-weights"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu", "hardswish"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_equals_the_single_steps(
    kept: bool,
    geometry: tuple,
    activation: str,
    with_residual: bool,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> None:
    x, weight, bias, residual = draw(geometry, dtype, layout)
    stride, padding, dilation, groups, _ = geometry
    before = [t.clone() for t in (x, weight, bias, residual)]
    if kept:
        keep(weight)
    y = convolution(x, weight, bias, residual if with_residual else None, *geometry[:4], activation)
    wide = torch.promote_types(dtype, torch.float32)
    single = F.conv2d(x.to(wide), weight.to(wide), bias.to(wide), stride, padding, dilation, groups)
    expected = activate(single + residual if with_residual else single.clone(), activation)
    fused = kept and served(dtype)
    if fused and activation in ("none", "relu", "relu6"):
        bound = 1 + expected.abs()  # one rounding
    else:
        bound = 1 + 4 * (single.abs() + residual.abs())  # one for each step, and hardswish is up to 1.5 times as steep
    assert ((y - expected).abs() <= ROUNDING[dtype] * bound).all()
    assert y.is_contiguous(memory_format=torch.channels_last if fused else layout)
    for tensor, copy in zip((x, weight, bias, residual), before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_the_result_takes_the_memory_of_a_residual_that_may_be_overwritten(
    geometry: tuple, activation: str, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x, weight, bias, residual = draw(geometry, dtype, layout)
    expected = convolution(x, keep(weight), bias, residual, *geometry[:4], activation)
    y = convolution(x, weight, bias, residual, *geometry[:4], activation, overwrite=True)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    assert (y.data_ptr() == residual.data_ptr()) == (layout == torch.channels_last or not served(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_transposed_equals_pytorch(geometry: tuple, layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, weight, _, signal = draw(geometry, dtype, layout)
    stride, padding, dilation, groups, kernel = geometry
    sides = zip(x.shape[2:], signal.shape[2:], stride, padding, dilation, kernel, strict=True)
    extra = [full - ((small - 1) * s - 2 * p + d * (k - 1) + 1) for full, small, s, p, d, k in sides]
    expected = torch.nn.grad.conv2d_input(
        x.shape, weight.float(), signal.float(), stride, padding, dilation, groups
    ).to(dtype)
    close = {"rtol": 2 * ROUNDING[dtype], "atol": ROUNDING[dtype]}
    plain = transposed_convolution(signal, weight, stride, padding, extra, dilation, groups)
    torch.testing.assert_close(plain, expected, **close)
    for _ in range(2):
        y = transposed_convolution(signal, keep(weight), stride, padding, extra, dilation, groups)
        torch.testing.assert_close(y, expected, **close)


def test_what_onednn_serves() -> None:
    x, weight, _, residual = draw(GEOMETRIES["3x3-stride-2"], torch.float32, torch.channels_last)
    assert not module._onednn_serves(x, weight, None)
    keep(weight)
    assert module._onednn_serves(x, weight, None)
    assert module._onednn_serves(x, weight, residual)
    assert not module._onednn_serves(x, weight.clone(), None)
    assert not module._onednn_serves(x.double(), weight, None)
    assert not module._onednn_serves(x, weight, residual.double())
    assert not module._onednn_serves(x[:0], weight, None)
    assert not module._onednn_serves(x.clone().requires_grad_(), weight, None)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not module._onednn_serves(x, weight, None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_only_float32_and_bfloat16_are_kept(dtype: torch.dtype) -> None:
    assert not is_kept(keep(torch.ones(1, 1, 1, 1, dtype=dtype)))


@pytest.mark.parametrize("direction", ["forward", "transposed"])
def test_blocks_are_made_once_for_each_size_and_die_with_their_weight(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = keep(torch.randn(8, 8, 3, 3))
    made: list[torch.Size] = []

    def count(w: Tensor, direction: str, key: tuple, make: Callable[[], Tensor]) -> Tensor:
        def counted() -> Tensor:
            made.append(key[0])
            return make()

        return once(w, direction, key, counted)

    once, geometry = packing._once, ([1, 1], [1, 1], [1, 1])
    monkeypatch.setattr(packing, "_once", count)
    sizes = [torch.Size((1, 8, side, side)) for side in range(4, 4 + MOST_SIZES + 1)]

    def run(weight: Tensor, sizes: list[torch.Size]) -> None:
        for size in sizes:
            x = torch.randn(size)
            if direction == "forward":
                y, expected = convolution(x, weight, None, None, *geometry, 1, "none"), F.conv2d(x, weight, None, 1, 1)
            else:
                y = transposed_convolution(x, weight, *geometry[:2], [0, 0], [1, 1], 1)
                expected = F.conv_transpose2d(x, weight, None, 1, 1)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)

    run(weight, [*sizes[:MOST_SIZES], *sizes[:MOST_SIZES]])
    assert made == sizes[:MOST_SIZES]
    # One size more takes the oldest one's place.
    run(weight, [sizes[-1], sizes[1], sizes[0]])
    assert made == [*sizes, sizes[0]]
    assert len(packing._kept[weight][direction]) == MOST_SIZES
    left = len(packing._kept)
    del weight
    gc.collect()
    assert len(packing._kept) == left - 1


def test_gradients_pass() -> None:
    x, weight, bias, residual = draw(GEOMETRIES["3x3-stride-2"], torch.float32, torch.channels_last)
    keep(weight)
    x.requires_grad_()
    residual.requires_grad_()
    y = convolution(x, weight, bias, residual, *GEOMETRIES["3x3-stride-2"][:4], "relu")
    gx, gr = torch.autograd.grad(y.sum(), [x, residual])
    assert gx.abs().sum() > 0
    torch.testing.assert_close(gr, (y > 0).float())


def test_a_build_without_onednn_takes_the_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._onednn_works(torch.float32)

    class Missing:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    module._onednn_works.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Missing())
    try:
        x, weight, bias, residual = draw(GEOMETRIES["1x1"], torch.float32, torch.channels_last)
        y = convolution(x, keep(weight), bias, residual, *GEOMETRIES["1x1"][:4], "relu")
        torch.testing.assert_close(y, (F.conv2d(x, weight, bias) + residual).relu())
        assert not module._onednn_works(torch.float32)
    finally:
        module._onednn_works.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("overwrite", [False, True], ids=["apart", "overwritten"])
@pytest.mark.parametrize(
    ("channels", "side", "kernel"), [(8, 1, 1), (8, 3, 3), (1, 5, 3)], ids=["1x1", "one-position", "one-channel"]
)
def test_a_residual_whose_layout_is_nobodys_is_added(
    channels: int, side: int, kernel: int, overwrite: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, side, side, generator=generator).to(dtype)
    weight = torch.randn(channels, 4, kernel, kernel, generator=generator).to(dtype)
    single = F.conv2d(x.float(), weight.float())
    residual = torch.randn(single.shape, generator=generator).to(dtype)
    expected = F.relu(single + residual.float())
    geometry = ([1, 1], [0, 0], [1, 1], 1)
    y = convolution(x, keep(weight), None, residual, *geometry, "relu", overwrite=overwrite)
    size = 1 + 2 * (single.abs() + residual.abs())
    assert ((y - expected).abs() <= ROUNDING[dtype] * size).all()
