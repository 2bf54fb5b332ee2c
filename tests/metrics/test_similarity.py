"""Rank correlation and SSIM: against scipy, scikit-image, and their definitions in loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor

from fastcam.metrics.similarity import rank_correlation, ssim

FUNCTIONS = {"rank": rank_correlation, "ssim": ssim}
EVERY = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def pair(count: int = 4, height: int = 17, width: int = 23, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Signed maps that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    a, noise = (torch.randn(count, height, width, generator=generator) for _ in range(2))
    return a, a * torch.linspace(-1, 1, count).view(-1, 1, 1) + 0.5 * noise


def slow_ranks(values: list[float]) -> list[float]:
    return [sum(v < u for v in values) + (sum(v == u for v in values) + 1) / 2 for u in values]


def slow_correlation(a: Tensor, b: Tensor) -> float:
    x, y = (np.array(slow_ranks(m.flatten().tolist())) for m in (a, b))
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / spread) if spread > 0 else 0.0


def slow_ssim(a: Tensor, b: Tensor) -> float:
    """Window after window, in float64."""
    x, y = (m.double().numpy() for m in (a, b))
    x, y = ((m - m.min()) / (m.max() - m.min()) for m in (x, y))
    window = np.array([[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)])
    window /= window.sum()
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            u, v = (m[top : top + 11, left : left + 11] for m in (x, y))
            mu, mv = (window * u).sum(), (window * v).sum()
            su, sv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum()
            suv = (window * (u - mu) * (v - mv)).sum()
            light = (2 * mu * mv + 1e-4) / (mu**2 + mv**2 + 1e-4)
            found.append(light * (2 * suv + 9e-4) / (su + sv + 9e-4))
    return float(np.mean(found))


@pytest.mark.parametrize("levels", [None, 3, 1], ids=["distinct", "some_ties", "many_ties"])
def test_rank_correlation_as_scipy_and_a_loop_have_it(levels: int | None) -> None:
    a, b = pair()
    if levels is not None:
        a, b = (a * levels).round(), (b * levels).round()
    values = rank_correlation(a, b)
    pairs = list(zip(a, b, strict=True))
    assert values.dtype == torch.float32
    assert values.tolist() == pytest.approx([slow_correlation(x, y) for x, y in pairs], abs=1e-5)
    assert values.tolist() == pytest.approx([spearmanr(x.flatten(), y.flatten())[0] for x, y in pairs], abs=1e-5)


def test_rank_correlation_of_many_pixels() -> None:
    a, b = pair(2, 224, 224)
    expected = [spearmanr(x.flatten(), y.flatten())[0] for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_as_scikit_image_and_a_loop_have_it() -> None:
    a, b = pair()
    values = ssim(a, b)
    pairs = list(zip(a, b, strict=True))
    assert values.tolist() == pytest.approx([slow_ssim(x, y) for x, y in pairs], abs=1e-5)
    theirs = []
    for pair_of_maps in pairs:
        x, y = ((m - m.min()) / (m.max() - m.min()) for m in (m.double().numpy() for m in pair_of_maps))
        theirs.append(
            structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
        )
    assert values.tolist() == pytest.approx(theirs, abs=1e-5)
    assert max(values.tolist()) - min(values.tolist()) > 0.3


@settings(max_examples=40, deadline=None)
@given(
    first=st.lists(st.integers(-2, 2), min_size=12, max_size=12),
    second=st.lists(st.integers(-2, 2), min_size=12, max_size=12),
)
def test_rank_correlation_with_any_ties(first: list[int], second: list[int]) -> None:
    a, b = (torch.tensor(values).float().view(3, 4) for values in (first, second))
    found = rank_correlation(a, b)
    assert found.shape == ()
    assert float(found) == pytest.approx(slow_correlation(a, b), abs=1e-6)
    assert torch.equal(found, rank_correlation(b, a))
    # Only the order counts.
    assert float(rank_correlation(a.exp(), b * 3 - 7)) == pytest.approx(float(found), abs=1e-6)


@EVERY
def test_a_map_is_like_itself_at_any_scale(function: Any) -> None:
    a, _ = pair()
    assert function(a, a).tolist() == pytest.approx([1] * 4, abs=1e-6)
    assert function(a, a * 8 + 2).tolist() == pytest.approx([1] * 4, abs=1e-4)
    assert bool((function(a, a) <= 1).all())
    assert bool((function(a, -a) < -0.5).all())


@pytest.mark.parametrize("value", [0.0, 0.3, 5.0])
def test_flat_maps(value: float) -> None:
    a, _ = pair(1)
    flat = torch.full_like(a, value)
    nearly = flat * (1 + 3e-7 * torch.rand(a.shape, generator=torch.Generator().manual_seed(0)))
    assert rank_correlation(a, flat).tolist() == [0]
    assert rank_correlation(flat, flat).tolist() == [0]
    assert rank_correlation(nearly, a).tolist() == [0]
    assert ssim(flat, nearly).tolist() == [1]
    assert abs(float(ssim(a, flat))) < 0.1


@EVERY
def test_any_leading_axes(function: Any) -> None:
    a, b = pair(6)
    expected = function(a, b)
    assert torch.equal(function(a.view(3, 2, 17, 23), b.view(3, 2, 17, 23)), expected.view(3, 2))
    assert float(function(a[0], b[0])) == pytest.approx(float(expected[0]), abs=1e-6)


@EVERY
def test_maps_are_not_changed(function: Any) -> None:
    a, b = pair()
    before = a.clone(), b.clone()
    function(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@EVERY
def test_bad_input(function: Any) -> None:
    a, b = pair()
    with pytest.raises(ValueError, match=r"a, b: shapes \(4, 17, 23\) on cpu and \(3, 17, 23\) on cpu given"):
        function(a, b[:3])
    with pytest.raises(TypeError, match=r"b: ndarray given, a float tensor"):
        function(a, b.numpy())
    with pytest.raises(TypeError, match=r"a: torch.int64 given"):
        function(a.long(), b)
    with pytest.raises(ValueError, match=r"b: NaN or infinite"):
        function(a, b / 0)
    with pytest.raises(ValueError, match=r"a: shape \(23,\) given"):
        function(a[0, 0], b[0, 0])


def test_ssim_needs_a_window() -> None:
    a, b = pair(height=10)
    with pytest.raises(ValueError, match=r"10 x 23 pixels given, at least 11 x 11"):
        ssim(a, b)
