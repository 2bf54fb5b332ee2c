"""Maps of a model whose layers become random one after the other, and how far they still are what they were."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcam.attribution import METHODS as ALL_METHODS
from fastcam.evaluation.figures.panels import Cell, Panel, Plot, Section, fitted, panel_figure
from fastcam.evaluation.figures.subject import Subject, stage_layers
from fastcam.evaluation.sanity import randomization
from fastcam.metrics.randomization import Stage, layers_from_logits
from fastcam.network.cache import network_for

METHODS = ("relevance_cam",)
MODES = ("cascading", "independent")

# Maps in a row; the plot below has all stages.
_SHOWN = 6
# Fewer stages than that tell little: then modules are taken apart.
_FEWEST = 5


def sanity_figure(
    subject: Subject,
    *,
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] | None = None,
    modes: Sequence[str] = MODES,
    stages: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Maps while layers are made random, from the logits down, with their rank correlation and SSIM to the model's own.

    Figure 8 of Relevance-CAM (cascading: every stage keeps the random layers of those before) and figure 7 of Abs-CAM
    (cascading and independent: one layer at a time). The maps of up to 6 stages, spread evenly, are shown; the plot
    below them has every stage. A method that explains what the model has learnt loses its map.

    Args:
        subject: the photo and the model; without targets the predicted class is explained.
        methods: any of `fastcam.methods()`.
        layers: module names of the target layers; None: the last layer of the third deepest resolution.
        modes: "cascading", "independent" or both.
        stages: names of the modules made random, in this order; None: the parts of the model, from the logits down.
        seed: of the random parameters.

    Raises:
        ValueError: whatever `fastcam.explain` and `fastcam.metrics.randomization` find wrong.
    """
    targets = subject.classes()
    chosen = stage_layers(subject, 3)[:1] if layers is None else layers
    explained = subject.explained(methods, chosen, targets)
    names = random_stages(subject) if stages is None else stages
    sections = []
    for method, layer, target in explained.maps:
        rows: dict[str, list[Cell]] = {}
        for mode in modes:
            subject.before(f"{method}, {mode} randomisation")
            found = list(
                randomization(
                    subject.model,
                    subject.inputs,
                    target,
                    None if ALL_METHODS[method].layer == "none" else layer,
                    method=method,
                    mode=mode,
                    layers=names,
                    seed=seed,
                    precision=subject.precision,
                )
            )
            own = Panel(
                picture=subject.overlay(method, explained.maps[method, layer, target]),
                title="map",
                note="the model's own",
            )
            shown = [found[i] for i in _spread(len(found), _SHOWN)]
            rows[mode] = [
                Panel(picture=subject.photo, title="input"),
                own,
                *(_panel(subject, method, s) for s in shown),
            ]
            rows[f"{mode}, all stages"] = [_plot(found, signed=ALL_METHODS[method].signed, span=2 + len(shown))]
        sections.append(Section(heading=f"{method} at {layer}: {subject.heading(target)}", rows=rows))
    return panel_figure(sections, title=subject.title, shape=subject.photo.shape)


def random_stages(subject: Subject) -> list[str]:
    """The parts of a model that become random together, from the logits down.

    The modules with parameters, named by the first components of their path: as few of these as tell 5 parts apart. For
    ResNet-50: fc, layer4, layer3, layer2, layer1, bn1, conv1; for VGG-16 each convolution and linear layer.
    """
    graph = network_for(subject.model, subject.inputs, precision=subject.precision).graph
    # Parameters of the model itself, outside its modules, cannot be made random without all the rest.
    fine = [name.split(".") for name in layers_from_logits(graph, subject.model) if name]
    for depth in range(1, max(map(len, fine)) + 1):
        parts = list(dict.fromkeys(".".join(name[:depth]) for name in fine))
        if len(parts) >= _FEWEST:
            break
    return parts


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices below `count`, evenly spread, the first and the last among them."""
    return [round(i) for i in np.linspace(0, count - 1, min(count, most))]


def _panel(subject: Subject, method: str, stage: Stage) -> Panel:
    values = stage.maps[0].float().cpu().numpy()
    note = f"rank corr. {float(stage.rank_correlation[0]):.2f}, SSIM {float(stage.ssim[0]):.2f}"
    return Panel(picture=subject.overlay(method, values), title=stage.name, note=note)


def _plot(stages: Sequence[Stage], *, signed: bool, span: int) -> Plot:
    lines = {"rank correlation": [s.rank_correlation for s in stages], "SSIM": [s.ssim for s in stages]}
    if signed:
        lines["rank correlation of absolute values"] = [s.absolute_rank_correlation for s in stages]
        lines["SSIM of absolute values"] = [s.absolute_ssim for s in stages]

    def draw(axes: Axes) -> None:
        for name, values in lines.items():
            axes.plot(torch.cat(values).cpu().numpy(), marker=".", markersize=4, linewidth=1, label=name)
        axes.axhline(0, color="black", linewidth=0.5)
        # Room for the legend above the lines.
        axes.set_ylim(top=1.6)
        axes.set_yticks([-1, -0.5, 0, 0.5, 1])
        axes.set_ylim(bottom=min(-0.1, *(1.1 * float(torch.cat(values).min()) for values in lines.values())))
        axes.set_xticks(range(len(stages)))
        axes.set_xticklabels([fitted(s.name, 0.9, 6.5) for s in stages], rotation=35, ha="right", fontsize=6.5)
        axes.legend(fontsize=6.5, frameon=False, loc="upper right", ncols=2)

    return Plot(draw=draw, title="likeness to the model's own map, stage by stage", span=span, ticks=0.62)
