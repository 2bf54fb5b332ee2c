"""The Triton kernels in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import mmap
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastcam.ops import reference
from fastcam_kernels import relevance_conv_backward as kernel
from fastcam_kernels.relevance_conv_backward import BackwardConfig
from tests.ops.contributions import Geometry
from tests.ops.test_cam_map import strided
from tests.ops.test_relevance_conv import CASES, draw, halves, problem, shapes

# Linux's number; Python knows the name from 3.13 on. Without it, no more than the memory there is can be mapped.
MAP_NORESERVE = 0x4000

# Big blocks: the interpreter's time goes by steps, not by elements.
BIG = BackwardConfig("triton", positions=256, channels=16, outputs=16, gate_first=False, num_warps=4, num_stages=3)
CONFIGS = {
    "gate-on-the-way": BIG,
    "gate-first": replace(BIG, gate_first=True),
    "composition": replace(BIG, algorithm="composition", gate_first=True),
}


def arguments(case: str, *, signed: bool, targets: int, residual: bool, dtype: torch.dtype = torch.float32) -> tuple:
    """signal, gate, x, W+, W-, residual, then the geometry."""
    x, weight, _, _, signal, geometry = problem(case, signed, targets)
    return pack(x.to(dtype), weight.to(dtype), signal.to(dtype), geometry, signed=signed, residual=residual)


def pack(x: Tensor, weight: Tensor, signal: Tensor, geometry: Geometry, *, signed: bool, residual: bool) -> tuple:
    gate = draw(len(x), *signal.shape[1:], seed=9).to(signal.dtype)
    added = draw(len(signal), *x.shape[1:], seed=8).to(signal.dtype) if residual else None
    return (signal, gate, x, *halves(weight, signed), added, geometry)


def expected_signal(tensors: tuple) -> Tensor:
    *given_, geometry = tensors
    return reference.relevance_conv_backward(*given_, list(given_[2].shape[2:]), *geometry.arguments())


def run_signal(tensors: tuple, config: BackwardConfig | None) -> Tensor:
    *given_, g = tensors
    size = (given_[2].shape[2], given_[2].shape[3])
    return kernel.relevance_conv_backward(*given_, size, g.stride, g.padding, g.dilation, g.groups, config=config)


def expected_weights(tensors: tuple) -> Tensor:
    *given_, geometry = tensors
    return reference.relevance_conv_weights(*given_, *geometry.arguments())


def run_weights(tensors: tuple, config: BackwardConfig | None) -> Tensor:
    *given_, g = tensors
    return kernel.relevance_conv_weights(*given_, g.stride, g.padding, g.dilation, g.groups, config=config)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6 * expected.abs().max().item())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_the_reference(case: str, config: BackwardConfig) -> None:
    # Alternately, so that each case is seen both ways by one algorithm or the other.
    signed = config.gate_first
    tensors = arguments(case, signed=signed, targets=2 if signed else 1, residual=False)
    g = run_signal(tensors, config)
    assert g.is_contiguous(memory_format=torch.channels_last)
    assert_near(g, expected_signal(tensors))


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
@pytest.mark.parametrize("config", [BIG, CONFIGS["composition"]], ids=["triton", "composition"])
@pytest.mark.parametrize("case", ["1x1", "1x1-stride-2", "3x3-groups", "3x3-depthwise"])
def test_signs_residuals_and_targets(case: str, config: BackwardConfig, signed: bool, residual: bool) -> None:
    tensors = arguments(case, signed=signed, targets=3 if case == "1x1" else 2, residual=residual)
    assert_near(run_signal(tensors, config), expected_signal(tensors))
    assert_near(run_weights(tensors, config), expected_weights(tensors))


@pytest.mark.parametrize("config", [BIG, CONFIGS["composition"]], ids=["triton", "composition"])
@pytest.mark.parametrize("case", ["1x1-groups", "2x2-stride-2-odd", "3x3-dilated-stride-2", "3x3-depthwise-multiplier"])
def test_weights_equal_the_reference(case: str, config: BackwardConfig) -> None:
    tensors = arguments(case, signed=True, targets=2, residual=False)
    assert_near(run_weights(tensors, config), expected_weights(tensors))


@settings(max_examples=6, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**16), signed=st.booleans())
def test_any_geometry(shape: tuple, seed: int, signed: bool) -> None:
    inputs, outputs, kernel_size, image, geometry = shape
    x = draw(2, inputs, *image, seed=seed).float()
    weight = draw(outputs, inputs // geometry.groups, *kernel_size, seed=seed + 1).float()
    signal = draw(2, outputs, *geometry.size(image, kernel_size), seed=seed + 2).float()
    tensors = pack(x, weight, signal, geometry, signed=signed, residual=False)
    assert_near(run_signal(tensors, BIG), expected_signal(tensors))


def sized(
    inputs: int, outputs: int, side: int, geometry: Geometry, kernel_size: int = 1, *, targets: int = 1, batch: int = 2
) -> tuple:
    x = draw(batch, inputs, side, side, seed=1).float()
    weight = draw(outputs, inputs // geometry.groups, kernel_size, kernel_size, seed=2).float()
    signal = draw(targets * batch, outputs, *geometry.size((side, side), (kernel_size, kernel_size)), seed=3).float()
    return pack(x, weight, signal, geometry, signed=True, residual=True)


CUTS = {
    # More than one block of positions, channels and outputs, none of them full; blocks across images.
    "1x1": sized(36, 40, 5, Geometry(), targets=2),
    "3x3": sized(20, 18, 4, Geometry(padding=(1, 1)), 3, batch=1),
    # Blocks of channels that hold several groups, parts of groups, and both.
    "groups-of-4": sized(32, 32, 4, Geometry(groups=8)),
    "groups-of-12": sized(36, 24, 3, Geometry(groups=3)),
    "groups-of-32": sized(64, 64, 3, Geometry(groups=2), batch=1),
    "depthwise": sized(24, 24, 5, Geometry(padding=(1, 1), stride=(2, 2), groups=24), 3),
}


@pytest.mark.parametrize("algorithm", ["triton", "composition"])
@pytest.mark.parametrize("case", CUTS)
def test_how_the_work_is_cut_makes_no_difference(case: str, algorithm: str) -> None:
    tensors = CUTS[case]
    config = replace(BIG, algorithm=algorithm, positions=32)
    assert_near(run_signal(tensors, config), expected_signal(tensors))
    assert_near(run_weights(tensors, config), expected_weights(tensors))


@pytest.mark.parametrize("case", ["1x1", "3x3", "3x3-depthwise"])
def test_the_computed_configuration(case: str) -> None:
    tensors = arguments(case, signed=True, targets=1, residual=False)
    assert_near(run_signal(tensors, None), expected_signal(tensors))


def test_where_s_is_formed_makes_no_difference() -> None:
    tensors = arguments("3x3", signed=True, targets=2, residual=True)
    assert torch.equal(run_signal(tensors, BIG), run_signal(tensors, CONFIGS["gate-first"]))


LAYOUTS = {
    "nchw": Tensor.contiguous,
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "strided": strided,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_layouts(layout: object, config: BackwardConfig) -> None:
    *tensors, geometry = arguments("1x1-stride-2", signed=True, targets=2, residual=True)
    tensors = (*map(layout, tensors), geometry)
    before = [tensor.clone() for tensor in tensors[:-1]]
    assert_near(run_signal(tensors, config), expected_signal(tensors))
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors[:-1], before, strict=True))


def test_float16_activations_beside_wider_signals() -> None:
    signal, gate, x, *rest = arguments("1x1", signed=True, targets=2, residual=False)
    x = x.half()
    tensors = (signal, gate, x, *rest)
    assert_near(run_signal(tensors, BIG), expected_signal(tensors))
    wide = (signal, gate, x.float(), *rest)
    assert torch.equal(run_weights(tensors, BIG), run_weights(wide, BIG))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_no_tap_reaches_is_zero_or_the_residual(config: BackwardConfig) -> None:
    tensors = arguments("1x1-stride-3-1", signed=False, targets=2, residual=False)
    added = draw(4, *tensors[2].shape[1:], seed=8).float()
    g = run_signal(tensors, config)
    assert (g[:, :, ::3] != 0).any()
    assert (g[:, :, 1::3] == 0).all()
    assert (g[:, :, 2::3] == 0).all()
    with_residual = run_signal((*tensors[:5], added, tensors[6]), config)
    assert torch.equal(with_residual[:, :, 1::3], added[:, :, 1::3])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_nan_is_not_hidden(config: BackwardConfig) -> None:
    tensors = arguments("3x3", signed=False, targets=1, residual=False)
    tensors[0][1, 2, 0, 0] = torch.nan
    g = run_signal(tensors, config)
    assert g[1, :, :2, :2].isnan().all()
    assert not g[0].isnan().any()
    assert not g[1, :, 2:].isnan().any()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_no_images(config: BackwardConfig) -> None:
    signal, gate, x, positive, *rest = arguments("3x3", signed=True, targets=1, residual=True)
    tensors = (signal[:0], gate[:0], x[:0], positive, rest[0], rest[1][:0], rest[2])
    assert run_signal(tensors, config).shape == (0, 3, 6, 5)
    assert run_weights(tensors, config).shape == (0, 3)


@pytest.mark.parametrize("groups", [1, 16], ids=["product", "depthwise"])
def test_offsets_beyond_32_bits(groups: int) -> None:
    # Address space alone, of which a few pages are touched: a padding so wide that one output in the middle of
    # many has an input, and an offset that 32 bits do not hold.
    pad, channels = 8192, 16
    side = 1 + 2 * pad
    offset = (pad * side + pad) * channels
    assert offset > 2**31
    # In front of it lies what an offset reads that overflowed.
    before = 2**31
    reserved = mmap.mmap(
        -1,
        4 * (before + side * side * channels),
        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE,
    )
    memory = torch.frombuffer(reserved, dtype=torch.float32)[before:]
    signal = memory.as_strided(
        (1, channels, side, side), (side * side * channels, 1, side * channels, channels), before
    )
    signal[0, :, pad, pad] = torch.arange(1.0, channels + 1)
    positive = draw(channels, channels // groups, 1, 1).float()
    g = kernel.relevance_conv_backward(
        signal, signal, None, positive, None, None, (1, 1), (1, 1), (pad, pad), (1, 1), groups, config=BIG
    )
    s = signal[:, :, pad : pad + 1, pad : pad + 1].square()
    torch.testing.assert_close(g, torch.nn.functional.conv_transpose2d(s, positive, groups=groups))


S, Q, X, W = torch.zeros(4, 6, 5, 5), torch.zeros(2, 6, 5, 5), torch.zeros(2, 3, 5, 5), torch.zeros(6, 3, 3, 3)
GOOD = {
    "signal": S,
    "gate": Q,
    "x": X,
    "positive": W,
    "negative": W,
    "residual": torch.zeros(4, 3, 5, 5),
    "size": (5, 5),
    "stride": (1, 1),
    "padding": (1, 1),
    "dilation": (1, 1),
    "groups": 1,
}
BAD = {
    "signal-float16": ({"signal": S.half()}, TypeError, "signal is torch.float16; the kernel takes bfloat16, float32"),
    "gate-float64": ({"gate": Q.double()}, TypeError, "gate is torch.float64; the kernel takes bfloat16, float32"),
    "x-float64": ({"x": X.double()}, TypeError, "x is torch.float64; the kernel takes bfloat16, float16, float32"),
    "other-weights": ({"positive": W.bfloat16()}, TypeError, "positive is torch.bfloat16; the kernel takes float32"),
    "integers": ({"residual": X.int()}, TypeError, "residual is torch.int32"),
    "signal-3d": ({"signal": S[0]}, ValueError, r"signal has shape \(6, 5, 5\); four dimensions"),
    "signal-batch": ({"signal": S[:3]}, ValueError, r"signal has shape \(3, 6, 5, 5\).*must be \(T \* 2, 6, 5, 5\)"),
    "signal-channels": ({"signal": S[:, :5]}, ValueError, r"signal has shape \(4, 5, 5, 5\)"),
    "gate-channels": ({"gate": Q[:, :5]}, ValueError, r"gate has shape \(2, 5, 5, 5\); \(2, 6, 5, 5\) is needed"),
    "gate-size": ({"gate": Q[..., :4]}, ValueError, r"gate has shape \(2, 6, 5, 4\).*outputs of size \(5, 5\)"),
    "x-missing": ({"x": None}, ValueError, "x is None; where negative is given"),
    "x-targets": ({"x": torch.zeros(4, 3, 5, 5)}, ValueError, r"x has shape \(4, 3, 5, 5\); \(2, 3, 5, 5\)"),
    "negative": ({"negative": W[:5]}, ValueError, r"negative has shape \(5, 3, 3, 3\); \(6, 3, 3, 3\)"),
    "residual": ({"residual": X}, ValueError, r"residual has shape \(2, 3, 5, 5\); \(4, 3, 5, 5\)"),
    "size": ({"size": (0, 5)}, ValueError, r"size is \(0, 5\); two numbers of at least 1"),
    "stride": ({"stride": (1, 0)}, ValueError, r"stride is \(1, 0\)"),
    "padding": ({"padding": (-1, 0)}, ValueError, r"padding is \(-1, 0\); two numbers of at least 0"),
    "dilation": ({"dilation": (1,)}, ValueError, r"dilation is \(1,\)"),
    "groups": ({"groups": 4}, ValueError, r"positive has shape \(6, 3, 3, 3\) and groups is 4"),
    "devices": ({"gate": Q.to("meta")}, ValueError, "gate is on meta and signal on cpu"),
    "meta": (
        {name: value.to("meta") for name, value in GOOD.items() if isinstance(value, Tensor)},
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
    "positions": (
        {"signal": S.to("meta")[:1].expand(2**27, -1, -1, -1)}
        | {name: value.to("meta") for name, value in GOOD.items() if isinstance(value, Tensor) and name != "signal"}
        | {"residual": None},
        ValueError,
        "signal has 134217728 images",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.relevance_conv_backward(**(GOOD | changes))


def test_good_input_is_taken() -> None:
    # What `test_bad_input_is_named` changes must be good itself.
    assert kernel.relevance_conv_backward(**GOOD, config=BIG).shape == (4, 3, 5, 5)
