"""Every method takes every classifier, with several targets, several layers and all precisions.

Pairwise: of model, method, precision, form of the targets and form of the layers, every pair of values occurs in some
test. The classifiers are torchvision's, with an eighth of their channels. `python -m bench.matrix` runs the full
product on the full models.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.attribution import METHODS
from tests.classifiers import MODELS, SMALL_OPTIONS, UNDEFINED, settle, thin
from tests.zoo import ZOO

PRECISIONS = (None, "float32", "tf32", "bfloat16", "float16")
TARGETS: dict[str, Any] = {"predicted": None, "one": 2, "each": [1, 5], "several": [[0, 3], [6, 6]]}
LAYERS = ("default", "named", "list")


def combination(model: str, method: str) -> tuple[str | None, str, str]:
    """Precision, targets and layers of one test: steps through each list that meet every pair."""
    i, j = list(MODELS).index(model), list(METHODS).index(method)
    return PRECISIONS[(i + j) % 5], list(TARGETS)[(i + 3 * j) % 4], LAYERS[(i + 2 * j + j // 3) % 3]


# Where a narrow network lets nothing through: test_why_a_narrow_mobilenet_has_empty_maps.
EMPTY = {("mobilenet_v2", "rsp"), ("mobilenet_v2", "guided_backprop")}

CASES = [(model, method, *combination(model, method)) for model in MODELS for method in METHODS]


def test_every_pair_of_values_occurs() -> None:
    for a, b in itertools.combinations(range(5), 2):
        every = set(itertools.product({case[a] for case in CASES}, {case[b] for case in CASES}))
        assert {(case[a], case[b]) for case in CASES} == every


@cache
def classifier(name: str) -> tuple[nn.Module, int]:
    build, side = MODELS[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.manual_seed(0)
        model = thin(build)
        settle(model, torch.randn(4, 3, side, side))
    return model, side


def early_layer(model: nn.Module) -> str:
    """The second convolution that the images pass: few channels, many positions."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][1]


def last_layer(model: nn.Module, side: int) -> str:
    """The name of the last feature map, for which `layer=None` stands."""
    name: str = fastcam.explain(model, torch.zeros(2, 3, side, side), 0, method="random_cam", return_info=True).layer
    return name


@cache
def sides_of(name: str) -> dict[str, tuple[int, int]]:
    """The early layer of a classifier and the last, with the sides of their feature maps."""
    model, side = classifier(name)
    names = [early_layer(model), last_layer(model, side)]
    options = {"method": "random_cam", "size": "layer"}
    maps = fastcam.explain(model, torch.zeros(2, 3, side, side), 0, names, **options)
    early, last = (tuple(m.shape[1:]) for m in maps)
    assert early > last
    return dict(zip(names, (early, last), strict=True))


@pytest.mark.parametrize(
    ("name", "method", "precision", "targets", "layers"),
    [pytest.param(*case, id="-".join(map(str, case))) for case in CASES],
)
def test_methods_take_classifiers(name: str, method: str, precision: str | None, targets: str, layers: str) -> None:
    model, side = classifier(name)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    of_method = METHODS[method]
    early, last = sides_of(name)
    at: Any = {"default": None, "named": early, "list": [early, last]}[layers]
    options = {**SMALL_OPTIONS.get(method, {}), "precision": precision, "normalize": False}
    if of_method.layer == "none":
        at = None
    undefined = name in UNDEFINED.get(method, ())
    if undefined or (method == "cam" and at is not None):
        with pytest.raises(ValueError, match=f"{method} needs"):
            fastcam.explain(model, images, TARGETS[targets], at, method=method, **options)
    if undefined:
        return
    if method == "cam" and at is not None:
        at = [last] if isinstance(at, list) else last
    # A list's maps are told apart by their sizes.
    options["size"] = "layer" if isinstance(at, list) else "input"
    found = fastcam.explain(model, images, TARGETS[targets], at, method=method, return_info=True, **options)
    maps = found.maps if isinstance(at, list) else [found.maps]
    named = at if isinstance(at, list) else [at]
    assert len(maps) == len(named)
    several = (2,) if targets == "several" else ()
    for m, layer in zip(maps, named, strict=True):
        # RSP goes on to the images from every layer; what takes no layer explains the images.
        own = isinstance(at, list) and method != "rsp"
        assert m.shape == (2, *several, *(sides_of(name)[layer] if own else (side, side)))
        assert m.dtype == torch.float32
        assert m.isfinite().all()
        # What is cut at 0 may be empty: all evidence may be against a class.
        if not of_method.relu and (name, method) not in EMPTY:
            assert m.any()
    if targets == "each":
        assert found.targets.tolist() == [1, 5]
    if "generator" in of_method.options:
        # Each map has random numbers of its own; each seed gives the same maps.
        again = [
            fastcam.explain(model, images, 2, at, method=method, generator=torch.Generator().manual_seed(4), **options)
            for _ in range(2)
        ]
        torch.testing.assert_close(*again, rtol=0, atol=0)
        return
    if targets == "several":
        torch.testing.assert_close(maps[0][1, 0], maps[0][1, 1])
    if isinstance(at, list) and of_method.family != "score" and precision not in ("bfloat16", "float16"):
        # Where that takes few passes: the layer's own result, to the rounding that 16 bits would make larger.
        alone = fastcam.explain(model, images, TARGETS[targets], last, method=method, **options)
        torch.testing.assert_close(maps[-1], alone)


def test_why_a_narrow_mobilenet_has_empty_maps() -> None:
    model, side = classifier("mobilenet_v2")
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    assert {name for name, _ in EMPTY} == {"mobilenet_v2"}
    for _, method in EMPTY:
        assert not fastcam.explain(model, images, [list(range(7))] * 2, method=method).any()
    model = copy.deepcopy(model)
    stem, bottleneck = model.features[0], model.features[1]
    held: dict[str, Tensor] = {}
    stem.register_forward_hook(lambda *call: held.update(stem=call[2]))
    bottleneck.register_forward_hook(lambda *call: held.update(bottleneck=call[2]))

    for module in model.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = False
            if module is not stem[2]:
                # What is not clipped comes in `into`: the gradient's own sign is left to look at.
                module.register_full_backward_hook(lambda _, into, __: (into[0].clamp(min=0),))
    logits = model(images)
    # RSP: the first bottleneck ends linearly, in two channels, and is negative everywhere; of inputs the positive part
    # alone takes part.
    assert held["bottleneck"].max() < 0
    # Guided backpropagation: all of the gradient lies in those of the stem's four channels that are 0 everywhere. Of
    # the depthwise channels behind the others one is 0 and one gets no positive gradient.
    live = held["stem"].amax((0, 2, 3)) > 0
    assert live.tolist() == [False, True, False, True]
    for target in range(logits.shape[1]):
        (g,) = torch.autograd.grad(logits[:, target].sum(), held["stem"], retain_graph=True)
        assert g.any()
        assert not g[:, live].any()


@cache
def in_double(gated: bool) -> tuple[nn.Module, nn.Module, int]:
    """A network, the same in float64, and the side of its images."""
    single, side = (ZOO["squeeze_excitation"].shared(torch.float32), 12) if gated else classifier("resnet18")
    return single, copy.deepcopy(single).double(), side


@pytest.mark.parametrize("method", METHODS)
def test_a_double_model_is_explained_in_double(method: str) -> None:
    """Pixels move by 1e-8 and by twice that, and the maps with them: the second time twice as far.

    Float32, in whatever step, would round that away, or up to its own 6e-8.
    """
    # Gradients at the images do not move where rectifiers are all that bends; gates bend, too.
    single, model, side = in_double(method in ("gradient", "guided_backprop", "deconvnet"))
    generator = torch.Generator().manual_seed(3)
    images, way = (torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64) for _ in range(2))

    def explain(net: nn.Module, x: Tensor) -> fastcam.Explanation:
        options = {**SMALL_OPTIONS.get(method, {}), "normalize": False, "return_info": True}
        if "generator" in METHODS[method].options:
            options["generator"] = torch.Generator().manual_seed(4)
        found: fastcam.Explanation = fastcam.explain(net, x, [[1, 2]] * 2, method=method, **options)
        return found

    first, second, third = (explain(model, images + k * 1e-8 * way) for k in range(3))
    assert first.maps.dtype == first.logits.dtype == torch.float64
    once, twice = second.maps - first.maps, third.maps - first.maps
    assert once.any() or method == "fake_cam"
    assert (twice - 2 * once).abs().max() <= 1e-12 * first.maps.abs().max()
    # Random numbers of another dtype are others, and extremal_perturbation ranks pixels.
    if "generator" not in METHODS[method].options and method != "extremal_perturbation":
        narrow = explain(single, images.float()).maps
        assert narrow.dtype == torch.float32
        assert (narrow - first.maps).abs().max() <= 1e-4 * first.maps.abs().max()
