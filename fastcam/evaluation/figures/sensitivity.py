"""Classes side by side: their maps, what each keeps of the photo, and where they differ."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from fastcam.attribution import METHODS as ALL_METHODS
from fastcam.evaluation.figures.panels import Cell, Panel, Section, panel_figure
from fastcam.evaluation.figures.subject import Subject, stage_layers
from fastcam.pictures import Explained
from fastcam.plots import Map, Pixels, masked, overlay, scaled

METHODS = ("relevance_cam",)


def sensitivity_figure(
    subject: Subject,
    *,
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] | None = None,
    deviations: float = 1.0,
) -> Figure:
    """For each class its map at each layer and what that keeps of the photo; then the first class less each other.

    Figures 6 and 7 of Relevance-CAM (class sensitivity; with one target, figure 7): a column per layer, the photo in
    the region above the map's mean + 1 standard deviation. The maps are figure 4 of Abs-CAM (two classes of one photo).
    The contrast is m_first - m_other of the maps scaled to [0, 1] (signed ones to [-1, 1]), red where the first class
    prevails and blue where the other does, on the same scale at every layer: maps that do not tell the classes apart
    are white.

    Args:
        subject: the photo and the model; without targets the two most probable classes are compared.
        methods: any of `fastcam.methods()`.
        layers: module names; None: the last layers of the four deepest resolutions.
        deviations: the threshold is mean + deviations * standard deviation.

    Raises:
        ValueError: whatever `fastcam.explain` finds wrong.
    """
    targets = subject.classes(2)
    explained = subject.explained(methods, stage_layers(subject, 4) if layers is None else layers, targets)
    sections = [
        Section(heading=f"{method}: {_classes(subject, targets)}", rows=_rows(subject, explained, method, deviations))
        for method in explained.methods
    ]
    return panel_figure(sections, title=subject.title, shape=subject.photo.shape)


def contrast(method: str, first: Map, other: Map) -> Map:
    """The difference of two maps of a method, each scaled: to [0, 1], signed ones by their largest magnitude."""
    a, b = (_normalised(values, signed=ALL_METHODS[method].signed) for values in (first, other))
    return a - b


def _normalised(values: Map, *, signed: bool) -> Map:
    return values / (np.abs(values).max() or 1) if signed else scaled(values)


def _rows(subject: Subject, explained: Explained, method: str, deviations: float) -> dict[str, list[Cell]]:
    layers = [layer for layer in explained.layers if (method, layer, explained.targets[0]) in explained.maps]
    first, *others = explained.targets
    names = {target: subject.name(target) for target in explained.targets}
    rows: dict[str, list[Cell]] = {}
    for target in explained.targets:
        name = names[target]
        maps = [explained.maps[method, layer, target] for layer in layers]
        pictures = [subject.overlay(method, values) for values in maps]
        titles = ["input", *layers] if target == first else [""] * (len(layers) + 1)
        rows[f"{name}\nmap"] = _cells([subject.photo, *pictures], titles)
        kept = [masked(subject.photo, values, deviations=deviations) for values in maps]
        rows[f"{name}\nregion"] = _cells([subject.photo, *kept])
    for target in others:
        pairs = [(explained.maps[method, layer, first], explained.maps[method, layer, target]) for layer in layers]
        differences = [contrast(method, *pair) for pair in pairs]
        shown = [overlay(subject.photo, values, signed=True, largest=1.0) for values in differences]
        legend = f"red: {names[first]}\nblue: {names[target]}"
        rows[f"{names[first]}\nless {names[target]}"] = [
            Panel(picture=subject.photo, note=legend),
            *_cells(shown),
        ]
    return rows


def _cells(pictures: Sequence[Pixels], titles: Sequence[str] | None = None) -> list[Cell]:
    return [
        Panel(picture=picture, title=title)
        for picture, title in zip(pictures, titles or [""] * len(pictures), strict=True)
    ]


def _classes(subject: Subject, targets: Sequence[int]) -> str:
    return "; ".join(subject.heading(target) for target in targets)
