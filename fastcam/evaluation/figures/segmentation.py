"""Maps thresholded: the region that a map keeps, outlined and in boxes, and the photo in it alone."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from fastcam.evaluation.figures.panels import Cell, Panel, Section, panel_figure
from fastcam.evaluation.figures.regions import part_boxes
from fastcam.evaluation.figures.subject import Subject, stage_layers
from fastcam.plots import Map, masked, region

METHODS = ("relevance_cam",)


def segmentation_figure(
    subject: Subject,
    *,
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] | None = None,
    deviations: float = 1.0,
) -> Figure:
    """For each method and layer the map, its region on the photo with boxes around the parts, and the region alone.

    Figure 5 of Relevance-CAM (weakly supervised localisation): pixels above the map's mean + 1 standard deviation
    (section 4.3). The boxes hold the region's connected parts of at least 5% of its pixels.

    Args:
        subject: the photo and the model; without targets the predicted class is explained.
        methods: any of `fastcam.methods()`.
        layers: module names; None: the last layers of the three deepest resolutions.
        deviations: the threshold is mean + deviations * standard deviation; 0 is that of the segmentation metrics.

    Raises:
        ValueError: whatever `fastcam.explain` finds wrong.
    """
    targets = subject.classes()
    explained = subject.explained(methods, stage_layers(subject, 3) if layers is None else layers, targets)
    sections = [
        Section(
            heading=f"{method}: {subject.heading(target)}",
            rows={
                layer: _row(subject, method, explained.maps[method, layer, target], deviations)
                for layer in explained.layers
                if (method, layer, target) in explained.maps
            },
        )
        for target in targets
        for method in explained.methods
    ]
    return panel_figure(sections, title=subject.title, shape=subject.photo.shape)


def _row(subject: Subject, method: str, values: Map, deviations: float) -> list[Cell]:
    high = region(values, subject.photo.shape[:2], deviations=deviations)
    boxes = part_boxes(high)
    parts = "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes"
    return [
        Panel(picture=subject.overlay(method, values), title="map"),
        Panel(
            picture=subject.photo,
            title="region",
            note=f"{high.mean():.0%} of the pixels, {parts}",
            region=high,
            boxes=boxes,
        ),
        Panel(picture=masked(subject.photo, values, deviations=deviations), title="what it keeps"),
    ]
