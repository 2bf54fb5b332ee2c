"""Maps over layers x methods, with the curves by which they are judged."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from fastcam.evaluation.figures.curves import Judged, curve_plots, judge
from fastcam.evaluation.figures.panels import Cell, Panel, Section, panel_figure
from fastcam.evaluation.figures.subject import Subject, stage_layers
from fastcam.pictures import Explained

METHODS = ("grad_cam", "grad_cam_pp", "score_cam", "relevance_cam")


def depth_figure(
    subject: Subject, *, methods: Sequence[str] = METHODS, layers: Sequence[str] | None = None, steps: int = 28
) -> Figure:
    """Maps of several methods at several depths, and the curves of insertion and deletion of each.

    Figures 1 and 3 of Relevance-CAM: a column per method, a row per layer. With other methods, or another model,
    figures 2, 3 and 5 of Abs-CAM (methods side by side, on two networks, abs_cam_init beside abs_cam) and figure 2 of
    ADCC. The curves with their areas are figure 6 of Abs-CAM; its maps stand above them.

    Args:
        subject: the photo and the model; without targets the predicted class is explained.
        methods: any of `fastcam.methods()`.
        layers: module names; None: the last layers of the three deepest resolutions.
        steps: of the curves; 0 leaves them out.

    Raises:
        ValueError: whatever `fastcam.explain` finds wrong; steps below 0.
    """
    targets = subject.classes()
    explained = subject.explained(methods, stage_layers(subject, 3) if layers is None else layers, targets)
    sections = []
    for target in targets:
        judged = judge(subject, {k: v for k, v in explained.maps.items() if k[2] == target}, steps=steps)
        rows = {layer: _row(subject, explained, layer, target, judged) for layer in explained.layers}
        sections.append(Section(heading=subject.heading(target), rows=rows))
        if judged:
            columns = sections[-1].columns
            curves = {
                layer: curve_plots(
                    {m: judged[m, layer, target] for m in methods if (m, layer, target) in judged}, columns
                )
                for layer in explained.layers
            }
            heading = "probability while pixels go or come, the most important first"
            sections.append(Section(heading=heading, rows=curves))
    return panel_figure(sections, title=subject.title, shape=subject.photo.shape)


def _row(
    subject: Subject, explained: Explained, layer: str, target: int, judged: dict[tuple[str, str, int], Judged]
) -> list[Cell]:
    cells: list[Cell] = [Panel(picture=subject.photo, title="input")]
    for method in explained.methods:
        key = (method, layer, target)
        values = explained.maps.get(key)
        note = str(judged[key]) if key in judged else ""
        picture = None if values is None else subject.overlay(method, values)
        cells.append(None if picture is None else Panel(picture=picture, title=method, note=note))
    return cells
