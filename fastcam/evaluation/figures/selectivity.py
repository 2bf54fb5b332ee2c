"""Which channels a method weighs most, and what these channels show."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastcam.evaluation.figures.panels import Cell, Drawing, Panel, Plot, Section, panel_figure
from fastcam.evaluation.figures.subject import Subject, stage_layers
from fastcam.evaluation.selectivity import selectivity
from fastcam.pictures import Explained
from fastcam.plots import overlay

METHODS = ("grad_cam", "relevance_cam")


def selectivity_figure(
    subject: Subject, *, methods: Sequence[str] = METHODS, layers: Sequence[str] | None = None, top: int = 3
) -> Figure:
    """For each layer and method the channel weights, the `top` most weighted activation maps, and the map itself.

    Figure 4 of Relevance-CAM (section 4.2): weights on one scale, alpha / max |alpha|, along the channels (a, b); the
    activation maps of the channels with the largest weights, and the method's map at the end (c, d).

    Args:
        subject: the photo and the model; without targets the predicted class is explained.
        methods: those whose map is a weighted sum of channels, one weight per channel.
        layers: module names; None: the last layers of the two deepest resolutions.
        top: how many activation maps.

    Raises:
        ValueError: whatever `fastcam.explain` finds wrong, a method without channel weights, more channels than there
            are.
    """
    targets = subject.classes()
    explained = subject.explained(methods, stage_layers(subject, 2) if layers is None else layers, targets)
    sections = [
        Section(
            heading=f"{layer}: {subject.heading(target)}",
            rows={
                method: _row(subject, explained, (method, layer, target), top)
                for method in methods
                if (method, layer, target) in explained.maps
            },
        )
        for target in targets
        for layer in explained.layers
    ]
    return panel_figure(sections, title=subject.title, shape=subject.photo.shape)


def _row(subject: Subject, explained: Explained, key: tuple[str, str, int], top: int) -> list[Cell]:
    method, layer, target = key
    found = selectivity(
        subject.model, subject.inputs, target, layer, method=method, top=top, precision=subject.precision
    )
    weights = found.scaled[0].float().cpu().numpy()
    channels = found.channels[0].tolist()
    most = [
        Panel(
            picture=overlay(subject.photo, values),
            title=f"channel {channel}",
            note=f"weight {weights[channel]:.2f}" + ("" if values.any() else ", zero everywhere"),
        )
        for channel, values in zip(channels, found.maps[0].float().cpu().numpy(), strict=True)
    ]
    title = f"weights of {len(weights)} channels"
    return [
        Plot(draw=_bars(weights, channels), title=title, span=2),
        *most,
        Panel(picture=subject.overlay(method, explained.maps[key]), title="map"),
    ]


def _bars(weights: NDArray[np.floating], channels: Sequence[int]) -> Drawing:
    def draw(axes: Axes) -> None:
        axes.vlines(np.arange(len(weights)), 0, weights, linewidth=max(0.4, 120 / len(weights)), colors="steelblue")
        axes.vlines(channels, 0, weights[channels], linewidth=1.2, colors="crimson")
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set_xlim(-0.5, len(weights) - 0.5)
        axes.set_ylim(min(-0.1, 1.05 * float(weights.min())), 1.05)
        axes.set_xlabel("channel", fontsize=7, labelpad=1)
        axes.set_ylabel("weight / largest", fontsize=7, labelpad=2)

    return draw
