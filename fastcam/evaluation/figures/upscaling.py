"""UCAG beside the plain method on an enlarged photo: maps, patches, partial maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import fastcam
from fastcam.attribution import METHODS as ALL_METHODS
from fastcam.attribution import Ucag
from fastcam.datasets.sample import Box
from fastcam.evaluation.figures.curves import Key, judge
from fastcam.evaluation.figures.panels import Cell, Panel, Section, panel_figure
from fastcam.evaluation.figures.subject import Subject, coloured
from fastcam.plots import Map, Pixels, resized

METHODS = ("grad_cam",)
SCALES = (1.0, 1.5, 2.0, 2.6)
PATCHES = (2, 3, 4, 6)


def upscaling_figure(
    subject: Subject,
    *,
    methods: Sequence[str] = METHODS,
    layer: str | None = None,
    scales: Sequence[float] = SCALES,
    patches: Sequence[int] = PATCHES,
    steps: int = 28,
) -> Figure:
    """A method's map of the photo enlarged more and more, beside UCAG's, with patches and partial maps.

    Figure 2 of UCAG: the plain method on the enlarged photo, with insertion and deletion, against UCAG whose patches
    are enlarged as much; below, UCAG with more and more patches at the largest scale. Figure 4 of UCAG: the plain map
    beside those of UCAG, for several methods; relevance is red where positive and blue where negative. The last row is
    what UCAG makes its map of (eq. 1, 4 and 5), with the last number of patches: the patches, their confidences
    s_m = exp(p_c), and s_m times the partial maps, all on one scale.

    Args:
        subject: the photo and the model; without targets the predicted class is explained.
        methods: any of `fastcam.methods()`.
        layer: a module's name; None: the last layer, or the images, as the method has it.
        scales: how many times the photo, or a patch, is enlarged; the model must take images of these sizes.
        patches: along each axis.
        steps: of the curves of insertion and deletion; 0 leaves their areas out.

    Raises:
        ValueError: whatever `fastcam.explain` and `fastcam.ucag` find wrong; no scales or no patches.
    """
    for option, given in (("scales", scales), ("patches", patches)):
        if not given:
            raise ValueError(f"{option} is empty: name at least one")
    targets = subject.classes()
    sections = []
    for method in methods:
        at = None if ALL_METHODS[method].layer == "none" else layer
        for target in targets:
            sections.append(_section(subject, _Question(method, at, target), scales, patches, steps))
    return panel_figure(sections, title=subject.title, shape=subject.photo.shape)


@dataclass(frozen=True)
class _Question:
    """A method at a layer, asked for a class."""

    method: str
    layer: str | None
    target: int


def _section(
    subject: Subject, question: _Question, scales: Sequence[float], patches: Sequence[int], steps: int
) -> Section:
    most, largest = patches[-1], scales[-1]
    subject.before(f"{question.method}, photo enlarged")
    plain = {scale: _enlarged(subject, question, scale) for scale in dict.fromkeys((1.0, *scales))}
    folded: dict[tuple[int, float], Map] = {}
    for count, scale in dict.fromkeys((*((most, s) for s in scales), *((p, largest) for p in patches))):
        subject.before(f"{question.method}, UCAG of {count} x {count} patches")
        ucag = _ucag(subject, question, count, scale)
        folded[count, scale] = ucag(subject.inputs, question.target)[0].float().cpu().numpy()
    maps: dict[str, Map] = {_plain_title(scale): values for scale, values in plain.items()}
    maps |= {_title(count, scale): values for (count, scale), values in folded.items()}
    keys: Mapping[Key, Map] = {(title, "", question.target): values for title, values in maps.items()}
    areas = {title: str(found) for (title, _, _), found in judge(subject, keys, steps=steps).items()}

    def panel(title: str) -> Panel:
        note = areas.get(title, "")
        return Panel(picture=subject.overlay(question.method, maps[title]), title=title, note=note)

    rows: dict[str, Sequence[Cell]] = {
        "photo enlarged": [Panel(picture=subject.photo, title="input"), *(panel(_plain_title(s)) for s in scales)],
        "patches enlarged": [panel(_plain_title(1.0)), *(panel(_title(most, s)) for s in scales)],
        "more patches": [panel(_plain_title(1.0)), *(panel(_title(p, largest)) for p in patches)],
        "inside": _inside(subject, question, most, largest, panel(_title(most, largest))),
    }
    at = f" at {question.layer}" if question.layer else ""
    return Section(heading=f"{question.method}{at}: {subject.heading(question.target)}", rows=rows)


def _enlarged(subject: Subject, question: _Question, scale: float) -> Map:
    """The plain method's raw map of the photo enlarged bicubically, at the photo's own size, (H, W)."""
    height, width = subject.inputs.shape[2:]
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    same = size == (height, width)
    images = subject.inputs if same else F.interpolate(subject.inputs, size, mode="bicubic")
    try:
        maps: Tensor = fastcam.explain(
            subject.model,
            images,
            question.target,
            question.layer,
            method=question.method,
            size=(height, width),
            normalize=False,
            precision=subject.precision,
        )
    except ValueError as error:
        if same:
            raise
        raise ValueError(
            f"scales: {scale:g} given, which makes images of {size[0]} x {size[1]} pixels, and the model does not take "
            f"them ({error})"
        ) from error
    found: Map = maps[0].float().cpu().numpy()
    return found


def _ucag(subject: Subject, question: _Question, count: int, scale: float) -> Ucag:
    return Ucag(
        subject.model,
        method=question.method,
        layer=question.layer,
        patches=count,
        scale=scale,
        normalize=False,
        precision=subject.precision,
    )


def _inside(subject: Subject, question: _Question, count: int, scale: float, whole: Panel) -> list[Cell]:
    """What UCAG makes its map of: where patches lie, the patches, confidences, weighted partial maps, and the map."""
    ucag = _ucag(subject, question, count, scale)
    height, width = subject.inputs.shape[2:]
    grid = ucag.grid(height, width)
    targets = torch.tensor([[question.target]], device=subject.inputs.device)
    found = ucag.partial_maps(subject.inputs, targets, grid)
    confidences = found.confidences[0, :, 0].float().cpu().numpy()
    partial = found.maps[0][0][0, :, 0].float().cpu().numpy() * confidences[:, None, None]
    photos = np.stack(
        [
            _shrunk(subject.photo[top : top + grid.crop[0], left : left + grid.crop[1]], count)
            for top, left in zip(grid.tops, grid.lefts, strict=True)
        ]
    )
    maps = np.stack([resized(values, photos.shape[1:3]) for values in partial])
    signed = ALL_METHODS[question.method].signed
    shown = maps.clip(min=0) if ALL_METHODS[question.method].relu else maps
    # All partial maps on one scale, as they enter the sum.
    together = coloured(_tiled(photos, count), _tiled(shown[..., None], count)[..., 0], signed=signed)
    low, high = confidences.min(), confidences.max()
    squares = np.broadcast_to(confidences[:, None, None, None], (*photos.shape[:3], 1))
    # From s = 1, where p_c = 0, to the largest.
    colours = colormaps["viridis"]((_tiled(squares, count)[..., 0] - 1) / max(high - 1, 1e-9))[..., :3]
    boxes = [
        Box(grid.lefts[i], grid.tops[i], grid.lefts[i] + grid.crop[1], grid.tops[i] + grid.crop[0]) for i in (0, -1)
    ]
    size = f"{grid.crop[0]} x {grid.crop[1]} pixels each"
    return [
        Panel(picture=subject.photo, title="first and last patch", note=size, boxes=boxes),
        Panel(picture=_framed(_tiled(photos, count), count), title=f"{count * count} patches"),
        Panel(
            picture=_framed(np.rint(colours * 255).astype(np.uint8), count),
            title="confidences",
            note=f"s from {low:.2f} to {high:.2f}",
        ),
        Panel(picture=_framed(together, count), title="partial maps times confidence"),
        whole,
    ]


def _shrunk(patch: Pixels, count: int) -> Pixels:
    """A patch at the size at which `count` of them side by side are about twice as large as the photo."""
    height, width = (max(2 * round(side * 224 / 124) // count, 8) for side in patch.shape[:2])
    return np.asarray(Image.fromarray(patch).resize((width, height), Image.Resampling.BILINEAR))


def _tiled(tiles: NDArray[Any], count: int) -> NDArray[Any]:
    """(count * count, h, w, c) as one picture (count * h, count * w, c), row by row."""
    _, height, width, channels = tiles.shape
    grid = tiles.reshape(count, count, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(count * height, count * width, channels)


def _framed(picture: Pixels, count: int) -> Pixels:
    """A picture of tiles with white lines between them."""
    framed = picture.copy()
    height, width = picture.shape[0] // count, picture.shape[1] // count
    for i in range(1, count):
        framed[i * height - 1 : i * height + 1] = 255
        framed[:, i * width - 1 : i * width + 1] = 255
    return framed


def _plain_title(scale: float) -> str:
    return "plain" if scale == 1 else f"plain, photo x {scale:g}"


def _title(count: int, scale: float) -> str:
    return f"UCAG {count} x {count}, patches x {scale:g}"
