"""RAP, RSP and AGF against dense replicas in float64: chains of layers, every contribution a number of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.zoo import ZOO, conv

LOW, HIGH = -4.5, 5.0
CLASSES = 4


def behind_relu() -> nn.Sequential:
    return nn.Sequential(
        conv(3, 4, bias=True), nn.ReLU(),
        nn.MaxPool2d(2),
        conv(4, 5, stride=2, bias=True), nn.ReLU(),
        conv(5, 6, 1, bias=True), nn.ReLU(),
        conv(6, 4, groups=2, bias=True), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6), nn.ReLU(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def signed() -> nn.Sequential:
    return nn.Sequential(
        conv(3, 4, bias=True), nn.Tanh(),
        conv(4, 4, bias=True), nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
        conv(4, 5, stride=2, padding=0), nn.Tanh(),
        nn.Flatten(),
        nn.Linear(20, 6), nn.Tanh(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


CHAINS = {"behind_relu": behind_relu, "signed": signed}
EVERY_CHAIN = pytest.mark.parametrize("name", CHAINS)
TARGETS = torch.tensor([[0, 2], [3, 1]])


@cache
def chain(name: str) -> tuple[nn.Sequential, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        side = 8 if name == "behind_relu" else 10
        return CHAINS[name]().double().eval(), torch.randn(2, 3, side, side).double()


# -- the chain, dense


def values(model: nn.Sequential, image: Tensor) -> list[Tensor]:
    """What each layer reads; the last is what the model returns."""
    found = [image]
    with torch.no_grad():
        for layer in model:
            found.append(layer(found[-1][None])[0])
    return found


def matrix(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer as (inputs, outputs), from its answers to unit inputs."""
    eye = torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape)
    with torch.no_grad():
        nothing = layer(torch.zeros_like(eye[:1]))
        return (layer(eye) - nothing).flatten(1)


def over(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def by_magnitude(z: Tensor, r: Tensor) -> Tensor:
    return over(z.abs(), z.abs().sum(0).expand_as(z)) @ r


def box(w: Tensor, x: Tensor, r: Tensor) -> Tensor:
    z = (x - LOW)[:, None] * w.clamp(min=0) + (x - HIGH)[:, None] * w.clamp(max=0)
    return over(z, z.sum(0).expand_as(z)) @ r


def shifted(sent: Tensor, total: Tensor) -> Tensor:
    """A constant taken from all that are not 0, so that the sum is `total`."""
    live = sent != 0
    return sent - live * (sent.sum() - total) / live.sum().clamp(min=1)


def winner(layer: nn.MaxPool2d, x: Tensor, r: Tensor) -> Tensor:
    _, index = nn.functional.max_pool2d(x[None], layer.kernel_size, return_indices=True)
    found = torch.zeros_like(x).flatten(1)
    return found.scatter_add(1, index[0].flatten(1), r.flatten(1)).view_as(x)


Rule = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


def back(model: nn.Sequential, read: list[Tensor], r: Tensor, start: int, rule: Rule) -> Tensor:
    """R of what layer `start` reads, down to the image; rule: (layer, x, R of its result, its place) -> R of x."""
    for place in reversed(range(start)):
        layer, x = model[place], read[place]
        if isinstance(layer, nn.MaxPool2d):
            r = winner(layer, x, r)
        elif isinstance(layer, nn.AvgPool2d):
            r = by_magnitude(x.flatten()[:, None] * matrix(layer, x), r.flatten()).view_as(x)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            flat = r.flatten()
            r = (box(matrix(layer, x), x.flatten(), flat) if place == 0 else rule(layer, x, flat, place)).view_as(x)
        else:
            r = r.view_as(x)
    return r


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.abs().amax((-2, -1)).min() > 0
    error = (found - expected).abs().amax((-2, -1)) / expected.abs().amax((-2, -1))
    assert error.max() <= 1e-9, error


def maps(method: str, model: nn.Module, images: Tensor, layer: Any = None) -> Tensor:
    return fastcam.explain(
        model, images, TARGETS, layer, method=method, pixel_range=(LOW, HIGH), normalize=False, size="input"
    )


def each(function: Callable[[Tensor, int], Tensor], images: Tensor) -> Tensor:
    """(N, T, H, W) from a function of an image and a class."""
    return torch.stack(
        [
            torch.stack([function(image, t).sum(0) for t in row.tolist()])
            for image, row in zip(images, TARGETS, strict=True)
        ]
    )


# -- RAP


@EVERY_CHAIN
def test_rap(name: str) -> None:
    model, images = chain(name)

    def rule(layer: nn.Module, x: Tensor, r: Tensor, place: int) -> Tensor:
        z = x.flatten()[:, None] * matrix(layer, x)
        if place == len(model) - 1:
            return by_magnitude(z, r)
        sent = torch.zeros_like(z[:, 0])
        for j, r_j in enumerate(r):
            for_it, against_it = z[:, j].clamp(min=0), (-z[:, j]).clamp(min=0)
            whole = for_it if r_j > 0 else against_it
            if whole.sum() > 0:
                sent += whole / whole.sum() * r_j
            if against_it.sum() > 0:
                share = against_it.sum() / z[:, j].abs().sum()
                sent += share * against_it / against_it.sum() * r_j
        return shifted(sent, r.sum())

    def relevance(image: Tensor, target: int) -> Tensor:
        read = values(model, image)
        r = torch.zeros(CLASSES, dtype=torch.float64)
        r[target] = read[-1][target]
        return back(model, read, r, len(model), rule)

    assert_near(maps("rap", model, images), each(relevance, images))


@pytest.mark.parametrize("name", ["vgg_biases", "residual_downsample", "squeeze_excitation", "dense_blocks"])
def test_rap_keeps_the_total(name: str) -> None:
    model, images = ZOO[name].shared(), ZOO[name].images()
    found = fastcam.rap(model, images, [[0, 1, 2]] * 2, pixel_range=(LOW, HIGH), normalize=False, return_info=True)
    lost = found.left_out["lost_relevance"]
    total, z = found.maps.sum((2, 3)), found.logits[:, :3]
    torch.testing.assert_close(total + sum(lost.values()), z, rtol=1e-9, atol=0)
    # What passes a batch norm of its own goes to no input of 0; nothing else loses.
    losing = {place for place, amount in lost.items() if amount.abs().max() > 1e-12}
    modules = dict(model.named_modules())
    assert all(isinstance(modules.get(place), nn.BatchNorm2d) for place in losing), losing
    assert bool(losing) == (name == "dense_blocks")


# -- RSP


def patches(layer: nn.Conv2d, x: Tensor, k: int, i: int, j: int) -> tuple[Tensor, tuple[slice, ...]]:
    """What output (k, i, j) reads of the padded input, and where that lies."""
    (p, _), (s, _), (size, _) = layer.padding, layer.stride, layer.kernel_size
    group = k // (layer.out_channels // layer.groups)
    width = layer.in_channels // layer.groups
    where = (
        slice(group * width, (group + 1) * width),
        slice(i * s, i * s + size),
        slice(j * s, j * s + size),
    )
    padded = nn.functional.pad(x, (p, p, p, p))
    return padded[where], where


def redistributed(layer: nn.Conv2d, x: Tensor, r: Tensor) -> Tensor:
    """R >= 0 (K, h, w) through the weights that x and R make together."""
    places = [(k, i, j) for k in range(r.shape[0]) for i in range(r.shape[1]) for j in range(r.shape[2])]
    weights = torch.zeros_like(layer.weight)
    for k, i, j in places:
        weights[k] += r[k, i, j] * patches(layer, x, k, i, j)[0]
    (p, _) = layer.padding
    sent = torch.zeros_like(nn.functional.pad(x, (p, p, p, p)))
    for k, i, j in places:
        patch, where = patches(layer, x, k, i, j)
        z = patch * weights[k]
        if z.sum() > 0:
            sent[where] += z / z.sum() * r[k, i, j]
    return sent[:, p : sent.shape[1] - p, p : sent.shape[2] - p]


def positive_average(layer: nn.AvgPool2d, x: Tensor, r: Tensor) -> Tensor:
    m = matrix(layer, x)
    z = x.flatten().clamp(min=1e-9)[:, None] * m
    return (over(z, z.sum(0).expand_as(z)) @ r.flatten()).view_as(x)


@pytest.mark.parametrize(("name", "start"), [("behind_relu", 9), ("behind_relu", 5), ("signed", 7), ("signed", 2)])
def test_rsp(name: str, start: int) -> None:
    model, images = chain(name)

    def relevance(image: Tensor, target: int) -> Tensor:
        read = values(model, image)
        a = read[start].clone().requires_grad_()
        model[start:](a[None])[0, target].backward()
        assert a.grad is not None
        r = read[start] * a.grad.mean((1, 2), keepdim=True)
        r = r / (r.max() if r.max() > 0 else r.abs().max())

        def rule(layer: nn.Module, x: Tensor, r: Tensor, place: int) -> Tensor:
            assert isinstance(layer, nn.Conv2d)
            r = r.view_as(read[place + 1])
            with torch.no_grad():
                above = redistributed(layer, x.clamp(min=0), r.clamp(min=0))
                below = redistributed(layer, x.clamp(min=0), (-r).clamp(min=0))
            return above - below if layer.kernel_size == (1, 1) else shifted(2 * (above - below), r.sum())

        place = start
        while place > 0:
            layer = model[place - 1]
            if isinstance(layer, nn.AvgPool2d):
                r = positive_average(layer, read[place - 1], r)
            else:
                r = one_back(model, read, r, place, rule)
            place -= 1
        return r

    assert_near(maps("rsp", model, images, str(start - 1)), each(relevance, images))


def one_back(model: nn.Sequential, read: list[Tensor], r: Tensor, place: int, rule: Rule) -> Tensor:
    """Through the layer in front of `place` alone."""
    layer, x = model[place - 1], read[place - 1]
    if isinstance(layer, nn.MaxPool2d):
        return winner(layer, x, r)
    if isinstance(layer, nn.Conv2d):
        flat = r.flatten()
        return (box(matrix(layer, x), x.flatten(), flat) if place == 1 else rule(layer, x, flat, place - 1)).view_as(x)
    return r.view_as(x)


# -- AGF


def score(y: Tensor, target: int) -> Tensor:
    distance = y - y[target]
    near = y[target] * torch.exp(-((distance / distance.abs().max()) ** 2) / 2)
    return near[target].exp() / near.exp().sum()


def factor(u: Tensor, guide: Tensor) -> Tensor:
    """F of u (C, h, w) by least squares, position by position."""
    h = 1 / (1 + torch.exp(-10 * (u / u.max() if u.max() > 0 else 0 * u)))
    means = []
    for cluster in (guide < 0, guide > 0):
        means.append(h[:, cluster].mean(1) if cluster.any() else torch.zeros_like(h[:, 0, 0]))
    p = torch.stack(means, 1)
    # the ridge, as two more equations 1 v = 0
    left = torch.cat((p, torch.eye(2, dtype=torch.float64)))
    found = torch.zeros_like(guide)
    for i in range(guide.shape[0]):
        for j in range(guide.shape[1]):
            right = torch.cat((h[:, i, j], torch.zeros(2, dtype=torch.float64)))
            v = torch.linalg.lstsq(left, right[:, None]).solution.flatten().clamp(min=0)
            found[i, j] = (v[1] - v[0]).clamp(min=0)
    return found


@EVERY_CHAIN
def test_agf(name: str) -> None:
    model, images = chain(name)

    def relevance(image: Tensor, target: int) -> Tensor:
        read = values(model, image)

        def gradient(place: int) -> Tensor:
            x = read[place].clone().requires_grad_()
            score(model[place:](x[None])[0], target).backward()
            assert x.grad is not None
            return x.grad

        def rule(layer: nn.Module, x: Tensor, r: Tensor, place: int) -> Tensor:
            m = matrix(layer, x)
            c = by_magnitude(x.flatten()[:, None] * m, r)
            if isinstance(layer, nn.Linear):
                return c
            a, c = by_magnitude(m, r).view_as(x), c.view_as(x)
            g = gradient(place)
            attention = (x * g).mean(0).clamp(min=0)
            attention = attention / attention.max() if attention.max() > 0 else attention
            guide = c.mean(0)
            residual = (factor(x, guide) + attention) / (1 + torch.exp(-c)) + factor(g, guide) + a
            return shifted(c + residual * (c != 0), c.sum())

        last = len(model) - 1
        return back(model, read, read[last] * gradient(last), last, rule)

    assert_near(maps("agf", model, images), each(relevance, images))
