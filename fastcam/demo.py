"""The demonstration: the embedded model, four photos that come with scikit-image, and a mosaic of two."""

import importlib.resources
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .models.loading import load_model
from .photos import read_photo
from .pictures import Explained, explain_photo, heading, write_pictures
from .plots import Block, grid_figure, masked, write_png

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")

LAST_LAYER = "head.activation"
# The last activations with 28 and with 14 positions a side. They stand behind a ReLU6; the signed outputs of
# the blocks themselves are linear, and maps made of them are noisy.
SHALLOWER_LAYERS = ("blocks.5.expand.activation", "blocks.11.expand.activation")
METHODS: Mapping[str, tuple[str, ...]] = {
    # CAM reads the classifier's weights and has no meaning below the last layer.
    "cam": (LAST_LAYER,),
    "grad_cam": (*SHALLOWER_LAYERS, LAST_LAYER),
    "relevance_cam": (*SHALLOWER_LAYERS, LAST_LAYER),
    "score_cam": (*SHALLOWER_LAYERS, LAST_LAYER),
}

MOSAIC_PHOTOS = ("chelsea.png", "coffee.png")
# Score-CAM runs the network once for each channel, and on the mosaic every run costs twice as much.
MOSAIC_METHODS = ("cam", "grad_cam", "relevance_cam")
MOSAIC_CLASSES = (282, 967)  # tiger cat, espresso


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the demonstration explained, by photo, and the names of the classes."""

    explained: Mapping[str, Explained]
    names: tuple[str, ...] | None


def photo_file(name: str) -> Path:
    """A photo that comes with scikit-image.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise ModuleNotFoundError(
            "the demonstration's photos come with the package 'scikit-image', which is not installed: "
            "run pip install 'fastcam[demo]'",
            name="skimage",
        )
    return Path(str(importlib.resources.files("skimage").joinpath("data", name)))


def mosaic(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one height side by side."""
    joined = Image.new("RGB", (left.width + right.width, left.height))
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width, 0))
    return joined


def make_demo(output: Path, *, before: Callable[[str], None] = lambda _: None) -> Shown:
    """Write the pictures of every photo and of the mosaic into folders of `output`.

    The mosaic's folder holds `sensitivity.png` as well, after figure 6 of the Relevance-CAM paper: what each
    class's map keeps of the mosaic, layer by layer.
    """
    loaded = load_model("efficientnet_lite0")
    views = {Path(name).stem: loaded.preprocessing.view(read_photo(photo_file(name))) for name in PHOTOS}
    # The network pools over all positions, so that two photos side by side keep their size.
    views["mosaic"] = mosaic(*(views[Path(name).stem] for name in MOSAIC_PHOTOS))
    shown: dict[str, Explained] = {}
    for name, view in views.items():
        explained = explain_photo(
            loaded.model,
            loaded.preprocessing.tensor(view),
            methods={m: METHODS[m] for m in MOSAIC_METHODS} if name == "mosaic" else METHODS,
            targets=MOSAIC_CLASSES if name == "mosaic" else None,
            before=_about(name, before),
        )
        write_pictures(output / name, title=name, view=view, explained=explained, names=loaded.class_names)
        shown[name] = explained
    _write_sensitivity(output / "mosaic", views["mosaic"], shown["mosaic"], names=loaded.class_names)
    return Shown(explained=shown, names=loaded.class_names)


def _about(name: str, before: Callable[[str], None]) -> Callable[[str], None]:
    return lambda method: before(f"{name}, {method}")


def _write_sensitivity(folder: Path, view: Image.Image, explained: Explained, *, names: tuple[str, ...] | None) -> None:
    photo = np.asarray(view)
    rows = [heading(target, explained, names=names) for target in explained.targets]
    cells = {
        (row, layer): masked(photo, explained.maps["relevance_cam", layer, target])
        for row, target in zip(rows, explained.targets, strict=True)
        for layer in explained.layers
    }
    block = Block(heading="relevance_cam: the mosaic where the map exceeds mean + deviation", cells=cells)
    figure = grid_figure(photo, [block], rows=rows, columns=explained.layers, title="Class sensitivity")
    write_png(folder / "sensitivity.png", figure)
