from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import fastcam
from fastcam import pictures
from fastcam.attribution import METHODS
from fastcam.pictures import Explained, explain_photo, file_stems, folder_names, write_pictures
from fastcam.plots import Block, Pixels, grid_figure, overlay, write_png


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
def test_folder_names(photos: list[str], names: list[str], tmp_path: Path) -> None:
    found = folder_names([Path(photo) for photo in photos], output=tmp_path)
    assert found == names
    assert len({name.lower() for name in found}) == len(photos)


def test_folders_are_not_named_as_files_are(tmp_path: Path) -> None:
    (tmp_path / "noext").write_bytes(b"a photo")
    (tmp_path / "cat").mkdir()  # of a call before
    photos = [tmp_path / "noext", tmp_path / "cat.png", tmp_path / "noext-2.png"]
    assert folder_names(photos, output=tmp_path) == ["noext-3", "cat", "noext-2"]


@pytest.mark.parametrize(
    ("layer", "target", "named", "stem"),
    [
        pytest.param("layer2", 0, True, "cam-layer2-0-tench", id="name"),
        pytest.param("features/2:a@0", 1, True, "cam-features_2_a@0-1-barn-owl-t", id="special characters"),
        pytest.param("layer2", 2, True, "cam-layer2-2", id="nothing left of the name"),
        pytest.param("layer-2", 12, False, "cam-layer-2-12", id="no names"),
    ],
)
def test_file_stems(layer: str, target: int, named: bool, stem: str) -> None:
    names = ["tench", "Barn / owl: \u00e9t\u00e9", "\u732b"] if named else None
    key = ("cam", layer, target)
    assert file_stems([key], names=names) == {key: stem}


@pytest.mark.parametrize(
    ("layers", "stems"),
    [
        pytest.param(["conv-1", "conv_1"], ["cam-conv-1-0", "cam-conv_1-0"], id="differ in a hyphen"),
        pytest.param(["a:b", "a_b", "a b"], ["cam-a_b-0", "cam-a_b-0-2", "cam-a_b-0-3"], id="special characters"),
        pytest.param(["Conv", "conv"], ["cam-Conv-0", "cam-conv-0-2"], id="case"),
    ],
)
def test_no_two_maps_have_one_file(layers: list[str], stems: list[str]) -> None:
    assert list(file_stems([("cam", layer, 0) for layer in layers], names=None).values()) == stems


def test_a_numbered_stem_is_no_other_maps() -> None:
    keys = [("cam", "a:b", 0), ("cam", "a_b", 0), ("cam", "a_b-0", 2)]
    assert list(file_stems(keys, names=None).values()) == ["cam-a_b-0", "cam-a_b-0-3", "cam-a_b-0-2"]


def explained() -> Explained:
    generator = np.random.default_rng(0)
    return Explained(
        maps={
            (method, layer, target): generator.normal(size=(16, 24)).astype(np.float32)
            for method, layers in (("cam", ["l4"]), ("grad_cam", ["l2", "l4"]), ("lrp", ["l2"]))
            for layer in layers
            for target in (1, 0)
        },
        probabilities=np.array([0.25, 0.5, 0.25], dtype=np.float32),
        methods=("cam", "grad_cam", "lrp"),
        layers=("l2", "l4"),
        targets=(1, 0),
    )


@pytest.fixture
def view() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8))


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


def overlays(found: Explained, view: Image.Image) -> dict[tuple[str, str, int], Pixels]:
    photo = np.asarray(view)
    return {key: overlay(photo, values, signed=METHODS[key[0]].signed) for key, values in found.maps.items()}


def test_write_pictures(tmp_path: Path, view: Image.Image) -> None:
    found = explained()
    write_pictures(tmp_path / "p", title="p.png", view=view, explained=found, names=("a", "b", "c"))
    stems = {f"{m}-{la}-{t}-{'ab'[t]}" for m, la, t in found.maps}
    expected = {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".npy")} | {"figure.png"}
    assert {path.name for path in (tmp_path / "p").iterdir()} == expected
    for (method, layer, target), picture in overlays(found, view).items():
        stem = f"{method}-{layer}-{target}-{'ab'[target]}"
        np.testing.assert_array_equal(np.load(tmp_path / "p" / f"{stem}.npy"), found.maps[method, layer, target])
        with Image.open(tmp_path / "p" / f"{stem}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), picture)


def test_layers_of_one_stem_do_not_meet(tmp_path: Path, view: Image.Image) -> None:
    maps = {("cam", layer, 0): np.full((16, 24), i, dtype=np.float32) for i, layer in enumerate(("a:b", "a_b"))}
    found = replace(explained(), maps=maps, methods=("cam",), layers=("a:b", "a_b"), targets=(0,))
    write_pictures(tmp_path, title="p.png", view=view, explained=found, names=None)
    assert np.load(tmp_path / "cam-a_b-0.npy").max() == 0
    assert np.load(tmp_path / "cam-a_b-0-2.npy").min() == 1
    assert {path.stem for path in tmp_path.glob("*.png")} == {"cam-a_b-0", "cam-a_b-0-2", "figure"}


@pytest.mark.parametrize(
    ("names", "headings"),
    [
        pytest.param(("a", "b", "c"), ["b (1), probability 0.500", "a (0), probability 0.250"], id="names"),
        pytest.param(None, ["class 1, probability 0.500", "class 0, probability 0.250"], id="no names"),
    ],
)
def test_figure_shows_every_overlay_at_its_layer_and_method(
    names: tuple[str, ...] | None,
    headings: list[str],
    tmp_path: Path,
    view: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []

    def draw(photo: Pixels, blocks: Sequence[Block], **options: Any) -> Figure:
        np.testing.assert_array_equal(photo, np.asarray(view))
        assert [block.heading for block in blocks] == headings
        for block, target in zip(blocks, found.targets, strict=True):
            expected = {(la, m): picture for (m, la, t), picture in overlays(found, view).items() if t == target}
            assert set(block.cells) == set(expected)
            for cell, picture in expected.items():
                np.testing.assert_array_equal(block.cells[cell], picture)
        assert options == {"rows": ("l2", "l4"), "columns": ("cam", "grad_cam", "lrp"), "title": "photo.png"}
        given[:] = [photo, blocks, options]
        return grid_figure(photo, blocks, **options)

    found = explained()
    monkeypatch.setattr(pictures, "grid_figure", draw)
    write_pictures(tmp_path, title="photo.png", view=view, explained=found, names=names)
    photo, blocks, options = given
    write_png(tmp_path / "again.png", grid_figure(photo, blocks, **options))
    assert (tmp_path / "figure.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize(
    ("layers", "targets", "shown"),
    [
        pytest.param(2, 12, (2, 12), id="all"),
        pytest.param(1, 300, (1, 24), id="many classes"),
        pytest.param(5, 300, (5, 4), id="whole classes"),
        pytest.param(40, 3, (24, 1), id="many layers"),
    ],
)
def test_figure_has_no_more_rows_than_are_legible(layers: int, targets: int, shown: tuple[int, int]) -> None:
    names, classes = tuple(f"l{i}" for i in range(layers)), tuple(range(targets))[::-1]
    found = replace(explained(), layers=names, targets=classes).in_figure
    assert found == (names[: shown[0]], classes[: shown[1]])


def test_figure_of_many_classes_shows_the_first(
    tmp_path: Path, view: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_ROWS", 3)
    rows: list[tuple[list[str], Sequence[str]]] = []

    def draw(photo: Pixels, blocks: Sequence[Block], **options: Any) -> Figure:
        rows.append(([block.heading for block in blocks], options["rows"]))
        return grid_figure(photo, blocks, **options)

    monkeypatch.setattr(pictures, "grid_figure", draw)
    found = explained()
    write_pictures(tmp_path, title="p.png", view=view, explained=found, names=None)
    assert rows == [(["class 1, probability 0.500"], ("l2", "l4"))]
    assert len(list(tmp_path.glob("*.npy"))) == len(found.maps)
