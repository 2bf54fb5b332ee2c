"""extremal_perturbation: its parts by their definitions, and masks whose place is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.attribution.extremal import SmoothMasks, _perturbed, _ranked
from fastcam.ops.blur import soft_blur
from tests.attribution.toys import watched


class Corner(nn.Module):
    """Class 0 is what stands out in the top-left quarter, class 1 in the bottom-right one."""

    def __init__(self, side: int = 32) -> None:
        super().__init__()
        self.half = side // 2

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, :, : self.half, : self.half].square().mean((1, 2, 3))
        second = x[:, :, self.half :, self.half :].square().mean((1, 2, 3))
        return 5 * torch.stack([first, second, 0 * first], 1)


@pytest.fixture
def images() -> Tensor:
    # Fine stripes: a blur wipes them out.
    return torch.tensor([1.0, -1.0]).repeat(16).expand(2, 3, 32, 32).clone()


def test_it_finds_the_quarters_that_the_classes_rest_on(images: Tensor) -> None:
    maps = fastcam.extremal_perturbation(Corner(), images[:1], [[0, 1]], normalize=False)[0]
    assert maps.min() >= 0
    assert maps.max() <= 1
    shown = maps > 0.5
    assert (shown.double().mean((1, 2)) - 0.1).abs().max() < 0.01
    assert (shown[0, :16, :16].sum() / shown[0].sum()) > 0.98
    assert (shown[1, 16:, 16:].sum() / shown[1].sum()) > 0.98


@pytest.mark.parametrize("area", [0.05, 0.2])
def test_the_area_is_what_was_asked_for(images: Tensor, area: float) -> None:
    maps = fastcam.extremal_perturbation(Corner(), images[:1], 0, area=area, steps=200, normalize=False)
    assert abs(float((maps > 0.5).double().mean()) - area) < 0.02


def test_the_mask_keeps_more_than_any_other_place_would(images: Tensor) -> None:
    model = Corner()
    mask = fastcam.extremal_perturbation(model, images[:1], 0, steps=200, normalize=False)
    levels = torch.stack([soft_blur(images[:1], s) for s in (20 / 224 * 32, 0)], 1)

    def kept(m: Tensor) -> float:
        return float(model(_perturbed(levels, m)).softmax(1)[0, 0])

    assert kept(mask) > kept(mask.flip(1, 2)) + 0.02
    assert kept(mask) > kept(mask.flip(2)) + 0.02


def test_smooth_masks() -> None:
    smooth = SmoothMasks.of_size((64, 48), torch.empty((), dtype=torch.float64))
    start = smooth.start(2)
    assert start.shape == (2, 32, 32)
    assert (start == 1).all()
    whole = smooth(start)
    assert whole.shape == (2, 64, 48)
    assert whole.min() > 0.85  # the smooth maximum lies below the maximum
    assert whole.max() <= 1
    lone = torch.zeros(1, 32, 32, dtype=torch.float64)
    lone[0, 16, 8] = 1
    # A kernel about the parameter's place, e^-2 at 21 / 224 of the side: 6 of 64 rows.
    row = smooth(lone)[0, :, 12]
    assert 0.95 < row.max() <= 1
    assert row.argmax() in (32, 33)
    # Where the kernel falls below the temperature the smooth maximum is an average over 32 places.
    maximum = torch.exp(-0.5 * ((torch.arange(64) + 0.5 - 33) / 3).square()).double()
    inside = (torch.arange(64) - 32.5).abs() < 5
    assert (row - maximum)[inside].abs().max() < 0.08
    assert row[:16].max() < 0.01


def test_perturbation_blurs_where_the_mask_is_low() -> None:
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    levels = torch.stack([soft_blur(x, s) for s in (4.0, 2.0, 0.0)], 1)
    mask = torch.ones(1, 16, 16)
    torch.testing.assert_close(_perturbed(levels, mask), x)
    torch.testing.assert_close(_perturbed(levels, 0 * mask), levels[:, 0])
    torch.testing.assert_close(_perturbed(levels, 0.5 * mask), levels[:, 1])
    torch.testing.assert_close(_perturbed(levels, 0.75 * mask), (levels[:, 1] + levels[:, 2]) / 2)


def test_ranked_area() -> None:
    masks = torch.tensor([[[0.2, 0.9], [0.8, 0.1]], [[0.5, 0.5], [0.5, 0.5]]])
    gain = torch.tensor([[[9.0, 0], [0, 9]], [[0.0, 1], [3, 2]]])
    expected = [[[0, 1], [1, 0]], [[0, 0], [1, 1]]]  # the second by its gain, since all are equal
    assert _ranked(masks, gain, 0.5).tolist() == expected
    assert _ranked(masks, 0 * gain, 0.25)[0].tolist() == [[0, 1], [0, 0]]


def test_it_equals_a_plain_loop() -> None:
    steps, area, clamped, seed = 15, 0.25, [0, 0], torch.Generator().manual_seed(1)
    # Every pixel counts: those that do not would tie when the masks are ranked.
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 3)).double()
    model[1].weight.data.copy_(0.2 * torch.randn(3, 240, generator=seed, dtype=torch.float64))
    model[1].bias.data.zero_()
    x = torch.randn(2, 3, 10, 8, generator=seed, dtype=torch.float64)
    smooth = SmoothMasks.of_size((10, 8), x)
    # 8 levels of blur, of up to 20 / 224 of the longer side; the last is the image itself.
    levels = [soft_blur(x, 10 * 20 / 224 * (7 - i) / 7) for i in range(8)]
    for n in range(2):
        for target in range(2):
            p, speed = torch.ones(10, 8, dtype=torch.float64), torch.zeros(10, 8, dtype=torch.float64)
            for step in range(steps):
                p.requires_grad_()
                m = smooth(p[None])[0]
                # Between the two levels that lie around 7 m, in proportion.
                below = (7 * m.detach()).floor().clamp(max=6).long()
                stack = torch.stack([level[n] for level in levels])  # (8, 3, 10, 8)
                low = stack.gather(0, below.expand(1, 3, 10, 8))[0]
                high = stack.gather(0, (below + 1).expand(1, 3, 10, 8))[0]
                seen = low + (7 * m - below) * (high - low)
                gained = model(seen[None]).log_softmax(1)[0, target]
                by_mask = torch.autograd.grad(gained, m, retain_graph=True)[0]
                # 20 of the 80 pixels are to be 1: where m is highest; almost equal ones by what is gained there.
                order = (m.detach() + 1e-5 * by_mask / by_mask.abs().max()).flatten()
                wanted = torch.zeros(80, dtype=torch.float64)
                wanted[order.argsort(descending=True)[: round(area * 80)]] = 1
                weight = 10 * 16 ** (step / steps)
                loss = weight * (m - wanted.view(10, 8)).square().mean() - gained
                speed = 0.9 * speed + 0.1 * torch.autograd.grad(loss, p)[0]
                moved = p.detach() - 0.3 * speed
                clamped = [clamped[0] + int((moved < 0).sum()), clamped[1] + int((moved > 1).sum())]
                p = moved.clamp(0, 1)
            expected = smooth(p[None])[0].detach()
            found = fastcam.extremal_perturbation(model, x, [[0, 1]] * 2, area=area, steps=steps, normalize=False)
            torch.testing.assert_close(found[n, target], expected, rtol=1e-9, atol=1e-9)
    assert min(clamped) > 0  # both ends of [0, 1] matter


def test_passes_and_memory(images: Tensor) -> None:
    with watched() as seen:
        whole = fastcam.extremal_perturbation(Corner(), images, [[0, 1], [1, 2]], steps=3, batch_size=3)
    assert seen["forward"] == [2, *[3] * 3, *[1] * 3]
    alone = fastcam.extremal_perturbation(Corner(), images[1:], [[1, 2]], steps=3)
    torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(whole, fastcam.extremal_perturbation(Corner(), images, [[0, 1], [1, 2]], steps=3, batch_size=3))
