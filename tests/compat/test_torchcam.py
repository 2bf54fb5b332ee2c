"""One script under `torchcam` and under `fastcam.compat.torchcam`."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchcam.methods
from PIL import Image
from torch import Tensor, nn
from torchcam.utils import overlay_mask as their_overlay_mask

import fastcam
from fastcam.compat.torchcam import methods
from fastcam.compat.torchcam.utils import overlay_mask
from tests.attribution.test_model_untouched import assert_unchanged, snapshot
from tests.compat.models import full_size, random_images, real_efficientnet_lite0, run, some_resnet18, some_vgg

THEIRS, OURS = "torchcam", "fastcam.compat.torchcam"
TOLERANCE = 1e-4

SCRIPT = """
    from PACKAGE import methods
    from PACKAGE.methods import CAM, ISCAM, SSCAM, GradCAM, GradCAMpp, LayerCAM, ScoreCAM, SmoothGradCAMpp, XGradCAM
    from PACKAGE.utils import overlay_mask
    from torchvision.transforms.v2.functional import to_pil_image

    with getattr(methods, name)(model, target_layer, **settings) as extractor:
        out = model(images)
        maps = extractor(out.argmax(1).tolist(), out)
        out = model(images)
        of_one_class = extractor(2, out)
        out = model(images)
        raw = extractor(out.argmax(1).tolist(), out, normalized=False)
        names = extractor.target_names
    if len(maps) > 1:
        fused = extractor.fuse_cams(maps)
        resized = extractor.fuse_cams(maps, (20, 22))
    picture = overlay_mask(photo, to_pil_image(maps[0][0].float(), mode="F"), alpha=0.5)
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


def both(name: str, model: nn.Module, target_layer: Any, images: Tensor, **settings: Any) -> Any:
    """The variables of the script under both imports."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    given = {"name": name, "model": model, "target_layer": target_layer, "images": images, "photo": photo}
    return tuple(run(SCRIPT, package, **given, settings=settings) for package in (THEIRS, OURS))


def assert_same(theirs: dict[str, Any], ours: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    assert ours["names"] == theirs["names"]
    for name in ("maps", "of_one_class", "raw"):
        assert type(ours[name]) is type(theirs[name]) is list
        assert len(ours[name]) == len(theirs[name])
        for found, expected in zip(ours[name], theirs[name], strict=True):
            assert found.shape == expected.shape
            assert found.dtype == expected.dtype == torch.float32
            scale = 1 if name != "raw" else expected.abs().max()
            assert (found - expected).abs().max() < tolerance * scale
    for found in ours["maps"]:
        assert found.min() >= 0
        assert 0.99 < found.max() <= 1
    for name in ("fused", "resized"):
        assert (name in ours) == (name in theirs)
        if name in theirs:
            assert ours[name].shape == theirs[name].shape
            assert (ours[name] - theirs[name]).abs().max() < tolerance
    assert ours["picture"].mode == theirs["picture"].mode
    difference = np.asarray(ours["picture"], dtype=int) - np.asarray(theirs["picture"], dtype=int)
    assert np.abs(difference).max() <= 6
    assert np.abs(difference).mean() < 0.1


LAYERS = pytest.mark.parametrize("layer", ["layer4", "layer2", ["layer2", "layer4", "layer3"]], ids=str)


@pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "LayerCAM"])
@LAYERS
def test_gradient_methods(name: str, layer: Any, resnet18: nn.Module) -> None:
    assert_same(*both(name, resnet18, layer, random_images(3, 96)))


@pytest.mark.parametrize("name", ["CAM", "LayerCAM"])
def test_no_target_layer_and_real_weights(name: str, efficientnet: nn.Module) -> None:
    assert_same(*both(name, efficientnet, None, random_images(2, 96), input_shape=(3, 96, 96)))


def test_a_layer_that_is_a_module(resnet18: nn.Module) -> None:
    images = random_images(2, 64)
    assert_same(*both("GradCAM", resnet18, resnet18.layer3, images))
    assert_same(*both("GradCAM", resnet18, [resnet18.layer3, "layer4"], images))


def test_cam_is_not_cut_at_zero(resnet18: nn.Module) -> None:
    images = random_images(2, 96)
    assert_same(*both("CAM", resnet18, "layer4", images, fc_layer="fc"))
    with torch.no_grad():
        least = resnet18(images).argmin(1).tolist()
    found = []
    for extractor in (torchcam.methods.CAM(resnet18, "layer4", "fc"), methods.CAM(resnet18, "layer4", "fc")):
        with extractor:
            resnet18(images)
            found.append(extractor(least, normalized=False)[0])
    assert (found[0] < 0).any()
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_smooth_grad_cam_pp_where_gradients_are_the_same_everywhere(resnet18: nn.Module) -> None:
    # Before global pooling g^3 may stand inside or outside the sum over positions.
    assert_same(*both("SmoothGradCAMpp", resnet18, "layer4", random_images(2, 96), num_samples=2, std=1e-9))


@pytest.mark.parametrize("name", ["GradCAMpp", "SmoothGradCAMpp"])
def test_how_the_plus_plus_methods_differ(name: str, resnet18: nn.Module) -> None:
    # In float64: denominators near 0 blow up float32's rounding, and the peer's noise with it.
    model, images = copy.deepcopy(resnet18).double(), random_images(2, 96).double()
    settings = {"num_samples": 1, "std": 1e-12} if name == "SmoothGradCAMpp" else {}
    theirs, ours = both(name, model, "layer2", images, **settings)
    held: dict[str, Tensor] = {}
    handle = model.layer2.register_forward_hook(lambda *call: held.update(a=call[2]))
    out = model(images)
    handle.remove()
    (g,) = torch.autograd.grad(out.amax(1).sum(), held["a"])
    a = held["a"].detach()
    outside = g**2 / nonzero(2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
    # Theirs: g^3 inside the sum; and without the smoothing, what is divided is a copy of g^2 that is not kept.
    inside = g**2 / nonzero(2 * g**2 + (a * g**3).sum((2, 3), keepdim=True)) if settings else g**2
    for alpha, found in [(outside, ours), (inside, theirs)]:
        expected = ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()
        expected = (expected - expected.amin((1, 2), keepdim=True)) / (
            expected.amax((1, 2), keepdim=True) - expected.amin((1, 2), keepdim=True)
        )
        assert (found["maps"][0] - expected).abs().max() < 1e-5
    assert (ours["maps"][0] - theirs["maps"][0]).abs().max() > 0.01


def nonzero(denominator: Tensor) -> Tensor:
    return torch.where(denominator == 0, torch.inf, denominator)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ScoreCAM", {"batch_size": 5}), ("ISCAM", {"num_samples": 3}), ("SSCAM", {"num_samples": 2, "std": 1e-9})],
    ids=["score", "is", "ss"],
)
def test_score_methods_where_nothing_is_upsampled(name: str, settings: dict[str, Any], small: nn.Module) -> None:
    assert_same(*both(name, small, "features", random_images(2, 12), **settings))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ISCAM", {}), ("SSCAM", {"num_samples": 2, "std": 1e-9})],
    ids=["is", "ss"],
)
def test_score_methods_behind_upsampling(name: str, settings: dict[str, Any]) -> None:
    assert_same(*both(name, some_vgg(), "features.4", random_images(2, 24), **settings))


def test_score_cam_differs_by_where_masks_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = some_vgg(), random_images(2, 24)
    theirs, ours = both("ScoreCAM", model, "features.4", images)
    assert (ours["maps"][0] - theirs["maps"][0]).abs().max() > TOLERANCE
    upsample = torchcam.methods.ScoreCAM._upsample
    # Theirs with masks scaled to [0, 1] again behind the upsampling:
    monkeypatch.setattr(
        torchcam.methods.ScoreCAM, "_upsample", lambda self, masks: self._normalize(upsample(self, masks), 2)
    )
    assert_same(*both("ScoreCAM", model, "features.4", images))


TARGETS = {
    "shared": lambda output: output[0] ** 2,
    "of_each": [lambda output: output[4] * output[2], lambda output: output.softmax(0)[1:2]],
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "LayerCAM", "ScoreCAM", "SSCAM", "ISCAM"])
def test_targets_that_are_functions_of_the_output(name: str, targets: Any, small: nn.Module) -> None:
    settings = {"SSCAM": {"num_samples": 2, "std": 1e-9}, "ISCAM": {"num_samples": 3}}.get(name, {})
    script = """
        from PACKAGE import methods
        with getattr(methods, name)(model, layers, **settings) as extractor:
            out = model(images)
            maps = extractor(targets=targets, scores=out)
            out = model(images)
            raw = extractor.compute_cams(None, out, False, targets=targets)
            out = model(images)
            of_classes = extractor([1, 3], out)
    """
    # Nothing is upsampled here, which is where score methods differ.
    given = {"model": small, "layers": ["features.3", "features"], "images": random_images(2, 12), "name": name}
    theirs, ours = (run(script, package, **given, targets=targets, settings=settings) for package in (THEIRS, OURS))
    for kind in ("maps", "raw"):
        for found, expected in zip(ours[kind], theirs[kind], strict=True):
            assert found.shape == expected.shape == (2, 12, 12)
            assert expected.amax((1, 2)).min() > 0
            assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(ours["maps"], ours["of_classes"], strict=True))


def test_noisy_copies_keep_their_targets(small: nn.Module) -> None:
    images, kept = random_images(2, 12), {"num_samples": 3, "std": 1e-9}
    with methods.SmoothGradCAMpp(small, "features.3", **kept) as extractor:
        small(images)
        found = extractor(targets=[lambda output: output[1], lambda output: output[3]])[0]
        torch.testing.assert_close(found, extractor([1, 3])[0], rtol=1e-4, atol=1e-5)
        assert (found - extractor([3, 1])[0]).abs().max() > 0.01


# -- how images are remembered


def test_one_hook_on_the_model_while_the_extractor_lives(small: nn.Module) -> None:
    before = snapshot(small)
    with methods.GradCAM(small, "features") as extractor:
        assert len(small._forward_pre_hooks) == 1
        assert sum(len(table) for module in small.modules() for table in hook_tables(module)) == 1
        small(random_images(1, 12))
        extractor(0)
    assert_unchanged(small, before)
    extractor = methods.ScoreCAM(small, "features")
    extractor.remove_hooks()
    extractor.remove_hooks()
    assert_unchanged(small, before)


def hook_tables(module: nn.Module) -> list[Any]:
    return [value for name, value in vars(module).items() if name.endswith("_hooks") and hasattr(value, "keys")]


def test_the_last_images_are_explained_as_they_were(small: nn.Module) -> None:
    first, second = random_images(2, 12), -random_images(3, 12)
    expected = fastcam.grad_cam(small, second, 1, "features", size="layer", normalize=False)
    with methods.GradCAM(small, "features") as extractor:
        small(first)
        given = second.clone()
        small(given)
        given.zero_()
        assert torch.equal(extractor(1, normalized=False)[0], expected)
        # Their graph is gone after one call.
        assert torch.equal(extractor([1, 1, 1], None, False)[0], expected)
        extractor.disable_hooks()
        small(first)
        assert torch.equal(extractor(1, normalized=False)[0], expected)
        extractor.enable_hooks()
        small(first)
        assert extractor(1)[0].shape == (2, 12, 12)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "SmoothGradCAMpp", "ScoreCAM", "CAM"])
def test_inference_mode_frozen_parameters_and_training_mode(name: str) -> None:
    model, images = full_size(), random_images(2, 12)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the user's own forward in training mode would move the statistics
    settings = {"std": 1e-9} if name == "SmoothGradCAMpp" else {}
    with getattr(methods, name)(model, "features", **settings) as extractor:
        model(images)
        expected = extractor(1)[0]
        model.requires_grad_(False).train()
        with torch.inference_mode():
            model(images.clone())
            inside = extractor(1)[0]
        assert model.training
        for found in (inside, extractor(1)[0]):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_explaining_does_not_run_the_users_model(several: bool) -> None:
    model, runs = full_size(), []
    handle = model.register_forward_hook(lambda *call: runs.append(1))
    with methods.ScoreCAM(model, ["features.2", "features"] if several else "features") as extractor:
        model(random_images(1, 12))
        assert len(extractor(0)) == 1 + several
    handle.remove()
    assert runs == [1]


# -- bad input


def wrong(extractor: methods.Extractor, model: nn.Module) -> dict[str, tuple[type[Exception], str, Callable[[], Any]]]:
    def after(images: Tensor, *arguments: Any, **named: Any) -> Any:
        model(images)
        return extractor(*arguments, **named)

    def of_classes_alone() -> Any:
        with methods.CAM(model, "features") as cam:
            return cam(targets=torch.sum)

    two = random_images(2, 12)
    return {
        "no images": (RuntimeError, "no images to explain", lambda: extractor(0)),
        "no class": (ValueError, "class_idx: None given", lambda: after(two)),
        "class": (ValueError, "class 5 given, 0 to 4", lambda: after(two, 5)),
        "negative": (ValueError, "class -1 given", lambda: after(two, [-1, 0])),
        "too many": (ValueError, r"shape \(3,\) given for 2 image", lambda: after(two, [1, 2, 3])),
        "no target": (ValueError, "targets: 0 given for 2 image", lambda: after(two, targets=[])),
        "target": (TypeError, "targets: an object of int given, callables", lambda: after(two, targets=[1, 2])),
        "both": (ValueError, "targets: given beside class_idx", lambda: after(two, 0, targets=torch.sum)),
        "cam": (ValueError, "targets: given, but CAM explains classes alone", of_classes_alone),
        "name": (ValueError, "no module 'feature'; did you mean 'features'", lambda: methods.GradCAM(model, "feature")),
        "module": (ValueError, "ReLU given is no module", lambda: methods.GradCAM(model, nn.ReLU())),
        "number": (TypeError, "target_layer: int given", lambda: methods.GradCAM(model, [3])),
        "empty": (ValueError, "target_layer: an empty list", lambda: methods.GradCAM(model, [])),
        "fc": (ValueError, "no module 'fc'", lambda: methods.CAM(model, "features", fc_layer="fc")),
        "reshape": (ValueError, "reshape_transform", lambda: methods.GradCAM(model, reshape_transform=lambda x: x)),
        "fuse": (ValueError, "cams: an empty list", lambda: extractor.fuse_cams([])),
        "fuse type": (TypeError, "cams: Tensor given", lambda: extractor.fuse_cams(torch.zeros(1, 2, 2))),
    }


@pytest.mark.parametrize("case", list(wrong(None, None)))
def test_bad_input(case: str, small: nn.Module) -> None:
    before = snapshot(small)
    with methods.GradCAM(small, "features") as extractor:
        error, match, call = wrong(extractor, small)[case]
        with pytest.raises(error, match=match):
            call()
    assert_unchanged(small, before)


def test_bad_overlays() -> None:
    photo, mask = Image.new("RGB", (4, 4)), Image.new("F", (2, 2))
    for error, match, arguments in [
        (TypeError, "img, mask: ndarray", (np.zeros((4, 4, 3)), mask)),
        (ValueError, "alpha: 1.0", (photo, mask, "jet", 1.0)),
        (ValueError, "img: an image of mode RGBA", (photo.convert("RGBA"), mask)),
    ]:
        with pytest.raises(error, match=match):
            overlay_mask(*arguments)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_overlays(mode: str) -> None:
    rng = np.random.default_rng(3)
    photo = Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).convert(mode)
    mask = Image.fromarray(rng.random((7, 7), dtype=np.float32))
    for arguments in [(), ("viridis",), ("jet", 0.2)]:
        ours, theirs = overlay_mask(photo, mask, *arguments), their_overlay_mask(photo, mask, *arguments)
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_neither_package_is_needed() -> None:
    foreign = {"pytorch_grad_cam", "torchcam", "cv2", "ttach"}
    imported = set()
    for path in Path(fastcam.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    assert "torch" in imported
    assert not imported & foreign
