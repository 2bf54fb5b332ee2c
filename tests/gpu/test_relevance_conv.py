"""The compiled kernels of the z+ convolution on a device, both algorithms, against the reference in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops import reference, relevance_conv
from fastcam.ops.gate import signal_dtype, zero_share
from fastcam_kernels import relevance_conv as kernel
from fastcam_kernels.relevance_conv import Geometry
from fastcam_kernels.tuning import Choice

ONE = ((1, 1), (0, 0), (1, 1), 1)
SHAPES = {
    # batch, C, K, size, kernel, (stride, padding, dilation, groups)
    "1x1": (5, 256, 64, (28, 28), (1, 1), ONE),
    "1x1-small-images": (33, 512, 128, (7, 7), (1, 1), ONE),
    "1x1-stride-2": (4, 64, 128, (28, 28), (1, 1), ((2, 2), (0, 0), (1, 1), 1)),
    "1x1-odd": (3, 37, 21, (9, 5), (1, 1), ONE),
    "1x1-24": (4, 24, 144, (28, 28), (1, 1), ONE),
    "3x3": (4, 64, 96, (14, 14), (3, 3), ((1, 1), (1, 1), (1, 1), 1)),
    "3x3-stride-2": (3, 128, 128, (15, 15), (3, 3), ((2, 2), (1, 1), (1, 1), 1)),
    "3x3-dilated": (2, 40, 24, (12, 13), (3, 3), ((1, 1), (2, 2), (2, 2), 1)),
    "1x7": (2, 48, 48, (17, 17), (1, 7), ((1, 1), (0, 3), (1, 1), 1)),
    "stem": (2, 3, 64, (64, 64), (7, 7), ((2, 2), (3, 3), (1, 1), 1)),
    "groups-of-4": (2, 128, 128, (14, 14), (3, 3), ((1, 1), (1, 1), (1, 1), 32)),
    "groups-of-5": (2, 15, 27, (9, 9), (2, 2), ((1, 1), (0, 0), (1, 1), 3)),
    "wide-groups": (2, 160, 96, (9, 9), (3, 3), ((1, 1), (1, 1), (1, 1), 2)),
    "depthwise": (3, 144, 144, (28, 28), (3, 3), ((2, 2), (1, 1), (1, 1), 144)),
    "depthwise-5x5": (3, 40, 40, (14, 14), (5, 5), ((1, 1), (2, 2), (1, 1), 40)),
    "depthwise-multiplier": (2, 21, 63, (9, 9), (3, 3), ((1, 1), (1, 1), (1, 1), 21)),
}
LAYOUTS = {
    "nhwc": lambda x: x.contiguous(memory_format=torch.channels_last),
    "nchw": Tensor.contiguous,
    "slice": lambda x: torch.cat([x, x * torch.nan], 1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]],
    "misaligned": lambda x: (
        torch.cat([x.new_zeros(1), x.permute(0, 2, 3, 1).flatten()])[1:]
        .view(x.shape[0], *x.shape[2:], x.shape[1])
        .permute(0, 3, 1, 2)
    ),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EVERY_SHAPE = pytest.mark.parametrize("name", SHAPES)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
ALGORITHMS = pytest.mark.parametrize("algorithm", ["triton", "composition"])


@pytest.fixture(autouse=True)
def full_float32() -> object:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def problem(name: str, dtype: torch.dtype, signed: bool) -> tuple[list[Tensor | None], Geometry]:
    """x, weight, bias, W+, W-."""
    batch, channels, outputs, size, sides, geometry = SHAPES[name]
    generator = torch.Generator(device="cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda", "dtype": torch.float64}
    x = torch.randn(batch, channels, *size, **options)
    x = LAYOUTS["nhwc"](x if signed else x.clamp(min=0)).to(dtype)
    weight = LAYOUTS["nhwc"](torch.randn(outputs, channels // geometry[3], *sides, **options))
    own = weight.to(signal_dtype(dtype))
    bias = torch.randn(outputs, **options).to(dtype)
    return [x, weight.to(dtype), bias, own.clamp(min=0), own.clamp(max=0) if signed else None], Geometry(*geometry)


def arguments(g: Geometry) -> tuple[list[int], list[int], list[int], int]:
    return list(g.stride), list(g.padding), list(g.dilation), g.groups


def choice_of(algorithm: str, operands: list[Tensor | None], geometry: Geometry) -> Choice:
    layer = kernel.describe(operands[0], operands[1], geometry, tf32=False, signed=operands[4] is not None)
    return replace(kernel.default_choice(layer, 132), algorithm=algorithm)


def run(
    operands: list[Tensor | None],
    geometry: Geometry,
    choice: Choice | None,
    residual: Tensor | None = None,
    activation: str = "relu",
    reciprocal: bool = False,
) -> tuple[Tensor, Tensor]:
    share = zero_share(operands[0].dtype)
    return kernel.relevance_conv(*operands, residual, geometry, activation, reciprocal, zero_share=share, choice=choice)


def assert_near(error: Tensor, unit: float) -> None:
    """Two tolerances, in units of rounding: the largest error and the root mean square."""
    assert not error.isnan().any()
    assert error.abs().max() <= 8 * unit
    assert error.square().mean().sqrt() <= 2 * unit


def check(
    operands: list[Tensor | None],
    geometry: Geometry,
    actual: tuple[Tensor, Tensor],
    residual: Tensor | None = None,
    activation: str = "relu",
    reciprocal: bool = False,
) -> None:
    """Compare y, and the gate by what it makes of Z: Q Z is the numerator, wherever Z is no residue."""
    wide = [None if t is None else t.double() for t in (*operands, residual)]
    y64, q64 = reference.relevance_conv(*wide, *arguments(geometry), activation, reciprocal)
    _, one_over_z = reference.relevance_conv(*wide[:5], None, *arguments(geometry), "none", True)
    y, q = actual
    dtype = operands[0].dtype
    assert (y.dtype, q.dtype) == (dtype, signal_dtype(dtype))
    terms = operands[1][0].numel()
    # Roundings of y, and of a sum in float32 (the composition's convolutions round to 16 bits).
    unit = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps * terms**0.5)
    assert_near((y.double() - y64) / y64.abs().max(), unit)

    z = torch.where(one_over_z > 0, 1 / one_over_z, 0.0)
    largest = z.amax(dim=(1, 2, 3), keepdim=True)
    floor = zero_share(dtype) * largest
    assert (q[z <= 0.5 * floor] == 0).all()
    counts = z > 1e-3 * largest  # smaller sums carry the rounding of x and W
    unit = max(torch.finfo(q.dtype).eps, torch.finfo(torch.float32).eps * terms**0.5)
    scale = 1.0 if reciprocal else y64.abs().max()
    assert_near(((q.double() - q64) * z / scale)[counts], 2 * unit)
    assert counts.any()


@ALGORITHMS
@SIGNS
@EVERY_DTYPE
@EVERY_SHAPE
def test_against_float64(name: str, dtype: torch.dtype, signed: bool, algorithm: str) -> None:
    operands, geometry = problem(name, dtype, signed)
    check(operands, geometry, run(operands, geometry, choice_of(algorithm, operands, geometry)))


@EVERY_DTYPE
@EVERY_SHAPE
def test_the_operator(name: str, dtype: torch.dtype) -> None:
    operands, geometry = problem(name, dtype, signed=False)
    check(operands, geometry, relevance_conv(*operands, None, *arguments(geometry), "relu", False))


@ALGORITHMS
@EVERY_DTYPE
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["1x1", "1x1-odd", "3x3", "stem", "groups-of-4", "depthwise"])
def test_layouts(name: str, layout: str, dtype: torch.dtype, algorithm: str) -> None:
    operands, geometry = problem(name, dtype, signed=False)
    operands[0] = LAYOUTS[layout](operands[0])
    check(operands, geometry, run(operands, geometry, choice_of(algorithm, operands, geometry)))


@ALGORITHMS
@EVERY_DTYPE
@pytest.mark.parametrize("activation", ["none", "relu6", "silu", "hardswish"])
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
def test_activations(activation: str, reciprocal: bool, dtype: torch.dtype, algorithm: str) -> None:
    for name in ("1x1-24", "depthwise"):
        operands, geometry = problem(name, dtype, signed=True)
        actual = run(operands, geometry, choice_of(algorithm, operands, geometry), None, activation, reciprocal)
        check(operands, geometry, actual, None, activation, reciprocal)


@ALGORITHMS
@EVERY_DTYPE
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_residual(activation: str, dtype: torch.dtype, algorithm: str) -> None:
    for name in ("1x1", "3x3-stride-2", "1x1-odd"):
        operands, geometry = problem(name, dtype, signed=False)
        residual = torch.randn_like(F.conv2d(*operands[:2], None, *arguments(geometry)))
        actual = run(operands, geometry, choice_of(algorithm, operands, geometry), residual, activation)
        check(operands, geometry, actual, residual, activation)


BLOCKS = {
    "1x1": [(64, 64, 64, 4), (128, 64, 64, 8), (128, 64, 32, 8), (64, 32, 16, 4), (32, 32, 32, 4)],
    "3x3": [(64, 64, 64, 4), (128, 64, 64, 8), (64, 64, 32, 4), (64, 32, 16, 4)],
    "3x3-stride-2": [(64, 64, 64, 4), (128, 64, 64, 8), (128, 64, 32, 8)],
    "stem": [(64, 64, 16, 4), (64, 64, 32, 4), (128, 64, 32, 8)],
    "groups-of-4": [(64, 32, 32, 4), (128, 32, 32, 4), (64, 64, 64, 4)],
    "depthwise": [(32, 64, 1, 4), (16, 32, 1, 4), (64, 64, 1, 8)],
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "blocks"), [(name, one) for name, many in BLOCKS.items() for one in many], ids=str)
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_block_sizes_that_a_table_may_hold(
    name: str, blocks: tuple[int, int, int, int], stages: int, dtype: torch.dtype
) -> None:
    # Public convolution templates with 8 warps came out wrong on some compilers: a table may only hold what holds here.
    operands, geometry = problem(name, dtype, signed=False)
    check(operands, geometry, run(operands, geometry, Choice("triton", *blocks, stages)))


def test_tf32() -> None:
    operands, geometry = problem("1x1", torch.float32, signed=False)
    full = run(operands, geometry, Choice("triton", 32, 32, 16))
    rounded = kernel.relevance_conv(
        *operands, None, geometry, "relu", False, zero_share=1e-6, allow_tf32=True, choice=Choice("triton", 64, 64, 32)
    )
    assert not torch.equal(rounded[0], full[0])
    torch.testing.assert_close(rounded[0], full[0], rtol=0, atol=2**-9 * full[0].max().item())


@ALGORITHMS
@EVERY_DTYPE
def test_the_threshold_is_relative_to_each_image(dtype: torch.dtype, algorithm: str) -> None:
    # 1,200 positions an image, one of them a million times the others; blocks hold two images.
    x = torch.zeros(5, 16, 30, 40, dtype=dtype, device="cuda")
    x[:, 0] = 2**-9
    x[1::2, 0, 3, 5] = 2**13
    x[0, 0, 2] = 0
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.ones(16, 16, 1, 1, dtype=dtype, device="cuda")
    own = weight.to(signal_dtype(dtype))
    operands, geometry = [x, weight, None, own, None], Geometry(*ONE)
    _, q = run(operands, geometry, choice_of(algorithm, operands, geometry))
    expected = (x[:, :1] > 0).float().expand(-1, 16, -1, -1).clone()
    expected[1::2] = 0
    expected[1::2, :, 3, 5] = 1
    assert torch.equal(q.float(), expected)


@ALGORITHMS
@pytest.mark.parametrize("name", ["1x1-small-images", "3x3", "stem", "groups-of-4", "depthwise"])
@SIGNS
def test_repeated_runs_agree_bit_for_bit(name: str, algorithm: str, signed: bool) -> None:
    operands, geometry = problem(name, torch.bfloat16, signed)
    choice = choice_of(algorithm, operands, geometry)
    y, q = run(operands, geometry, choice)
    for _ in range(20):
        again = run(operands, geometry, choice)
        assert torch.equal(again[0], y)
        assert torch.equal(again[1], q)


@ALGORITHMS
def test_every_element_is_written(algorithm: str) -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for name in SHAPES:
            operands, geometry = problem(name, torch.bfloat16, signed=True)
            for tensor in run(operands, geometry, choice_of(algorithm, operands, geometry)):
                assert not tensor.isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


@ALGORITHMS
def test_nan_is_not_hidden(algorithm: str) -> None:
    for name in ("3x3", "depthwise"):
        operands, geometry = problem(name, torch.bfloat16, signed=True)
        operands[0][1, 2, 3, 3] = torch.nan
        y, q = run(operands, geometry, choice_of(algorithm, operands, geometry))
        assert y[1].isnan().any()
        assert q[y.isnan()].isnan().all()
        assert not y[0].isnan().any()
        assert not q[0].isnan().any()


@ALGORITHMS
@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
def test_more_than_two_to_the_31_elements(kind: str, algorithm: str) -> None:
    # 2.2e9 elements each way, 4.4 GB in, 8.8 GB out (twice that stacked); all but the ends are equal.
    channels, side, kernel_side = 64, 1024, 1 if kind == "1x1" else 3
    groups = channels if kind == "depthwise" else 1
    batch = 33
    x = torch.ones(batch, side, side, channels, dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
    x[-1] = 2
    weight = torch.full((channels, channels // groups, kernel_side, kernel_side), 2.0**-6, device="cuda").bfloat16()
    geometry = Geometry((1, 1), (kernel_side // 2,) * 2, (1, 1), groups)
    operands = [x, weight, None, weight, None]
    y, q = run(operands, geometry, choice_of(algorithm, operands, geometry))
    small = [x[-2:, :, :8, :8].contiguous(memory_format=torch.channels_last), weight, None, weight, None]
    expected_y, _ = run(small, geometry, choice_of("triton", small, geometry))
    assert torch.equal(y[-2:, :, :7, :7], expected_y[:, :, :7, :7])
    assert torch.equal(y[0, :, 5, 5] * 2, y[-1, :, 5, 5])
    assert q.eq(1).all()


def test_opcheck() -> None:
    for name in ("1x1-odd", "3x3", "depthwise", "stem"):
        for signed in (False, True):
            for layout in ("nhwc", "nchw", "slice"):
                operands, geometry = problem(name, torch.bfloat16, signed)
                operands[0] = LAYOUTS[layout](operands[0])
                if layout == "nchw":
                    operands[1] = operands[1].contiguous()
                call = (*operands, None, *arguments(geometry), "relu", False)
                torch.library.opcheck(torch.ops.fastcam.relevance_conv.default, call)


def test_float64_and_mixed_dtypes_take_the_reference() -> None:
    operands, geometry = problem("1x1-odd", torch.float32, signed=True)
    wide = [None if t is None else t.double() for t in operands]
    expected = reference.relevance_conv(*wide, None, *arguments(geometry), "silu", False)
    actual = relevance_conv(*wide, None, *arguments(geometry), "silu", False)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    mixed = [operands[0].bfloat16(), *operands[1:]]
    y, q = relevance_conv(*mixed, None, *arguments(geometry), "relu", False)
    assert (y.dtype, q.dtype) == (torch.bfloat16, torch.bfloat16)


@ALGORITHMS
@SIGNS
def test_in_a_cuda_graph(algorithm: str, signed: bool) -> None:
    operands, geometry = problem("3x3", torch.bfloat16, signed)
    choice = choice_of(algorithm, operands, geometry)
    run(operands, geometry, choice)  # compiles and joins weights outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, q = run(operands, geometry, choice)
    operands[0].copy_(torch.randn_like(operands[0]) if signed else torch.rand_like(operands[0]))
    for _ in range(2):
        graph.replay()
        expected = run(operands, geometry, choice)
        assert torch.equal(y, expected[0])
        assert torch.equal(q, expected[1])


def test_weights_joined_during_a_capture_are_not_kept() -> None:
    operands, geometry = problem("3x3", torch.bfloat16, signed=False)
    run(operands, geometry, Choice("composition"))
    fresh = [operands[0], operands[1].clone(), operands[2], operands[3].clone(), None]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(fresh, geometry, Choice("composition"))
    check(fresh, geometry, run(fresh, geometry, Choice("composition")))
