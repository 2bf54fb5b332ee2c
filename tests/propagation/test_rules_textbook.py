"""Every rule against dense fractions in float64: each network of the zoo, to the images and to layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastcam
from tests import shares, textbook
from tests.propagation.exhibits import exhibit, pixel_range
from tests.shares import Rules
from tests.zoo import ZOO

AFFINE = {"folds": True, "norm": 1e-6}
# What a composite is, and the options that make it.
COMPOSITES: dict[str, tuple[dict[str, Any], Rules]] = {
    "z+": ({"rule": "z+"}, Rules(first=shares.box)),
    "z+-z+": ({"rule": "z+", "first": "z+"}, Rules()),
    "z+-w2": ({"rule": "z+", "first": "w2"}, Rules(first=shares.w_square)),
    "epsilon": ({"rule": "epsilon"}, Rules(shares.epsilon(), shares.epsilon(), **AFFINE)),
    "epsilon-0.1": (
        {"rule": "epsilon", "epsilon": 0.1, "first": "zB"},
        Rules(shares.epsilon(0.1), shares.epsilon(0.1), first=shares.box, folds=True, norm=0.1),
    ),
    "gamma": ({"rule": "gamma"}, Rules(shares.gamma(), shares.gamma(), **AFFINE)),
    "gamma-2": ({"rule": "gamma", "gamma": 2.0}, Rules(shares.gamma(2.0), shares.gamma(2.0), **AFFINE)),
    "alpha_beta": ({"rule": "alpha_beta"}, Rules(shares.alpha_beta(2, 1), shares.alpha_beta(2, 1))),
    "alpha_beta-1.5": (
        {"rule": "alpha_beta", "alpha": 1.5, "beta": 0.5},
        Rules(shares.alpha_beta(1.5, 0.5), shares.alpha_beta(1.5, 0.5)),
    ),
    "epsilon_plus": ({"rule": "epsilon_plus"}, Rules(linear=shares.epsilon())),
    "epsilon_plus_flat": ({"rule": "epsilon_plus_flat"}, Rules(linear=shares.epsilon(), first=shares.flat)),
    "epsilon_gamma_box": (
        {"rule": "epsilon_gamma_box", "gamma": 0.5, "epsilon": 1e-3},
        Rules(shares.gamma(0.5), shares.epsilon(1e-3), first=shares.box, **AFFINE),
    ),
}
# Where a rule could go wrong in a way of its own: signed inputs, both signs of outputs, padding, batch norms.
FEW = ["vgg_biases", "dense_blocks", "preactivation", "same_padding", "squeeze_excitation", "signed_inputs"]


def assert_near(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    difference = (found - expected).abs().flatten(2).amax(2)
    largest = expected.abs().flatten(2).amax(2)
    assert (difference <= 1e-9 * largest).all(), f"{what}: {(difference / largest).max():.1e}"


VARIANTS = ("z+-z+", "z+-w2", "gamma-2", "alpha_beta-1.5", "epsilon-0.1", "epsilon_plus")
CASES = [(name, rule) for name in ZOO for rule in COMPOSITES if name in FEW or rule not in VARIANTS]


@pytest.mark.parametrize(("name", "rule"), CASES, ids=map("-".join, CASES))
def test_to_the_images_and_to_layers(name: str, rule: str) -> None:
    options, rules = COMPOSITES[rule]
    model, images, targets = exhibit(name)
    low, high = pixel_range(images)
    ends = tuple(torch.tensor(end, dtype=torch.float64)[:, None, None] for end in (low, high))
    expected = textbook.propagate(
        model, images, targets, seed=textbook.one_hot_seed, rules=rules, pixel_range=(ends[0], ends[1])
    )
    if rules.first is shares.box:
        options = {**options, "pixel_range": (low, high)}
    found = fastcam.relevance(model, images, targets, "input", **options)
    assert_near(found, expected.input.relevance, "input")
    layers = expected.feature_maps()[::4]
    for layer, relevance in zip(layers, fastcam.relevance(model, images, targets, layers, **options), strict=True):
        assert_near(relevance, expected[layer].relevance, layer)
