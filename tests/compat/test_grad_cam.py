"""One script under `pytorch_grad_cam` and under `fastcam.compat.grad_cam`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam import base_cam, eigen_grad_cam, hirescam, layer_cam
from pytorch_grad_cam.utils import model_targets as their_model_targets
from pytorch_grad_cam.utils.image import preprocess_image as their_preprocess_image
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.image import show_cam_on_image as their_show_cam_on_image
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    RawScoresOutputTarget,
)
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection, get_2d_projection_with_sign_correction
from torch import Tensor, nn

import fastcam
from fastcam.compat import grad_cam
from fastcam.compat.grad_cam.utils import model_targets
from fastcam.compat.grad_cam.utils.image import preprocess_image, show_cam_on_image
from tests.attribution.test_ablation import leave_out
from tests.attribution.test_model_untouched import assert_unchanged, snapshot
from tests.compat.models import full_size, random_images, real_efficientnet_lite0, run, some_resnet18, some_vgg

THEIRS, OURS = "pytorch_grad_cam", "fastcam.compat.grad_cam"
TOLERANCE = 1e-4
GRADIENT_CLASSES = ["GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "HiResCAM"]

SCRIPT = """
    from PACKAGE import AblationCAM, EigenCAM, EigenGradCAM, FullGrad, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
    from PACKAGE import ScoreCAM, XGradCAM
    from PACKAGE.utils import model_targets
    from PACKAGE.utils.image import show_cam_on_image

    methods = {"GradCAM": GradCAM, "GradCAMPlusPlus": GradCAMPlusPlus, "XGradCAM": XGradCAM, "LayerCAM": LayerCAM,
               "HiResCAM": HiResCAM, "AblationCAM": AblationCAM, "FullGrad": FullGrad, "EigenCAM": EigenCAM,
               "EigenGradCAM": EigenGradCAM, "ScoreCAM": ScoreCAM}

    with methods[name](model=model, target_layers=target_layers) as cam:
        cam.batch_size = 32
        maps = cam(input_tensor=images, targets=[target(c, model_targets) for c in classes], **how)
        outputs = cam.outputs

    picture = show_cam_on_image(photo, maps[0], use_rgb=True)
"""


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return some_resnet18()


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    return real_efficientnet_lite0()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return full_size()


# A class and the module of target objects -> what a script explains
Target = Callable[[Any, Any], Callable[[Tensor], Tensor]]


def logit(c: Any, targets: Any) -> Callable[[Tensor], Tensor]:
    return targets.ClassifierOutputTarget(c)


def both(
    name: str,
    model: nn.Module,
    layers: list[nn.Module],
    images: Tensor,
    classes: list[Any],
    target: Target = logit,
    **how: Any,
) -> Any:
    """The variables of the script under both imports."""
    photo = np.random.default_rng(0).random((*images.shape[2:], 3), dtype=np.float32)
    given = {"name": name, "model": model, "target_layers": layers, "images": images, "classes": classes}
    given["target"] = target
    theirs = run(SCRIPT, THEIRS, **given, how=how, photo=photo)
    ours = run(SCRIPT, OURS, **given, how=how, photo=photo)
    return theirs, ours


def assert_same_kind(theirs: dict[str, Any], ours: dict[str, Any], peak: float = 0.6) -> None:
    """What the script got has the same types, shapes and ranges, and there was something to see.

    peak: the least that the maps' largest values come to on average; means of several maps have lower ones.
    """
    for name in ("maps", "picture"):
        assert type(ours[name]) is type(theirs[name]) is np.ndarray
        assert ours[name].shape == theirs[name].shape
        assert ours[name].dtype == theirs[name].dtype
    assert ours["maps"].dtype == np.float32
    assert ours["maps"].min() >= 0
    assert ours["maps"].max() <= 1
    assert ours["maps"].max(axis=(1, 2)).mean() > peak
    assert (ours["outputs"] - theirs["outputs"]).abs().max() < 1e-5 * theirs["outputs"].abs().max()


def assert_same(theirs: dict[str, Any], ours: dict[str, Any], peak: float = 0.6) -> None:
    assert_same_kind(theirs, ours, peak)
    assert np.abs(ours["maps"] - theirs["maps"]).max() < TOLERANCE
    # Colours are read from a table of 256; steps beside a threshold fall to either side.
    difference = np.abs(ours["picture"].astype(int) - theirs["picture"].astype(int))
    assert difference.max() <= 6
    assert difference.mean() < 0.1


def classes_of(model: nn.Module, images: Tensor) -> list[int]:
    """The likeliest class of the first image, the second of the second, and so on."""
    with torch.no_grad():
        order = model(images).argsort(1, descending=True)
    return [int(row[n]) for n, row in enumerate(order)]


@pytest.mark.parametrize("name", GRADIENT_CLASSES)
@pytest.mark.parametrize("where", [["layer4"], ["layer2"], ["layer3", "layer4"]], ids="+".join)
def test_gradient_methods(name: str, where: list[str], resnet18: nn.Module) -> None:
    images = random_images(3, 96)
    layers = [resnet18.get_submodule(layer)[-1] for layer in where]
    assert_same(*both(name, resnet18, layers, images, classes_of(resnet18, images)))


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM"])
def test_gradient_methods_on_real_weights(name: str, efficientnet: nn.Module) -> None:
    images = random_images(2, 96)
    layer = efficientnet.get_submodule(fastcam.grad_cam(efficientnet, images, return_info=True).layer)
    assert_same(*both(name, efficientnet, [layer], images, classes_of(efficientnet, images)))


def test_ablation_cam(resnet18: nn.Module) -> None:
    images = random_images(1, 40)
    assert_same(*both("AblationCAM", resnet18, [resnet18.layer4[-1]], images, classes_of(resnet18, images)))


def test_ablation_cam_where_the_head_is_more_than_a_classifier(small: nn.Module) -> None:
    images = random_images(2, 12)
    assert_same(*both("AblationCAM", small, [small.features[2]], images, [1, 3]))


def test_ablation_cam_differs_by_what_stands_for_a_channel_left_out(
    small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is 0; theirs is 0 where that is the layer's least value, else 1e7 and more below the least value."""
    images, layer = random_images(2, 12), small.features[3]
    held: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *call: held.append(call[2]))
    theirs, ours = both("AblationCAM", small, [layer], images, [1, 3])
    handle.remove()
    assert 0.2 < (held[0] < 0).double().mean() < 0.8
    assert_same_kind(theirs, ours)
    assert np.abs(ours["maps"] - theirs["maps"]).max() > 0.05
    monkeypatch.setattr(pytorch_grad_cam.AblationLayer, "__call__", leave_out)
    assert_same(*both("AblationCAM", small, [layer], images, [1, 3]))


@pytest.mark.parametrize("build", [some_resnet18, lambda: full_size(1e5)], ids=["resnet18", "full_size"])
def test_full_grad(build: Callable[[], nn.Module]) -> None:
    assert_same(*both("FullGrad", build(), [], random_images(2, 64), [1, 3]))


def test_score_cam_where_nothing_is_upsampled(small: nn.Module) -> None:
    images = random_images(2, 12)
    assert_same(*both("ScoreCAM", small, [small.features], images, [1, 3]))


def test_score_cam_differs_by_the_upsampling_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = some_vgg(), random_images(2, 24)
    theirs, ours = both("ScoreCAM", model, [model.features[4]], images, [1, 3])
    assert_same_kind(theirs, ours)
    assert np.abs(ours["maps"] - theirs["maps"]).max() > TOLERANCE
    # Theirs with half-pixel centres in place of aligned corners:
    half_pixel = functools.partial(nn.Upsample, mode="bilinear", align_corners=False)
    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", half_pixel)
    assert_same(*both("ScoreCAM", model, [model.features[4]], images, [1, 3]))


def test_eigen_cam_up_to_the_sign_that_theirs_leaves_open(resnet18: nn.Module) -> None:
    images, layer = random_images(3, 96), resnet18.layer3[-1]
    held: dict[str, Tensor] = {}
    handle = layer.register_forward_hook(lambda *call: held.update(output=call[2].detach()))
    theirs, ours = both("EigenCAM", resnet18, [layer], images, [0, 1, 2])
    handle.remove()
    assert_same_kind(theirs, ours)
    projected = get_2d_projection(held["output"].numpy())
    signs = [1 if p.max() >= -p.min() else -1 for p in projected]
    positive = np.stack([np.maximum(sign * p, 0) for sign, p in zip(signs, projected, strict=True)])
    expected = scale_cam_image(scale_cam_image(positive, (96, 96)))
    assert np.abs(ours["maps"] - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM"])
def test_smoothing_by_augmentation(name: str, resnet18: nn.Module) -> None:
    images = random_images(2, 64)
    classes = classes_of(resnet18, images)
    assert_same(*both(name, resnet18, [resnet18.layer3[-1]], images, classes, aug_smooth=True))
    plain, _ = both(name, resnet18, [resnet18.layer3[-1]], images, classes)
    smooth, _ = both(name, resnet18, [resnet18.layer3[-1]], images, classes, aug_smooth=True)
    assert np.abs(plain["maps"] - smooth["maps"]).max() > 0.01


def test_images_that_are_not_square(resnet18: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    theirs, ours = both("GradCAM", resnet18, [resnet18.layer3[-1]], images, [1, 3])
    assert ours["maps"].shape == (2, 64, 96)
    assert_same(theirs, ours)


@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "augmented"])
def test_no_targets_means_the_predicted_classes(augmented: bool, resnet18: nn.Module) -> None:
    images = random_images(2, 64)
    script = """
        from PACKAGE import GradCAM
        maps = GradCAM(model, [model.layer4])(images, None, augmented)
    """
    theirs, ours = (
        run(script, package, model=resnet18, images=images, augmented=augmented) for package in (THEIRS, OURS)
    )
    assert np.abs(ours["maps"] - theirs["maps"]).max() < TOLERANCE
    if not augmented:
        assert np.array_equal(grad_cam.GradCAM(resnet18, [resnet18.layer4])(images), ours["maps"])


# What a script may explain in place of a class's logit; one, three and so on are classes.
TARGETS: dict[str, Target] = {
    "probability": lambda c, targets: targets.ClassifierOutputSoftmaxTarget(c),
    "rest": lambda c, targets: targets.ClassifierOutputReST(c),
    "finer": lambda c, targets: targets.FinerWeightedTarget(c, [0, 4], 0.6),
    "callable": lambda c, targets: lambda output: output[c] - output[4] * output[1],
    "shared": lambda c, targets: product,
    "kinds": lambda c, targets: (
        targets.ClassifierOutputTarget(c) if c == 1 else targets.ClassifierOutputSoftmaxTarget(c)
    ),
    "subclass": lambda c, targets: negative_of(targets.ClassifierOutputTarget)(c),
}


def product(output: Tensor) -> Tensor:
    return output[4] * output[2]


def negative_of(kind: type) -> type:
    """A user's own target, derived from one of the package's."""

    class ClassifierOutputTarget(kind):
        def __call__(self, model_output: Tensor) -> Tensor:
            return -super().__call__(model_output)

    return ClassifierOutputTarget


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_that_are_no_logits(kind: str, small: nn.Module) -> None:
    images, layers = random_images(2, 12), [small.features[3]]
    for name in ("HiResCAM", "LayerCAM"):
        theirs, ours = both(name, small, layers, images, [1, 3], TARGETS[kind])
        assert_same(theirs, ours)
        _, of_logits = both(name, small, layers, images, [1, 3])
        assert name == "LayerCAM" or np.abs(ours["maps"] - of_logits["maps"]).max() > 0.01
        assert torch.equal(ours["outputs"], of_logits["outputs"])


@pytest.mark.parametrize("kind", ["callable", "shared"])
@pytest.mark.parametrize("name", [*GRADIENT_CLASSES, "FullGrad", "ScoreCAM", "AblationCAM"])
def test_every_class_explains_any_number(name: str, kind: str) -> None:
    gradient = name in (*GRADIENT_CLASSES, "FullGrad")
    # Gradients beside which their epsilons do not tell; scores far enough apart, and not too far, for a softmax.
    model = full_size(1e3 if gradient else 3)
    # Behind model.features a class's logit would tell AblationCAM all; any number does not.
    layer = model.features[3] if gradient else model.features
    images = random_images(2, 12)
    theirs, ours = both(name, model, [layer], images, [0, 2], TARGETS[kind])
    assert_same(theirs, ours)
    _, of_logits = both(name, model, [layer], images, [0, 2])
    assert np.abs(ours["maps"] - of_logits["maps"]).max() > 1e-3


@pytest.mark.parametrize("category", [0, 1])
@pytest.mark.parametrize("target", ["Binary", "RawScores"])
def test_models_of_one_number(target: str, category: int, small: nn.Module) -> None:
    model, images = nn.Sequential(small, nn.Linear(5, 1)).eval(), random_images(2, 12)

    def chosen(c: int, targets: Any) -> Any:
        return targets.BinaryClassifierOutputTarget(c) if target == "Binary" else targets.RawScoresOutputTarget()

    theirs, ours = both("HiResCAM", model, [small.features[3]], images, [category, 1], chosen)
    assert_same(theirs, ours)


def test_targets_survive_augmentation(small: nn.Module) -> None:
    images, layers = random_images(2, 12), [small.features[3]]
    assert_same(*both("HiResCAM", small, layers, images, [1, 3], TARGETS["callable"], aug_smooth=True), peak=0.5)


def with_their_signs_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs leaves a component's sign to the decomposition; its own correction makes the largest value positive."""
    for module in (base_cam, hirescam, layer_cam, eigen_grad_cam):
        monkeypatch.setattr(module, "get_2d_projection", get_2d_projection_with_sign_correction)


@pytest.mark.parametrize("name", [*GRADIENT_CLASSES, "AblationCAM", "ScoreCAM", "EigenGradCAM"])
def test_smoothing_by_the_first_component(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_their_signs_settled(monkeypatch)
    model, images = full_size(1e3 if name in GRADIENT_CLASSES else 3), random_images(2, 12)
    layer = model.features if name == "ScoreCAM" else model.features[2] if name == "AblationCAM" else model.features[3]
    theirs, ours = both(name, model, [layer], images, [1, 3], eigen_smooth=True)
    assert_same(theirs, ours)
    _, plain = both(name, model, [layer], images, [1, 3])
    assert (np.abs(ours["maps"] - plain["maps"]).max() > 0.01) == (name != "EigenGradCAM")


def test_smoothing_twice_at_two_layers(resnet18: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    with_their_signs_settled(monkeypatch)
    images, layers = random_images(2, 64), [resnet18.layer3[-1], resnet18.layer2[-1]]
    assert_same(*both("LayerCAM", resnet18, layers, images, [1, 3], aug_smooth=True, eigen_smooth=True), peak=0.5)


def test_eigen_cam_is_smooth_as_it_is(resnet18: nn.Module) -> None:
    images = random_images(2, 64)
    cam = grad_cam.EigenCAM(resnet18, [resnet18.layer3])
    assert np.array_equal(cam(images, eigen_smooth=True), cam(images))


def test_targets_that_are_probabilities(efficientnet: nn.Module) -> None:
    images = random_images(2, 96)
    layer = efficientnet.get_submodule("blocks.9")
    script = """
        from PACKAGE import HiResCAM
        from PACKAGE.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
        with HiResCAM(model=model, target_layers=[layer]) as cam:
            maps = cam(images, [ClassifierOutputSoftmaxTarget(c) for c in classes])
            outputs = cam.outputs
            logits = cam(images, [ClassifierOutputTarget(c) for c in classes])
    """
    given = {"model": efficientnet, "layer": layer, "images": images, "classes": classes_of(efficientnet, images)}
    theirs, ours = (run(script, package, **given) for package in (THEIRS, OURS))
    assert np.abs(ours["maps"] - theirs["maps"]).max() < TOLERANCE
    assert np.abs(ours["maps"] - ours["logits"]).max() > 0.01
    torch.testing.assert_close(ours["outputs"], theirs["outputs"].detach(), rtol=1e-3, atol=1e-4)


def test_their_target_objects_are_taken(resnet18: nn.Module) -> None:
    images = random_images(2, 64)
    cam = grad_cam.GradCAM(resnet18, [resnet18.layer4])
    own = cam(images, [model_targets.ClassifierOutputTarget(c) for c in (3, 4)])
    assert np.array_equal(
        cam(images, [ClassifierOutputTarget(np.int64(3)), ClassifierOutputTarget(torch.tensor(4))]), own
    )
    soft = cam(images, [model_targets.ClassifierOutputSoftmaxTarget(c) for c in (3, 4)])
    assert np.array_equal(cam(images, [ClassifierOutputSoftmaxTarget(c) for c in (3, 4)]), soft)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("ClassifierOutputTarget", (2,)),
        ("ClassifierOutputSoftmaxTarget", (2,)),
        ("ClassifierOutputReST", (2,)),
        ("BinaryClassifierOutputTarget", (1,)),
        ("BinaryClassifierOutputTarget", (0,)),
        ("SoftmaxOutputTarget", ()),
        ("RawScoresOutputTarget", ()),
        ("FinerWeightedTarget", (2, [0, 5], 0.6)),
    ],
    ids=str,
)
def test_our_target_objects_score_as_theirs(name: str, given: tuple[Any, ...]) -> None:
    logits = torch.randn(4, 6)
    ours, theirs = getattr(model_targets, name)(*given), getattr(their_model_targets, name)(*given)
    for output in (logits, logits[1]):
        torch.testing.assert_close(ours(output), theirs(output))


def test_the_model_is_left_as_it_was() -> None:
    model = full_size().train()
    before = snapshot(model)
    with grad_cam.GradCAM(model=model, target_layers=[model.features]) as cam:
        cam(random_images(2, 12))
        assert_unchanged(model, before)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("error", "match", "targets"),
    [
        (TypeError, r"targets: an object of int given", [1, 2]),
        (TypeError, r"targets: <lambda> returned float", [lambda output: 1.0] * 2),
        (ValueError, r"RawScoresOutputTarget returned a tensor of shape \(5,\)", [RawScoresOutputTarget()] * 2),
        (ValueError, r"returned a value without gradient", [lambda output: output.detach().sum()] * 2),
        (ValueError, r"targets: 1 given for 2 image", [ClassifierOutputTarget(1)]),
        (ValueError, r"targets: 0 given for 2 image", []),
        (TypeError, r"targets: int given", 3),
        (ValueError, r"class 5 given, 0 to 4", [ClassifierOutputTarget(5)] * 2),
        (ValueError, r"^targets: values for .* NaN or infinite", [lambda output: output.sum() / 0] * 2),
        (ValueError, r"returned a value without gradient", [torch.sum, lambda output: output[1].detach()]),
    ],
    ids=["numbers", "float", "vector", "constant", "too_few", "none", "number", "class", "infinite", "one_constant"],
)
def test_bad_targets(error: type[Exception], match: str, targets: Any, small: nn.Module) -> None:
    with grad_cam.GradCAM(small, [small.features]) as cam, pytest.raises(error, match=match):
        cam(random_images(2, 12), targets)


def test_logits_that_are_not_finite_are_not_the_targets_fault(small: nn.Module) -> None:
    broken = copy.deepcopy(small)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"^model: its logits for these images are NaN or infinite"):
        grad_cam.GradCAM(broken, [broken.features])(random_images(1, 12), [torch.sum])


def test_eigen_cam_asks_for_nothing_of_its_targets(small: nn.Module) -> None:
    images, layers = random_images(2, 12), [small.features]
    theirs, ours = both("EigenCAM", small, layers, images, [0, 1], lambda *_: torch.neg)
    assert_same(theirs, ours)


def test_a_class_counted_from_the_last(small: nn.Module) -> None:
    images, layers = random_images(2, 12), [small.features[3]]
    theirs, ours = both("HiResCAM", small, layers, images, [-1, -2])
    assert_same(theirs, ours)


@pytest.mark.parametrize(
    "target",
    [ClassifierOutputTarget(1), ClassifierOutputSoftmaxTarget(1), torch.sum],
    ids=["logit", "probability", "callable"],
)
def test_outputs_of_a_model_in_16_bits_have_one_dtype(target: Any, small: nn.Module) -> None:
    model = copy.deepcopy(small).bfloat16()
    cam = grad_cam.GradCAM(model, [model.features])
    cam(random_images(1, 12).bfloat16(), [target])
    assert cam.outputs.dtype == torch.float32


def test_bad_settings(small: nn.Module) -> None:
    layers = [small.features]
    for match, build in [
        ("reshape_transform", lambda: grad_cam.GradCAM(small, layers, reshape_transform=lambda x: x)),
        ("target_layers: an empty list", lambda: grad_cam.LayerCAM(small, [])),
        ("ratio_channels_to_ablate: 0.5", lambda: grad_cam.AblationCAM(small, layers, ratio_channels_to_ablate=0.5)),
        ("ablation_layer", lambda: grad_cam.AblationCAM(small, layers, ablation_layer=nn.Identity())),
        ("eigen_smooth: True", lambda: grad_cam.FullGrad(small, [])(random_images(1, 12), eigen_smooth=True)),
        ("no module of the model", lambda: grad_cam.GradCAM(small, [nn.ReLU()])(random_images(1, 12))),
    ]:
        with pytest.raises(ValueError, match=match):
            build()
    with pytest.raises(TypeError, match="target_layers: Sequential given"):
        grad_cam.GradCAM(small, small.features)


# -- pictures


@pytest.mark.parametrize("colormap", [0, 1, 2, 3, 6, 7, 8, 13, 14, 15, 16, 17, 18, 19, 20])
def test_overlays(colormap: int) -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    photo = np.random.default_rng(1).random((16, 16, 3), dtype=np.float32)
    for use_rgb in (False, True):
        for weight in (0.0, 0.5, 0.8):
            theirs = their_show_cam_on_image(photo, ramp, use_rgb, colormap, weight)
            ours = show_cam_on_image(photo, ramp, use_rgb, colormap, weight)
            assert ours.dtype == theirs.dtype
            assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 3
    if colormap == cv2.COLORMAP_JET:
        assert np.array_equal(show_cam_on_image(photo, ramp), show_cam_on_image(photo, ramp, colormap=colormap))
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_bad_overlays() -> None:
    mask, photo = np.zeros((4, 4)), np.ones((4, 4, 3))
    for match, arguments in [
        ("img: a largest value of 255", (photo * 255, mask)),
        ("colormap: 99", (photo, mask, True, 99)),
        ("image_weight: 1.5", (photo, mask, True, 2, 1.5)),
    ]:
        with pytest.raises(ValueError, match=match):
            show_cam_on_image(*arguments)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_preprocessing(dtype: type) -> None:
    photo = (np.random.default_rng(2).random((8, 9, 3)) * (255 if dtype is np.uint8 else 1)).astype(dtype)
    ours, theirs = preprocess_image(photo), their_preprocess_image(photo)
    assert ours.shape == (1, 3, 8, 9)
    torch.testing.assert_close(ours, theirs)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    torch.testing.assert_close(preprocess_image(photo, mean, std), their_preprocess_image(photo, mean, std))


def test_every_class_named_is_one_of_theirs() -> None:
    assert all(hasattr(pytorch_grad_cam, name) for name in grad_cam.__all__ if name != "BaseCAM")
