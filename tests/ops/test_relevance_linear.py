"""The z+ rule of a linear layer against dense matrices of contributions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastcam import ops
from fastcam.ops import reference
from fastcam.ops.gate import signal_dtype
from fastcam.ops.seeds import SEEDS
from tests.ops.contributions import denominators, relevance

SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(signed: bool, targets: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (3, 6), weight (5, 6), bias (5,), signal (3 T, 5)."""
    x = draw(3, 6, seed=1)
    x[0, 1] = 0
    weight = draw(5, 6, seed=2)
    weight[2] = -weight[2].abs()
    return (x if signed else x.clamp(min=0)), weight, draw(5, seed=3), draw(3 * targets, 5, seed=4)


def halves(weight: Tensor, signed: bool) -> tuple[Tensor, Tensor | None]:
    return weight.clamp(min=0), weight.clamp(max=0) if signed else None


@SIGNS
@pytest.mark.parametrize("with_bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
@pytest.mark.parametrize("targets", [1, 4], ids=["one-target", "targets"])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu", "hardswish"])
def test_equals_the_contributions(
    signed: bool, with_bias: bool, reciprocal: bool, targets: int, activation: str
) -> None:
    x, weight, bias, signal = problem(signed, targets)
    positive, negative = halves(weight, signed)
    a, q = ops.relevance_linear(x, weight, bias if with_bias else None, positive, negative, activation, reciprocal)
    g = ops.relevance_linear_backward(signal, q, x if signed else None, positive, negative)

    y = x @ weight.T + (bias if with_bias else 0)
    expected = {
        "none": y,
        "relu": y.clamp(min=0),
        "relu6": y.clamp(0, 6),
        "silu": y / (1 + (-y).exp()),
        "hardswish": y * (y + 3).clamp(0, 6) / 6,
    }[activation]
    torch.testing.assert_close(a, expected, rtol=1e-12, atol=1e-12)
    z = denominators(x, weight)
    top = torch.ones_like(z) if reciprocal else expected
    torch.testing.assert_close(q, torch.where(z == 0, 0.0, top / z), rtol=1e-10, atol=1e-12)
    above = signal.view(targets, 3, 5) * (1 if reciprocal else expected)
    torch.testing.assert_close(g.view(targets, 3, 6) * x, relevance(x, weight, above), rtol=1e-10, atol=1e-12)


def test_a_logit_of_zero_keeps_its_seed() -> None:
    """R / Z directly: R / z, and then z / Z, would be 0 / 0."""
    x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, -1.0]])
    a, q = ops.relevance_linear(x, weight, None, weight.clamp(min=0), None, "none", True)
    assert a.item() == 0
    g = ops.relevance_linear_backward(torch.ones(1, 1), q, None, weight.clamp(min=0), None)
    assert (x * g).tolist() == [[1.0, 0.0]]


@SIGNS
def test_positions_of_more_dimensions(signed: bool) -> None:
    """(N, positions, C), with the floor of Z over the whole image."""
    weight = draw(5, 6, seed=2)
    positive, negative = halves(weight, signed)
    x = draw(2, 4, 6, seed=1)
    x = x if signed else x.abs()
    signal = draw(2 * 3, 4, 5, seed=4)
    a, q = ops.relevance_linear(x, weight, None, positive, negative, "none", False)
    g = ops.relevance_linear_backward(signal, q, x if signed else None, positive, negative)
    assert g.shape == (6, 4, 6)
    flat = x.flatten(0, 1)
    above = (signal.view(3, 2, 4, 5) * a).flatten(1, 2)
    found = (g.view(3, 2, 4, 6) * x).flatten(1, 2)
    torch.testing.assert_close(found, relevance(flat, weight, above), rtol=1e-10, atol=1e-12)


def test_a_small_denominator_counts_against_its_own_image() -> None:
    x = torch.tensor([[1.0, 0.0], [1e-9, 0.0]])
    positive = torch.tensor([[1.0, 0.0], [5e-7, 0.0], [2e-6, 0.0]])
    _, q = ops.relevance_linear(x, positive, None, positive, None, "none", False)
    assert (q != 0).tolist() == [[True, False, True]] * 2
    torch.testing.assert_close(q[:, [0, 2]], torch.ones(2, 2))


@SIGNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype, signed: bool) -> None:
    x, weight, bias, signal = problem(signed, targets=2)
    """Weights and signals in bfloat16 for both 16-bit formats; the gate and what is sent on stay float32."""
    signals = signal_dtype(dtype)
    x, folded, bias, signal = x.to(dtype), weight.to(dtype), bias.to(dtype), signal.to(signals)
    positive, negative = halves(weight.to(signals), signed)
    a, q = ops.relevance_linear(x, folded, bias, positive, negative, "relu", False)
    g = ops.relevance_linear_backward(signal, q, x if signed else None, positive, negative)
    assert (a.dtype, q.dtype, g.dtype) == (dtype, torch.float32, torch.float32)
    wide = [None if t is None else t.double() for t in (x, folded, bias, positive, negative)]
    a64, _ = reference.relevance_linear(*wide, "relu", False)
    assert (a.double() - a64).abs().max() <= 2 * torch.finfo(dtype).eps * a64.abs().max()
    g64 = reference.relevance_linear_backward(
        signal.double(), q.double(), wide[0] if signed else None, wide[3], wide[4]
    )
    assert (g.double() - g64).abs().max() <= 8 * torch.finfo(signals).eps * g64.abs().max()


@SIGNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
def test_opcheck(signed: bool, dtype: torch.dtype, reciprocal: bool) -> None:
    x, weight, bias, signal = (t.to(dtype) for t in problem(signed, targets=2))
    positive, negative = halves(weight, signed)
    forward = (x, weight, bias, positive, negative, "relu", reciprocal)
    torch.library.opcheck(torch.ops.fastcam.relevance_linear.default, forward)
    _, q = ops.relevance_linear(*forward)
    backward = (signal, q, x if signed else None, positive, negative)
    torch.library.opcheck(torch.ops.fastcam.relevance_linear_backward.default, backward)


@settings(max_examples=40, deadline=None)
@given(inputs=st.integers(1, 6), outputs=st.integers(1, 6), targets=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_the_way_back_is_the_adjoint(inputs: int, outputs: int, targets: int, seed: int) -> None:
    """<x W+^T, s> = <x, s W+> for every target's s."""
    positive = draw(outputs, inputs, seed=seed).clamp(min=0)
    x, s = draw(2, inputs, seed=seed + 1), draw(targets * 2, outputs, seed=seed + 2)
    back = ops.relevance_linear_backward(s, torch.ones(2, outputs, dtype=torch.float64), None, positive, None)
    found = (back.view(targets, 2, inputs) * x).sum((1, 2))
    expected = (s.view(targets, 2, outputs) * (x @ positive.T)).sum((1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def seed_by_hand(logits: Tensor, target: int, seed: str) -> Tensor:
    """The seed of one image and target, class by class."""
    z, p = logits[target].item(), logits.softmax(0)
    values = []
    for k in range(len(logits)):
        if seed == "one_hot":
            values.append(z if k == target else 0.0)
        elif seed == "clrp":
            size = abs(z) if z != 0 else 1.0
            values.append(size if k == target else -size / (len(logits) - 1))
        else:
            others = sum(p[n].item() for n in range(len(logits)) if n != target)
            values.append(p[target].item() * (others if k == target else -p[k].item()))
    return torch.tensor(values, dtype=torch.float64)


@SIGNS
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("seed", ["one_hot", "clrp", "sglrp"])
def test_seeded_equals_the_contributions(seed: str, classes: int, signed: bool) -> None:
    """Several targets an image; a logit of zero, a negative one, the same target twice."""
    x, weight, _, _ = problem(signed)
    weight = weight[:classes]
    logits, targets = draw(3, 5, seed=6)[:, :classes], torch.tensor([[0, 4], [1, 1], [2, 0]]).clamp(max=classes - 1)
    logits[0, 0] = 0
    logits[1, -1] = -2
    positive, negative = halves(weight, signed)
    _, gate = ops.relevance_linear(x, weight, None, positive, negative, "none", True)
    g = ops.relevance_linear_seeded(logits, targets, gate, x if signed else None, positive, negative, seed)
    assert g.shape == (6, 6)
    above = torch.stack([torch.stack([seed_by_hand(logits[n], t, seed) for n, t in enumerate(c)]) for c in targets.T])
    torch.testing.assert_close(g.view(2, 3, 6) * x, relevance(x, weight, above), rtol=1e-10, atol=1e-12)


def test_sglrp_keeps_its_digits_where_p_is_next_to_one() -> None:
    logits = torch.tensor([[30.0, 0.0, 1.0]])
    found = SEEDS["sglrp"](logits, torch.tensor([[0]]))
    expected = SEEDS["sglrp"](logits.double(), torch.tensor([[0]]))
    assert 0 < expected[0, 0, 0] < 1e-11
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(expected.sum(), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-25)


def test_an_unknown_seed_is_named() -> None:
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="'softmax' given, one of 'clrp', 'sglrp', 'one_hot' is valid"):
        ops.relevance_linear_seeded(one, one.long(), one, None, one, None, "softmax")


@SIGNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", ["one_hot", "clrp", "sglrp"])
def test_opcheck_of_seeded(signed: bool, dtype: torch.dtype, seed: str) -> None:
    x, weight, bias, _ = problem(signed)
    positive, negative = halves(weight.float(), signed)
    x = x.to(dtype)
    y, gate = ops.relevance_linear(x, weight.to(dtype), bias.to(dtype), positive, negative, "none", True)
    arguments = (y, torch.tensor([[0, 1], [2, 3], [4, 4]]), gate, x if signed else None, positive, negative, seed)
    torch.library.opcheck(torch.ops.fastcam.relevance_linear_seeded.default, arguments)
