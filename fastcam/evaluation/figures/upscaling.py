"""UCAG beside the plain method on an enlarged photo: maps, patches, partial maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import fastcam
from fastcam import ops
from fastcam.attribution import METHODS as ALL_METHODS
from fastcam.attribution import Ucag
from fastcam.attribution.unfolding import Grid
from fastcam.evaluation.figures.curves import Key, judge
from fastcam.evaluation.figures.panels import Cell, Drawing, Panel, Plot, Section, panel_figure
from fastcam.evaluation.figures.subject import Subject
from fastcam.plots import Map, Pixels, overlay

METHODS = ("grad_cam",)
SCALES = (1.0, 1.5, 2.0, 2.6)
PATCHES = (2, 4, 6, 8)


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

    Figure 2 of UCAG: the plain method on the enlarged photo, with insertion and deletion, against UCAG whose patches are
    enlarged as much; below, UCAG with more and more patches at the largest scale. Figure 4 of UCAG: the first map (plain)
    above those of UCAG, for several methods; relevance is red where positive and blue where negative. The last row is
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
    plain = {scale: enlarged_map(subject, *_parts(question), scale=scale) for scale in dict.fromkeys((1.0, *scales))}
    folded: dict[tuple[int, float], Map] = {}
    for count, scale in dict.fromkeys((*((most, s) for s in scales), *((p, largest) for p in patches))):
        subject.before(f"{question.method}, UCAG of {count} x {count} patches")
        folded[count, scale] = _ucag(subject, question, count, scale)(
            subject.inputs, torch.tensor([[question.target]]), return_info=False
        )[0, 0].float().cpu().numpy()  # fmt: skip
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


def enlarged_map(subject: Subject, method: str, layer: str | None, target: int, *, scale: float) -> Map:
    """The plain method's raw map of the photo enlarged bicubically, at the photo's own size, (H, W).

    Raises:
        ValueError: the model does not take images of that size; whatever `fastcam.explain` finds wrong.
    """
    height, width = subject.inputs.shape[2:]
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    same = size == (height, width)
    images = subject.inputs if same else F.interpolate(subject.inputs, size, mode="bicubic")
    try:
        maps: Tensor = fastcam.explain(
            subject.model,
            images,
            target,
            layer,
            method=method,
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


def _parts(question: _Question) -> tuple[str, str | None, int]:
    return question.method, question.layer, question.target


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
    first, last = (Box(grid.lefts[i], grid.tops[i], grid.lefts[i] + grid.crop[1], grid.tops[i] + grid.crop[0]) for i in (0, -1))
    patches = [subject.photo[t : t + grid.crop[0], l : l + grid.crop[1]] for t, l in zip(grid.tops, grid.lefts, strict=True)]
    ...
