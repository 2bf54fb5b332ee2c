"""The demonstration: the embedded model, four photos that come with scikit-image, and a mosaic of two."""

import importlib.resources
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .datasets.opening import open_dataset
from .evaluation.lock import locked
from .evaluation.report import write_report
from .evaluation.runner import How, evaluate
from .evaluation.store import Run, discard
from .evaluation.study import MethodSpec, ModelSpec, Study
from .models.loading import imagenet_class_names, load_model
from .photos import read_photo
from .pictures import Explained, explain_photo, heading, write_pictures
from .plots import Block, grid_figure, masked, write_png

MODEL = "efficientnet_lite0"
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
CLASSES = (282, 967, 657, 665)  # tiger cat, espresso, missile, moped: of PHOTOS, in their order

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
MOSAIC_CLASSES = CLASSES[:2]

# Methods of one pass, and one that any metric should see through: Score-CAM's maps would be made four times over, for
# the rows, for ADCC, for the costs and for the gallery.
STUDY = Study(
    dataset="folder",
    models=(ModelSpec(name=MODEL),),
    methods=tuple(MethodSpec(name=name, label=name) for name in ("relevance_cam", "grad_cam", "layer_cam", "fake_cam")),
    metrics=("drop", "increase", "adcc", "insertion", "deletion"),
    options={"step": 3584},
    title="Four photos",
)


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
    loaded = load_model(MODEL)
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


def evaluate_demo(output: Path, *, before: Callable[[str], None] = lambda _: None) -> tuple[Run, Path]:
    """Evaluate `STUDY` on the photos, into `output / "evaluation"`; the run and its report.

    The photos are copied to `output / "photos"`, a data set with a folder per class. An evaluation from before is made
    anew: it may be of another version, with whose rows new ones would not be of one kind.

    Raises:
        RunError: another process is at work in the folder, or it cannot be written to.
        ModuleNotFoundError: scikit-image, pyarrow or Jinja2 is not installed.
    """
    names = imagenet_class_names()
    for name, index in zip(PHOTOS, CLASSES, strict=True):
        copy = output / "photos" / names[index].replace(" ", "_") / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo_file(name), copy)
    photos = open_dataset("folder", output / "photos", class_names=names)
    folder = output / "evaluation"
    folder.mkdir(exist_ok=True)
    with locked(folder):
        discard(folder)
    before("evaluation")
    run = evaluate(STUDY, photos, folder, How(device=torch.device("cpu"), quiet=True))
    assert run is not None, "one process alone gets the run"
    page, *_ = write_report([folder], folder / "report.html", before=before)
    return run, page


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
