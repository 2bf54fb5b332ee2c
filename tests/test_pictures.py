from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam.pictures import Explained, explain_photo, file_stem, folder_names, write_pictures


@pytest.mark.parametrize(
    ("photos", "names"),
    [
        pytest.param(["a/cat.png", "b/dog.png"], ["cat", "dog"], id="different"),
        pytest.param(["a/cat.png", "b/cat.png"], ["a-cat", "b-cat"], id="folders"),
        pytest.param(["a/cat.png", "a/cat.jpg"], ["a-cat", "a-cat-2"], id="suffixes"),
        pytest.param(["x/a/c.png", "y/a/c.png", "a-c.png"], ["a-c-2", "a-c-3", "a-c"], id="taken"),
        pytest.param(["a/Cat.png", "b/cat.png"], ["a-Cat", "b-cat"], id="case"),
        pytest.param(["a/.hidden", "a/v1.2.jpg"], [".hidden", "v1.2"], id="dots"),
    ],
)
def test_folder_names(photos: list[str], names: list[str]) -> None:
    found = folder_names([Path(photo) for photo in photos])
    assert found == names
    assert len({name.lower() for name in found}) == len(photos)


def test_file_stem() -> None:
    names = ["tench", "Barn / owl: \u00e9t\u00e9", "\u732b"]
    assert file_stem("cam", "layer2", 0, names=names) == "cam-layer2-0-tench"
    assert file_stem("cam", "features/2:a@0", 1, names=names) == "cam-features_2_a@0-1-barn-owl-t"
    assert file_stem("cam", "layer2", 2, names=names) == "cam-layer2-2"
    assert file_stem("cam", "layer2", 12, names=None) == "cam-layer2-12"


def explained() -> Explained:
    generator = np.random.default_rng(0)
    return Explained(
        maps={
            (method, layer, target): generator.normal(size=(16, 24)).astype(np.float32)
            for method, layers in (("cam", ["l4"]), ("grad_cam", ["l2", "l4"]))
            for layer in layers
            for target in (1, 0)
        },
        probabilities=np.array([0.25, 0.5, 0.25], dtype=np.float32),
        methods=("cam", "grad_cam"),
        layers=("l2", "l4"),
        targets=(1, 0),
    )


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 6),
    )


def test_explain_photo_holds_what_each_call_gives() -> None:
    model, inputs = tiny(), torch.randn(1, 3, 12, 10)
    methods = {"cam": ("3",), "grad_cam": ("1", "3")}
    calls: list[str] = []
    found = explain_photo(model, inputs, methods=methods, targets=(4, 2), before=calls.append)
    assert calls == ["cam", "grad_cam"]
    assert found.methods == ("cam", "grad_cam")
    assert found.layers == ("1", "3")
    assert found.targets == (4, 2)
    np.testing.assert_allclose(found.probabilities, model(inputs).softmax(1)[0].detach(), rtol=1e-5)
    assert len(found.maps) == 6
    for (method, layer, target), values in found.maps.items():
        alone = fastcam.explain(model, inputs, method=method, layer=layer, targets=target, normalize=False)
        assert values.shape == (12, 10)
        np.testing.assert_allclose(values, alone[0], rtol=1e-5, atol=1e-7)


def test_predicted_class_holds_for_every_method() -> None:
    model, inputs = tiny(), torch.randn(1, 3, 12, 10)
    found = explain_photo(model, inputs, methods=dict.fromkeys(("grad_cam", "relevance_cam")), targets=None)
    assert found.targets == (int(model(inputs).argmax()),)
    assert set(found.maps) == {(method, "3", found.targets[0]) for method in ("grad_cam", "relevance_cam")}


def test_no_method() -> None:
    with pytest.raises(ValueError, match="methods is empty"):
        explain_photo(tiny(), torch.randn(1, 3, 12, 10), methods={}, targets=None)


def test_top_puts_the_first_of_equals_first() -> None:
    assert explained().top(5) == [(1, 0.5), (0, 0.25), (2, 0.25)]
    assert explained().top(1) == [(1, 0.5)]


def test_write_pictures(tmp_path: Path) -> None:
    view = Image.new("RGB", (24, 16), "grey")
    found = explained()
    write_pictures(tmp_path / "p", title="p.png", view=view, explained=found, names=("a", "b", "c"))
    stems = {f"{m}-{la}-{t}-{'ab'[t]}" for m, la, t in found.maps}
    expected = {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".npy")} | {"figure.png"}
    assert {path.name for path in (tmp_path / "p").iterdir()} == expected
    for (method, layer, target), values in found.maps.items():
        stem = f"{method}-{layer}-{target}-{'ab'[target]}"
        np.testing.assert_array_equal(np.load(tmp_path / "p" / f"{stem}.npy"), values)
        with Image.open(tmp_path / "p" / f"{stem}.png") as image:
            assert image.size == (24, 16)
