"""The z+ rule of a convolution against dense matrices of contributions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastcam import ops
from fastcam.ops import reference
from fastcam.ops.activation import activate
from fastcam.ops.gate import gate, signal_dtype
from tests.ops.contributions import Geometry, denominators, matrix, relevance

ACTIVATIONS = ["none", "relu", "relu6", "silu", "hardswish"]
SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
# (C, K, kernel, image, geometry)
CASES: dict[str, tuple[int, int, tuple[int, int], tuple[int, int], Geometry]] = {
    "1x1": (3, 4, (1, 1), (5, 4), Geometry()),
    "1x1-stride-2": (3, 4, (1, 1), (5, 4), Geometry(stride=(2, 2))),
    "1x1-stride-3-1": (2, 3, (1, 1), (6, 5), Geometry(stride=(3, 1))),
    "1x1-padded": (2, 3, (1, 1), (4, 4), Geometry(padding=(1, 1))),
    "1x1-padded-stride-2": (2, 3, (1, 1), (4, 5), Geometry(stride=(2, 2), padding=(1, 0))),
    "1x1-groups": (4, 6, (1, 1), (4, 3), Geometry(groups=2)),
    "2x2": (2, 3, (2, 2), (5, 6), Geometry()),
    "2x2-stride-2-odd": (2, 3, (2, 2), (5, 7), Geometry(stride=(2, 2))),
    "3x3": (3, 4, (3, 3), (6, 5), Geometry(padding=(1, 1))),
    "3x3-stride-2": (3, 4, (3, 3), (7, 6), Geometry(stride=(2, 2), padding=(1, 1))),
    "3x3-stride-3": (2, 3, (3, 3), (8, 9), Geometry(stride=(3, 3))),
    "3x3-dilated": (2, 3, (3, 3), (7, 6), Geometry(padding=(2, 2), dilation=(2, 2))),
    "3x3-dilated-stride-2": (2, 3, (3, 3), (8, 7), Geometry(stride=(2, 2), padding=(1, 2), dilation=(2, 3))),
    "3x3-groups": (4, 6, (3, 3), (5, 5), Geometry(padding=(1, 1), groups=2)),
    "3x3-depthwise": (4, 4, (3, 3), (6, 5), Geometry(stride=(2, 2), padding=(1, 1), groups=4)),
    "3x3-depthwise-multiplier": (3, 6, (3, 3), (5, 5), Geometry(padding=(1, 1), groups=3)),
    "5x5-stride-2": (2, 3, (5, 5), (8, 7), Geometry(stride=(2, 2), padding=(2, 2))),
    "5x5-wide-padding": (1, 2, (5, 5), (4, 4), Geometry(stride=(3, 3), padding=(3, 4))),
    "1x3": (2, 3, (1, 3), (4, 5), Geometry(padding=(0, 1))),
    "5x2-uneven": (2, 2, (5, 2), (9, 6), Geometry(stride=(1, 3), padding=(2, 0))),
    "one-position": (3, 4, (3, 3), (3, 3), Geometry()),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(case: str, signed: bool, targets: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Geometry]:
    """x, the layer's own weight, the folded weight, its bias, a signal (T N, K, h, w), the geometry."""
    inputs, outputs, kernel, image, geometry = CASES[case]
    x = draw(2, inputs, *image, seed=1)
    x = x * (draw(*x.shape, seed=2) > -0.5)  # some exact zeros
    x = x if signed else x.clamp(min=0)
    weight = draw(outputs, inputs // geometry.groups, *kernel, seed=3)
    # A row that no positive contribution reaches from x >= 0: its Z is 0, and its a is not.
    weight[0] = -weight[0].abs()
    # Folded, with gammas of both signs: W+ is still the layer's own.
    folded = weight * draw(outputs, 1, 1, 1, seed=4)
    bias = draw(outputs, seed=5)
    signal = draw(2 * targets, outputs, *geometry.size(image, kernel), seed=6)
    return x, weight, folded, bias, signal, geometry


def halves(weight: Tensor, signed: bool) -> tuple[Tensor, Tensor | None]:
    return weight.clamp(min=0), weight.clamp(max=0) if signed else None


@SIGNS
@EVERY_CASE
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
@pytest.mark.parametrize("targets", [1, 3], ids=["one-target", "targets"])
def test_equals_the_contributions(case: str, signed: bool, reciprocal: bool, targets: int) -> None:
    x, weight, folded, bias, signal, geometry = problem(case, signed, targets)
    positive, negative = halves(weight, signed)
    size = (x.shape[2], x.shape[3])
    dense = matrix(weight, size, geometry).flatten(3).flatten(0, 2)

    # At least as sharp as their names: the operators, not the references, are what the engine calls.
    a, q = ops.relevance_conv(x, folded, bias, positive, negative, None, *geometry.arguments(), "relu", reciprocal)
    g = ops.relevance_conv_backward(
        signal, q, x if signed else None, positive, negative, None, list(size), *geometry.arguments()
    )

    z = denominators(x.flatten(1), dense)
    folded_dense = matrix(folded, size, geometry).flatten(3).flatten(0, 2)
    expected = x.flatten(1) @ folded_dense.T + bias.repeat_interleave(z.shape[1] // len(bias))
    torch.testing.assert_close(a.flatten(1), expected.clamp(min=0), rtol=1e-12, atol=1e-12)
    top = torch.ones_like(z) if reciprocal else expected.clamp(min=0)
    torch.testing.assert_close(q.flatten(1), torch.where(z == 0, 0.0, top / z), rtol=1e-10, atol=1e-12)

    above = signal.view(targets, 2, -1) * (1 if reciprocal else expected.clamp(min=0))
    found = (g.view(targets, *x.shape) * x).flatten(2)
    torch.testing.assert_close(found, relevance(x.flatten(1), dense, above), rtol=1e-9, atol=1e-10)


@SIGNS
def test_where_the_input_is_zero(signed: bool) -> None:
    """x >= 0: G is what a positive x would get. Signed x: neither sign's weights apply, so 0."""
    x, weight, folded, bias, signal, geometry = problem("3x3", signed)
    positive, negative = halves(weight, signed)
    _, q = ops.relevance_conv(x, folded, bias, positive, negative, None, *geometry.arguments(), "none", False)
    size = [x.shape[2], x.shape[3]]
    g = ops.relevance_conv_backward(
        signal, q, x if signed else None, positive, negative, None, size, *geometry.arguments()
    )
    zeros = x == 0
    assert zeros.any()
    if signed:
        assert (g[zeros] == 0).all()
    else:
        dense = matrix(weight, (size[0], size[1]), geometry).flatten(3).flatten(0, 2)
        expected = (signal * q).flatten(1) @ dense.clamp(min=0)
        torch.testing.assert_close(g.flatten(1), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    x, weight, folded, bias, _, geometry = problem("3x3", signed=False)
    folded = 4 * folded  # past relu6's and hardswish's bends
    a, q = reference.relevance_conv(
        x, folded, bias, weight.clamp(min=0), None, None, *geometry.arguments(), activation, False
    )
    y = F.conv2d(x, folded, bias, padding=1)
    expected = {
        "none": y,
        "relu": y.clamp(min=0),
        "relu6": y.clamp(0, 6),
        "silu": y / (1 + (-y).exp()),
        "hardswish": y * (y + 3).clamp(0, 6) / 6,
    }[activation]
    assert (y > 6).any()
    assert (y < -3).any()
    torch.testing.assert_close(a, expected, rtol=1e-12, atol=1e-12)
    z = F.conv2d(x, weight.clamp(min=0), padding=1)
    torch.testing.assert_close(q, torch.where(z == 0, 0.0, expected / z), rtol=1e-10, atol=1e-12)


@SIGNS
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("case", ["1x1-stride-2", "3x3"])
def test_a_residual_addition_shares_relevance(case: str, activation: str, signed: bool) -> None:
    """a = activation(c + r): R_c = c / (c + r) R_a where a is not 0, then as without; R_r is the rest."""
    x, weight, folded, bias, signal, geometry = problem(case, signed, targets=2)
    positive, negative = halves(weight, signed)
    size = (x.shape[2], x.shape[3])
    dense = matrix(weight, size, geometry).flatten(3).flatten(0, 2)
    c = F.conv2d(x, folded, bias, *geometry.arguments())
    residual = draw(*c.shape, seed=7)
    residual[:, 1] = -c[:, 1]  # sums of exactly 0

    forward = (x, folded, bias, positive, negative, residual, *geometry.arguments())
    a, q = ops.relevance_conv(*forward, activation, False)
    added = draw(4, *x.shape[1:], seed=8)
    back = (signal, q, x if signed else None, positive, negative)
    plain = ops.relevance_conv_backward(*back, None, list(size), *geometry.arguments())
    g = ops.relevance_conv_backward(*back, added, list(size), *geometry.arguments())

    expected = c + residual if activation == "none" else (c + residual).clamp(min=0)
    torch.testing.assert_close(a, expected, rtol=1e-12, atol=1e-12)
    relevance_of_c = torch.where(expected == 0, 0.0, c).flatten(1) * signal.view(2, 2, -1)
    found = (plain.view(2, *x.shape) * x).flatten(2)
    torch.testing.assert_close(found, relevance(x.flatten(1), dense, relevance_of_c), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(g, plain + added, rtol=1e-12, atol=1e-12)

    weights = ops.relevance_conv_weights(signal, q, x, positive, negative, added, *geometry.arguments())
    by_hand = (g.view(2, *x.shape) * x).sum(dim=(3, 4)).flatten(0, 1)
    torch.testing.assert_close(weights, by_hand, rtol=1e-12, atol=1e-12)


@SIGNS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@EVERY_CASE
def test_signals_come_channels_last(case: str, layout: torch.memory_format, signed: bool) -> None:
    x, weight, _, _, signal, geometry = problem(case, signed)
    positive, negative = halves(weight.contiguous(memory_format=layout), signed)
    signal = signal.contiguous(memory_format=layout)
    g = ops.relevance_conv_backward(
        signal, signal, x, positive, negative, None, [x.shape[2], x.shape[3]], *geometry.arguments()
    )
    assert g.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("activation", "reciprocal"), [("relu6", False), ("relu", True)], ids=str)
def test_a_residual_without_a_gate_is_refused(activation: str, reciprocal: bool) -> None:
    x, weight, folded, bias, _, geometry = problem("3x3", signed=False)
    with pytest.raises(ValueError, match="a residual takes activation 'none' or 'relu' and no reciprocal"):
        ops.relevance_conv(
            x, folded, bias, weight, None, torch.zeros(2, 4, 6, 5), *geometry.arguments(), activation, reciprocal
        )


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"activation: 'gelu' given, one of 'none', 'relu'.* is valid"):
        activate(torch.ones(1), "gelu")


def test_one_images_targets_do_not_reach_another() -> None:
    x, weight, folded, bias, signal, geometry = problem("3x3", signed=True, targets=2)
    positive, negative = halves(weight, signed=True)
    _, q = ops.relevance_conv(x, folded, bias, positive, negative, None, *geometry.arguments(), "none", False)

    def back(s: Tensor) -> Tensor:
        size = [x.shape[2], x.shape[3]]
        return ops.relevance_conv_backward(s, q, x, positive, negative, None, size, *geometry.arguments())

    one_target_of_one_image = torch.zeros_like(signal)
    one_target_of_one_image[2] = signal[2]  # target 1 of image 0
    g = back(one_target_of_one_image)
    assert g[2].abs().max() > 0
    assert (g[[0, 1, 3]] == 0).all()
    torch.testing.assert_close(g[2], back(signal)[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
def test_gate_threshold_is_relative_to_each_image(dtype: torch.dtype, reciprocal: bool) -> None:
    """A Z up to 1e-6 of its image's largest (1e-14 in float64) is a residue, whatever the other images hold."""
    floor = 1e-14 if dtype == torch.float64 else 1e-6
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    shares = torch.tensor([1.0, 2 * floor, 0.5 * floor, 0.0], dtype=wide)
    z = torch.stack([1e3 * shares, 1e-9 * shares]).view(2, 1, 2, 2)
    y = torch.full((2, 1, 2, 2), 3.0, dtype=dtype)
    q = gate(y, z.clone(), reciprocal=reciprocal, dtype=signal_dtype(dtype)).flatten(1)
    assert q.dtype == signal_dtype(dtype)
    assert q.isfinite().all()
    assert (q[:, 2:] == 0).all()
    expected = (1.0 if reciprocal else 3.0) / z.flatten(1)[:, :2].double()
    torch.testing.assert_close(q[:, :2].double(), expected, rtol=2**-8 if dtype.itemsize == 2 else 1e-6, atol=0)


def test_gate_of_a_dead_image_is_zero() -> None:
    z = torch.zeros(2, 3, 4, 4)
    z[1] = 1
    q = gate(torch.ones(2, 3, 4, 4), z, reciprocal=False, dtype=torch.float32)
    assert (q[0] == 0).all()
    assert (q[1] == 1).all()


@SIGNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", ["1x1-stride-2", "3x3", "3x3-depthwise"])
def test_dtypes(case: str, dtype: torch.dtype, signed: bool) -> None:
    """Against float64 on the same rounded numbers. Relevance is bfloat16 for both 16-bit formats."""
    x, weight, folded, bias, signal, geometry = problem(case, signed, targets=2)
    half = dtype.itemsize == 2
    x, folded, bias = (t.to(dtype) for t in (x, folded, bias))
    signals = signal_dtype(dtype)
    assert signals == (torch.bfloat16 if half else dtype)
    positive, negative = halves(weight.to(signals), signed)
    signal = signal.to(signals)
    size = [x.shape[2], x.shape[3]]
    back = (size, *geometry.arguments())

    a, q = ops.relevance_conv(x, folded, bias, positive, negative, None, *geometry.arguments(), "relu", False)
    g = ops.relevance_conv_backward(signal, q, x if signed else None, positive, negative, None, *back)
    assert (a.dtype, q.dtype, g.dtype) == (dtype, signals, signals)

    def double(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.double()

    wide = [double(t) for t in (x, folded, bias, positive, negative)]
    a64, q64 = reference.relevance_conv(*wide, None, *geometry.arguments(), "relu", False)
    tolerance = 2 * torch.finfo(dtype).eps
    assert (a.double() - a64).abs().max() <= tolerance * a64.abs().max()
    # From the gate as it is: quotients by small denominators would hide the rest.
    g64 = reference.relevance_conv_backward(
        signal.double(), q.double(), double(x) if signed else None, wide[3], wide[4], None, *back
    )
    tolerance = 8 * torch.finfo(signals).eps
    assert (g.double() - g64).abs().max() <= tolerance * g64.abs().max()
    # The gate is a quotient of rounded numbers: the relative error is bounded where Z is not small.
    z = a64 / torch.where(q64 == 0, 1.0, q64)
    large = (q64 != 0) & (z > 0.1 * z.amax())
    tolerance = 64 * torch.finfo(signals).eps
    assert large.any()
    assert ((q.double() - q64).abs()[large] <= tolerance * q64.abs().max()).all()


@SIGNS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("case", ["1x1", "1x1-stride-2", "3x3-stride-2", "3x3-depthwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(case: str, signed: bool, layout: torch.memory_format, dtype: torch.dtype) -> None:
    tensors = problem(case, signed, targets=2)
    x, weight, folded, bias, signal = (t.to(dtype) for t in tensors[:5])
    geometry = tensors[5]
    x = x.contiguous(memory_format=layout)
    positive, negative = halves(weight, signed)
    forward = (x, folded, bias, positive, negative, None, *geometry.arguments(), "relu", False)
    torch.library.opcheck(torch.ops.fastcam.relevance_conv.default, forward)
    _, q = ops.relevance_conv(*forward)
    size = [x.shape[2], x.shape[3]]
    backward = (signal, q, x if signed else None, positive, negative, None, size, *geometry.arguments())
    torch.library.opcheck(torch.ops.fastcam.relevance_conv_backward.default, backward)
    weights = (signal, q, x, positive, negative, None, *geometry.arguments())
    torch.library.opcheck(torch.ops.fastcam.relevance_conv_weights.default, weights)


@st.composite
def shapes(draw_: st.DrawFn) -> tuple[int, int, tuple[int, int], tuple[int, int], Geometry]:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw_(st.integers(low, high)), draw_(st.integers(low, high))

    kernel, dilation, padding = pair(1, 5), pair(1, 3), pair(0, 3)
    extent = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    image = extent[0] + draw_(st.integers(0, 5)), extent[1] + draw_(st.integers(0, 5))
    groups = draw_(st.sampled_from([1, 2, 3]))
    inputs, outputs = groups * draw_(st.integers(1, 2)), groups * draw_(st.integers(1, 2))
    return inputs, outputs, kernel, image, Geometry(pair(1, 3), padding, dilation, groups)


@settings(max_examples=80, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**31))
def test_the_way_back_is_the_adjoint(
    shape: tuple[int, int, tuple[int, int], tuple[int, int], Geometry], seed: int
) -> None:
    """<conv(x, W+), s> = <x, conv_transpose(s, W+)>."""
    inputs, outputs, kernel, image, geometry = shape
    positive = draw(outputs, inputs // geometry.groups, *kernel, seed=seed).clamp(min=0)
    x = draw(2, inputs, *image, seed=seed + 1)
    y = F.conv2d(x, positive, None, *geometry.arguments())
    s = draw(*y.shape, seed=seed + 2)
    back = ops.relevance_conv_backward(
        s, torch.ones_like(s), None, positive, None, None, list(image), *geometry.arguments()
    )
    assert back.shape == x.shape
    torch.testing.assert_close((x * back).sum(), (y * s).sum(), rtol=1e-10, atol=1e-9)
