"""Classes side by side: their maps, what each keeps of the photo, and where they differ."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from fastcam.evaluation.figures.panels import Cell, Panel, Section, panel_figure
from fastcam.evaluation.figures.subject import Subject, stage_layers
from fastcam.pictures import Explained
from fastcam.plots import Map, Pixels, masked, overlay

METHODS = ("relevance_cam",)

# The difference of two standardised maps that gets the ends of the colours.
_ENDS = 3.0


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
    The contrast is z_first - z_other of the maps standardised, z = (m - mean) / standard deviation, red where the first
    class prevails and blue where the other does, on the same scale at every layer: maps that do not tell the classes
    apart are white. Below it the correlation of the two maps, mean(z_first z_other).

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


def standardised(values: Map) -> Map:
    """(m - mean) / standard deviation of the population; a flat map gives zeros."""
    centred: Map = values - values.mean()
    # A map is flat within the roundings of its values.
    flat = values.std() <= 1e-6 * np.abs(values).max()
    return np.zeros_like(centred) if flat else centred / values.std()


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
        cells: list[Cell] = [
            Panel(picture=subject.photo, note=f"red: {names[first]}\nblue: {names[target]}"),
        ]
        for layer in layers:
            a, b = (standardised(explained.maps[method, layer, t]) for t in (first, target))
            picture = overlay(subject.photo, a - b, signed=True, largest=_ENDS)
            cells.append(Panel(picture=picture, note=f"correlation {(a * b).mean():.2f}"))
        rows[f"{names[first]}\nless {names[target]}"] = cells
    return rows


def _cells(pictures: Sequence[Pixels], titles: Sequence[str] | None = None) -> list[Cell]:
    return [
        Panel(picture=picture, title=title)
        for picture, title in zip(pictures, titles or [""] * len(pictures), strict=True)
    ]


def _classes(subject: Subject, targets: Sequence[int]) -> str:
    return "; ".join(subject.heading(target) for target in targets)
