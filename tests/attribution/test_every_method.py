"""Every method with bad input, and the model behind it: some have passes of their own.

The cases in full, for four methods, are in `test_bad_input` and `test_model_untouched`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.network.arguments import NotFiniteError
from tests.attribution.test_bad_input import NoFeatureMap, ReadsValues, Segmenter
from tests.attribution.test_model_untouched import assert_unchanged, build, raises, snapshot, some_images
from tests.classifiers import SMALL_OPTIONS
from tests.zoo import head

KNOWN = {method.name: method for method in fastcam.methods()}
EVERY_METHOD = pytest.mark.parametrize("method", KNOWN)
GOOD = some_images()


def explain(method: str, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    options = {**SMALL_OPTIONS.get(method, {}), **kwargs}
    if "pixel_range" in KNOWN[method].options:
        options.setdefault("pixel_range", (-6.0, 6.0))
    if "generator" in KNOWN[method].options:
        # Torch's own would be another afterwards, as it is to be.
        options.setdefault("generator", torch.Generator())
    return fastcam.explain(model, *args, method=method, **options)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build().train()


def check(method: str, model: nn.Module, error: type[Exception], match: str, *args: Any, **kwargs: Any) -> None:
    before = snapshot(model)
    with pytest.raises(error, match=match) as caught:
        explain(method, model, *args, **kwargs)
    assert type(caught.value) is error
    assert_unchanged(model, before)


def with_value(value: float) -> Tensor:
    images = some_images()
    images[1, 2, 3, 4] = value
    return images


class Overflows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1e30 * 1e30


@EVERY_METHOD
def test_bad_images(method: str, model: nn.Module) -> None:
    check(method, model, ValueError, r"images: .*\(3, 10, 10\) given, \(N, C, H, W\) is valid; add the batch", GOOD[0])
    check(method, model, ValueError, r"images: .*\(1, 2, 3, 10, 10\) given, \(N, C, H, W\) is valid", GOOD[None])
    check(method, model, ValueError, r"images: an empty tensor of shape \(0, 3, 10, 10\) given, at least", GOOD[:0])
    check(method, model, ValueError, r"3 channels.*2 channels", GOOD[:, :2])
    check(method, model, TypeError, r"images: dtype torch.uint8 given, a floating-point dtype is valid", GOOD.byte())
    check(method, model, TypeError, r"images: ndarray given, a float tensor \(N, C, H, W\) is valid", GOOD.numpy())
    for value in (torch.nan, torch.inf, -torch.inf):
        told = r"images: NaN or infinite values in image\(s\) 1; all must be finite"
        check(method, model, NotFiniteError, told, with_value(value), 0)


def test_eigen_cam_takes_no_layer_that_is_not_finite() -> None:
    """The decomposition of one would raise an error of its own, and what follows the layer may hide it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Overflows(), nn.Sigmoid(), head(4)).eval()
    told = "model: its eigen_cam maps for these images are NaN or infinite"
    check("eigen_cam", model, NotFiniteError, told, GOOD, 0, "1")


@EVERY_METHOD
def test_bad_targets(method: str, model: nn.Module) -> None:
    for targets, wrong in ((5, "5"), (-1, "-1"), ([0, 9], "9"), (torch.tensor([[0, 1], [2, 99]]), "99")):
        told = rf"targets: class {wrong} given, 0 to 4 is valid for this model's 5 classes"
        check(method, model, ValueError, told, GOOD, targets)
    check(method, model, ValueError, r"targets: shape \(3,\) given for 2 image\(s\);.*are valid", GOOD, [0, 1, 2])
    check(method, model, ValueError, r"targets: none given.*are valid", GOOD, [])
    check(method, model, TypeError, r"targets: dtype torch.float32 given;.*are valid", GOOD, torch.zeros(2))


@EVERY_METHOD
def test_bad_layers(method: str, model: nn.Module) -> None:
    if KNOWN[method].layer == "none":
        told = rf"layer: {method} explains the images and has no layer; leave it out"
        check(method, model, ValueError, told, GOOD, 0, "block")
        return
    check(method, model, ValueError, r"(?s)layer: .*'blok'.*'block'", GOOD, 0, "blok")
    check(method, model, ValueError, r"(?s)layer: .*'fc'", GOOD, 0, "fc")
    check(method, model, ValueError, r"(?s)layer: .*'drop'", GOOD, 0, "drop")
    check(method, model, TypeError, r"layer: .*int", GOOD, 0, 3)


@EVERY_METHOD
def test_other_bad_arguments(method: str, model: nn.Module) -> None:
    check(method, model, ValueError, r"size: \(0, 5\) given.*\(height, width\)", GOOD, 0, size=(0, 5))
    check(method, model, ValueError, r"normalize: 'yes' given, one of True, False is valid", GOOD, 0, normalize="yes")
    check(method, model, ValueError, r"normalize_at: 'image' given", GOOD, 0, normalize_at="image")
    check(method, model, ValueError, r"precision: 'int4' given", GOOD, 0, precision="int4")
    check(method, model, TypeError, rf"colour: no option of {method}; layer, .* are valid", GOOD, 0, colour="jet")


# A failing capture takes its time, and comes before any method's own work: three more than `test_bad_input` has.
@pytest.mark.parametrize("method", ["agf", "guided_backprop", "rise"])
def test_models_that_no_method_explains(method: str) -> None:
    wrong: list[tuple[nn.Module, str]] = [
        (Segmenter(), r"model: a classifier that returns logits \(N, classes\) is expected, .* 5, 10, 10\).*`output=`"),
        (
            ReadsValues(),
            r"model cannot be captured .* in module 'chooser' \(Chooser\), at .*; write it without",
        ),
    ]
    if KNOWN[method].layer == "last":
        wrong.append((NoFeatureMap(), r"layer: "))
    for model, match in wrong:
        check(method, model, ValueError, match, GOOD, 0)
    with pytest.raises(TypeError, match=r"model: function given, a torch\.nn\.Module is valid"):
        explain(method, lambda x: x, GOOD)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def delicate() -> nn.Module:
    """Flags that differ from module to module, a frozen parameter, a gradient that waits for its step."""
    model = build(seed=1).train()
    model.block.bn1.eval()
    model.stem.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    return model


@EVERY_METHOD
def test_nothing_changes(method: str, delicate: nn.Module) -> None:
    model, images = delicate, some_images()
    given, calls = images.clone(), []
    handles = [
        model.block.register_forward_hook(lambda *_: calls.append("forward")),
        model.stem.register_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    before = snapshot(model)
    for more in ({}, {"return_info": True}, {"precision": "bfloat16"}):
        explain(method, model, images, [[0, 1], [2, 3]], **more)
        assert_unchanged(model, before)
    raises(lambda: explain(method, model, images * float("nan"), 0))
    raises(lambda: explain(method, model, images, 99))
    assert_unchanged(model, before)
    assert torch.equal(model.fc.weight.grad, torch.ones_like(model.fc.weight))
    assert torch.equal(images, given)
    assert not calls
    for handle in handles:
        handle.remove()


BAD_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("score_cam", {"baseline": "noise"}, r"baseline: 'noise' given, one of 'zeros', None is valid"),
    ("score_cam", {"score": "margin"}, r"score: 'margin' given, one of 'probability', 'logit' is valid"),
    ("score_cam", {"weights": "none"}, r"weights: 'none' given, one of 'increase', 'softmax' is valid"),
    ("is_cam", {"scales": "log"}, r"scales: 'log' given, one of 'linear', 'cumulative' is valid"),
    ("abs_cam", {"mask": "none"}, r"mask: 'none' given, one of 'channel', 'shared', 'joint' is valid"),
    ("group_cam", {"percentile": -1}, r"percentile: -1 given, a number from 0 to 100 is valid"),
    ("group_cam", {"percentile": 101}, r"percentile: 101 given, a number from 0 to 100 is valid"),
    ("group_cam", {"percentile": float("nan")}, r"percentile: nan given, a number from 0 to 100 is valid"),
    ("rise", {"keep": 0}, r"keep: 0 given, a number between 0 and 1 is valid"),
    ("rise", {"keep": None}, r"keep: None given, a number between 0 and 1 is valid"),
    ("rise", {"keep": 1.0}, r"keep: 1\.0 given, a number between 0 and 1 is valid"),
    ("extremal_perturbation", {"area": 0}, r"area: 0 given, a share between 0 and 1 is valid"),
    ("extremal_perturbation", {"area": 1}, r"area: 1 given, a share between 0 and 1 is valid"),
    ("extremal_perturbation", {"area": True}, r"area: True given, a share between 0 and 1 is valid"),
    ("cameras", {"largest": 0.5}, r"largest: 0\.5 given, a number of at least 1 is valid"),
    ("cameras", {"largest": float("inf")}, r"largest: inf given, a number of at least 1 is valid"),
    ("ss_cam", {"std": -1.0}, r"std: -1\.0 given, a number of at least 0 is valid"),
    ("ss_cam", {"std": float("nan")}, r"std: nan given, a number of at least 0 is valid"),
    ("ss_cam", {"std": "2"}, r"std: '2' given, a number of at least 0 is valid"),
]
BAD_OPTIONS += [
    ("smooth_grad_cam_pp", {"std": value}, rf"std: {value!r} given, a finite number of at least 0 is valid")
    for value in (-0.1, float("nan"), float("inf"), "0.3")
]
WHOLE = [
    (method, option)
    for method, known in KNOWN.items()
    for option in ("samples", "groups", "masks", "cells", "steps")
    if option in known.options
]
BAD_OPTIONS += [
    (method, {option: value}, rf"{option}: {value} given, a positive integer is valid")
    for method, option in WHOLE
    for value in (0, -1, True, 2.5, None)
]
BAD_OPTIONS += [
    (method, {"batch_size": value}, rf"batch_size: {value} given, None or a positive integer is valid")
    for method, known in KNOWN.items()
    if "batch_size" in known.options
    for value in (0, -3, 1.5, True)
]


@pytest.mark.parametrize(
    ("method", "options", "match"), BAD_OPTIONS, ids=[f"{m}-{k}-{v}" for m, o, _ in BAD_OPTIONS for k, v in o.items()]
)
def test_bad_options(method: str, options: dict[str, Any], match: str, model: nn.Module) -> None:
    check(method, model, ValueError, match, GOOD, 0, **options)


@pytest.mark.parametrize("method", [name for name, known in KNOWN.items() if "generator" in known.options])
def test_generators_of_another_kind(method: str, model: nn.Module) -> None:
    check(method, model, TypeError, r"generator: int given, None or a torch.Generator is valid", GOOD, 0, generator=3)
