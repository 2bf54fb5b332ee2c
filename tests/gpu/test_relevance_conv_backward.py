"""The compiled kernels on a device, against the reference in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastcam import ops
from fastcam.ops import reference
from fastcam.ops.backend import use_backend
from fastcam_kernels import relevance_conv_backward as kernel
from tests.ops.contributions import Geometry

# (batch, targets, C, K, kernel, side, geometry)
CASES = {
    "1x1": (4, 1, 256, 64, 1, 56, Geometry()),
    "1x1-expand": (3, 2, 24, 144, 1, 28, Geometry()),
    "1x1-stride-2": (3, 1, 256, 512, 1, 29, Geometry(stride=(2, 2))),
    "1x1-odd": (2, 3, 37, 53, 1, 7, Geometry()),
    "1x1-groups": (2, 1, 96, 48, 1, 9, Geometry(groups=3)),
    "3x3": (3, 2, 128, 128, 3, 14, Geometry(padding=(1, 1))),
    "3x3-stride-2": (3, 1, 128, 256, 3, 15, Geometry(stride=(2, 2), padding=(1, 1))),
    "3x3-dilated-stride-3": (2, 1, 40, 24, 3, 20, Geometry(stride=(3, 2), padding=(2, 1), dilation=(2, 3))),
    "3x3-groups-of-4": (2, 2, 128, 128, 3, 14, Geometry(padding=(1, 1), groups=32)),
    "3x3-groups-of-32-stride-2": (2, 1, 256, 256, 3, 14, Geometry(stride=(2, 2), padding=(1, 1), groups=8)),
    "3x3-depthwise": (2, 2, 96, 96, 3, 28, Geometry(padding=(1, 1), groups=96)),
    "3x3-depthwise-multiplier": (2, 1, 40, 80, 3, 14, Geometry(stride=(2, 2), padding=(1, 1), groups=40)),
    "5x5-depthwise-stride-2": (2, 1, 144, 144, 5, 29, Geometry(stride=(2, 2), padding=(2, 2), groups=144)),
    "7x7-stride-2": (2, 1, 3, 64, 7, 63, Geometry(stride=(2, 2), padding=(3, 3))),
}
DTYPES = [torch.bfloat16, torch.float32]
EVERY_CASE = pytest.mark.parametrize("case", CASES)
ALGORITHMS = pytest.mark.parametrize("algorithm", ["triton", "triton-other-gate", "composition"])


@pytest.fixture(autouse=True)
def full_float32() -> object:
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def draw(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


def problem(
    case: str, dtype: torch.dtype, *, signed: bool, residual: bool, x_dtype: torch.dtype | None = None
) -> tuple:
    """signal, gate, x, W+, W-, residual, geometry; channels-last."""
    batch, targets, inputs, outputs, kernel_size, side, geometry = CASES[case]
    size = geometry.size((side, side), (kernel_size, kernel_size))
    x = draw(batch, inputs, side, side, seed=1, dtype=x_dtype or dtype)
    x = x * (draw(*x.shape, seed=2, dtype=torch.float32) > -0.5)
    weight = draw(outputs, inputs // geometry.groups, kernel_size, kernel_size, seed=3, dtype=dtype)
    tensors = [
        draw(targets * batch, outputs, *size, seed=4, dtype=dtype),
        draw(batch, outputs, *size, seed=5, dtype=dtype).abs(),
        x if signed else x.abs(),
        weight.clamp(min=0),
        weight.clamp(max=0) if signed else None,
        draw(targets * batch, inputs, side, side, seed=6, dtype=dtype) if residual else None,
    ]
    return (*(t if t is None else t.contiguous(memory_format=torch.channels_last) for t in tensors), geometry)


def config_of(tensors: tuple, algorithm: str, *, tf32: bool, reduce: bool) -> kernel.BackwardConfig:
    *given, g = tensors
    size = (given[2].shape[2], given[2].shape[3])
    stated = kernel._problem(*given, size, g.stride, g.padding, g.dilation, g.groups, reduce=reduce)
    if algorithm == "composition":
        return kernel.elementwise_config(stated, "composition")
    config = kernel.triton_config(stated, exact=given[1].dtype == torch.float32 and not tf32)
    return replace(config, gate_first=config.gate_first != (algorithm == "triton-other-gate"))


def run_signal(tensors: tuple, algorithm: str, *, tf32: bool = False) -> Tensor:
    *given, g = tensors
    size = (given[2].shape[2], given[2].shape[3])
    config = config_of(tensors, algorithm, tf32=tf32, reduce=False)
    geometry = (g.stride, g.padding, g.dilation, g.groups)
    return kernel.relevance_conv_backward(*given, size, *geometry, allow_tf32=tf32, config=config)


def run_weights(tensors: tuple, algorithm: str, *, tf32: bool = False) -> Tensor:
    *given, g = tensors
    config = config_of(tensors, algorithm, tf32=tf32, reduce=True)
    return kernel.relevance_conv_weights(
        *given, g.stride, g.padding, g.dilation, g.groups, allow_tf32=tf32, config=config
    )


def doubled(tensors: tuple) -> tuple[list[Tensor | None], Geometry]:
    """The same numbers in float64, S rounded as the kernels round it: what is left is the product's error."""
    signal, gate, *rest, geometry = tensors
    targets = len(signal) // len(gate)
    s = (signal.float() * gate.float().repeat(targets, 1, 1, 1)).to(gate.dtype)
    return [s.double(), torch.ones_like(gate).double(), *(t if t is None else t.double() for t in rest)], geometry


def assert_near(actual: Tensor, expected: Tensor, case: str, dtype: torch.dtype, *, tf32: bool = False) -> None:
    """Compare by two tolerances: the largest error and the RMS error, in units of the largest value.

    A unit is one rounding of the result, and the error of float32 sums as long as those of outputs and of positions.
    """
    _, _, _, outputs, kernel_size, side, geometry = CASES[case]
    length = (outputs // geometry.groups * kernel_size**2) ** 0.5 + side
    unit = (2**-10 if tf32 else torch.finfo(dtype).eps) + torch.finfo(torch.float32).eps * length
    error = (actual.double() - expected).abs() / expected.abs().max()
    assert not actual.isnan().any()
    assert error.max() <= 4 * unit
    assert error.square().mean().sqrt() <= unit / 2


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@ALGORITHMS
@EVERY_CASE
def test_signals(case: str, algorithm: str, dtype: torch.dtype, signed: bool, residual: bool) -> None:
    tensors = problem(case, dtype, signed=signed, residual=residual)
    given, g = doubled(tensors)
    expected = reference.relevance_conv_backward(*given, list(given[2].shape[2:]), *g.arguments())
    actual = run_signal(tensors, algorithm)
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert_near(actual, expected, case, dtype)


@pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@ALGORITHMS
@EVERY_CASE
def test_weights(case: str, algorithm: str, dtype: torch.dtype, signed: bool) -> None:
    tensors = problem(case, dtype, signed=signed, residual=True)
    given, g = doubled(tensors)
    expected = reference.relevance_conv_weights(*given, *g.arguments())
    actual = run_weights(tensors, algorithm)
    assert actual.dtype == torch.float32
    assert_near(actual, expected, case, dtype)


@pytest.mark.parametrize("algorithm", ["triton", "composition"])
@pytest.mark.parametrize("case", ["1x1", "3x3-stride-2", "3x3-groups-of-4"])
def test_tf32(case: str, algorithm: str) -> None:
    tensors = problem(case, torch.float32, signed=True, residual=False)
    given, g = doubled(tensors)
    expected = reference.relevance_conv_backward(*given, list(given[2].shape[2:]), *g.arguments())
    assert_near(run_signal(tensors, algorithm, tf32=True), expected, case, torch.float32, tf32=True)


@EVERY_CASE
def test_the_operator_with_float16_activations(case: str) -> None:
    tensors = problem(case, torch.bfloat16, signed=True, residual=True, x_dtype=torch.float16)
    given, g = doubled(tensors)
    size = list(given[2].shape[2:])
    expected = reference.relevance_conv_backward(*given, size, *g.arguments())
    assert_near(ops.relevance_conv_backward(*tensors[:-1], size, *g.arguments()), expected, case, torch.bfloat16)
    expected = reference.relevance_conv_weights(*given, *g.arguments())
    assert_near(ops.relevance_conv_weights(*tensors[:-1], *g.arguments()), expected, case, torch.bfloat16)


def test_float64_is_served_by_the_reference() -> None:
    *given, g = problem("3x3", torch.float64, signed=True, residual=True)
    size = list(given[2].shape[2:])
    expected = reference.relevance_conv_backward(*given, size, *g.arguments())
    assert torch.equal(ops.relevance_conv_backward(*given, size, *g.arguments()), expected)
    assert ops.relevance_conv_weights(*given, *g.arguments()).dtype == torch.float64


LAYOUTS = {
    "nchw": Tensor.contiguous,
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 1],
    # An address that 16 bytes do not divide.
    "misaligned": lambda t: (
        torch.cat([t.new_zeros(1), t.permute(0, 2, 3, 1).flatten()])[1:]
        .view(t.shape[0], *t.shape[2:], t.shape[1])
        .permute(0, 3, 1, 2)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@ALGORITHMS
@pytest.mark.parametrize("case", ["1x1", "3x3-stride-2", "3x3-depthwise"])
def test_layouts(case: str, algorithm: str, layout: object) -> None:
    *given, geometry = problem(case, torch.bfloat16, signed=True, residual=True)
    tensors = (*map(layout, given), geometry)
    wide, g = doubled(tensors)
    expected = reference.relevance_conv_backward(*wide, list(wide[2].shape[2:]), *g.arguments())
    assert_near(run_signal(tensors, algorithm), expected, case, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@ALGORITHMS
@EVERY_CASE
def test_repeated_runs_agree_bit_for_bit(case: str, algorithm: str, dtype: torch.dtype) -> None:
    tensors = problem(case, dtype, signed=True, residual=True)
    first, first_weights = run_signal(tensors, algorithm), run_weights(tensors, algorithm)
    for _ in range(10):
        assert torch.equal(run_signal(tensors, algorithm), first)
        assert torch.equal(run_weights(tensors, algorithm), first_weights)


@EVERY_CASE
def test_where_s_is_formed_makes_no_difference(case: str) -> None:
    tensors = problem(case, torch.bfloat16, signed=True, residual=False)
    one, other = run_signal(tensors, "triton"), run_signal(tensors, "triton-other-gate")
    given, g = doubled(tensors)
    expected = reference.relevance_conv_backward(*given, list(given[2].shape[2:]), *g.arguments())
    # Tensor cores may add in another order where an operand comes from registers.
    assert_near(one, expected, case, torch.bfloat16)
    assert ((one - other).double().abs().max() / expected.abs().max()) <= torch.finfo(torch.bfloat16).eps


def test_every_element_is_written() -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for case in CASES:
            tensors = problem(case, torch.bfloat16, signed=True, residual=True)
            for algorithm in ("triton", "composition"):
                assert not run_signal(tensors, algorithm).isnan().any()
                assert not run_weights(tensors, algorithm).isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_no_tap_reaches_is_zero() -> None:
    tensors = problem("1x1-stride-2", torch.bfloat16, signed=False, residual=False)
    for algorithm in ("triton", "composition"):
        g = run_signal(tensors, algorithm)
        assert (g[:, :, 1::2] == 0).all()
        assert (g[:, :, :, 1::2] == 0).all()
        assert (g[:, :, ::2, ::2] != 0).any()


@pytest.mark.parametrize("groups", [1, 32], ids=["product", "depthwise"])
def test_more_than_2_31_elements(groups: int) -> None:
    # 2.2e9 elements of each tensor of activations; the last images are compared.
    shape = (336, 32, 452, 452)
    signal = torch.ones(shape, dtype=torch.bfloat16, device="cuda").to(memory_format=torch.channels_last)
    assert signal.numel() > 2**31
    signal[-2:] = draw(2, *shape[1:], seed=1, dtype=torch.bfloat16)
    positive = draw(32, 32 // groups, 1, 1, seed=2, dtype=torch.bfloat16).abs()
    geometry = ((1, 1), (0, 0), (1, 1))
    gate = signal
    stated = kernel._problem(signal, gate, None, positive, None, None, (452, 452), *geometry, groups, reduce=False)
    config = kernel.triton_config(stated, exact=False)
    g = kernel.relevance_conv_backward(
        signal, gate, None, positive, None, None, (452, 452), *geometry, groups, config=config
    )
    last = [signal[-2:].float().square().bfloat16().double(), torch.ones_like(signal[-2:]).double()]
    expected = reference.relevance_conv_backward(
        *last, None, positive.double(), None, None, [452, 452], *map(list, geometry), groups
    )
    assert_near(g[-2:], expected, "1x1", torch.bfloat16)
    del g
    s = kernel.plan_gate(stated)
    s[0].run()
    assert torch.equal(s[1][-2:], signal[-2:].float().square().bfloat16())


@pytest.mark.parametrize("case", ["1x1-stride-2", "3x3", "3x3-depthwise"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(case: str, dtype: torch.dtype) -> None:
    *given, g = problem(case, dtype, signed=True, residual=True)
    size = list(given[2].shape[2:])
    torch.library.opcheck(torch.ops.fastcam.relevance_conv_backward.default, (*given, size, *g.arguments()))
    torch.library.opcheck(torch.ops.fastcam.relevance_conv_weights.default, (*given, *g.arguments()))


@ALGORITHMS
@pytest.mark.parametrize("case", ["1x1", "3x3-stride-2", "3x3-depthwise"])
def test_in_a_cuda_graph(case: str, algorithm: str) -> None:
    tensors = problem(case, torch.bfloat16, signed=True, residual=True)
    run_signal(tensors, algorithm), run_weights(tensors, algorithm)  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        g, weights = run_signal(tensors, algorithm), run_weights(tensors, algorithm)
    tensors[0].copy_(torch.randn_like(tensors[0]))
    graph.replay()
    assert torch.equal(g, run_signal(tensors, algorithm))
    assert torch.equal(weights, run_weights(tensors, algorithm))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("relevance_conv_backward", "relevance_conv_weights"):
        monkeypatch.setattr(kernel, name, lambda *args, _name=name, **keywords: calls.append(_name) or args[0].clone())
    *given, g = problem("1x1-odd", torch.float32, signed=True, residual=False)
    size = list(given[2].shape[2:])
    for backend in ("triton", "reference"):
        with use_backend(backend):
            ops.relevance_conv_backward(*given, size, *g.arguments())
            ops.relevance_conv_weights(*given, *g.arguments())
    assert calls == ["relevance_conv_backward", "relevance_conv_weights"]
