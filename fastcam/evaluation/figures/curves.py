"""How maps fare when pixels are deleted or inserted in their order: areas, and curves to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fastcam.evaluation.figures.panels import Plot
from fastcam.evaluation.figures.subject import Subject
from fastcam.metrics.evaluate import evaluate
from fastcam.metrics.perturbation import fractions_of
from fastcam.plots import Map

# (method, layer, class index), as maps are known by.
Key: TypeAlias = tuple[str, str, int]

TITLES: Mapping[str, str] = {"deletion": "deletion (lower is better)", "insertion": "insertion (higher is better)"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Of one map: the areas under its curves, and the curves: p_c at each share of the pixels, (S,)."""

    areas: Mapping[str, float]
    shares: NDArray[np.floating]
    curves: Mapping[str, NDArray[np.floating]]

    def __str__(self) -> str:
        """The areas, as they stand below a map."""
        return ", ".join(f"{name} {area:.3f}" for name, area in self.areas.items())


def judge(subject: Subject, maps: Mapping[Key, Map], *, steps: int) -> dict[Key, Judged]:
    """Deletion and insertion of maps (H, W) of the subject's photo, in so many steps; none with steps of 0.

    The definitions are those of `fastcam.metrics`.

    Raises:
        ValueError: steps below 0.
    """
    if steps < 0:
        raise ValueError(f"steps: {steps} given, 0 (no curves) or a positive number of steps is valid")
    if not steps or not maps:
        return {}
    subject.before("insertion and deletion")
    height, width = subject.inputs.shape[2:]
    step = math.ceil(height * width / steps)
    device = subject.inputs.device
    columns = evaluate(
        subject.model,
        subject.inputs,
        torch.stack([torch.as_tensor(values, device=device) for values in maps.values()])[None],
        torch.tensor([[target for _, _, target in maps]], device=device),
        metrics=tuple(TITLES),
        precision=subject.precision,
        step=step,
    )
    shares = fractions_of((height, width), step).numpy()
    found = {name: column[0].cpu().numpy() for name, column in columns.items()}
    return {
        key: Judged(
            shares=shares,
            areas={name: float(found[name][i]) for name in TITLES},
            curves={name: found[f"{name}_curve"][i] for name in TITLES},
        )
        for i, key in enumerate(maps)
    }


def curve_plots(judged: Mapping[str, Judged], columns: int) -> Sequence[Plot]:
    """A plot of the deletion curves and one of the insertion curves, by name, together so many (2 or more) wide."""
    spans = (columns // 2, columns - columns // 2)
    return [_plot(judged, name, span) for name, span in zip(TITLES, spans, strict=True)]


def _plot(judged: Mapping[str, Judged], name: str, span: int) -> Plot:
    def draw(axes: Axes) -> None:
        for label, of_map in judged.items():
            title = f"{label} {of_map.areas[name]:.3f}"
            axes.plot(of_map.shares, of_map.curves[name], label=title, linewidth=1.2)
        axes.set_xlim(0, 1)
        # With room above curves that stay near their highest value.
        axes.set_ylim(0, 1.06 * max(float(of_map.curves[name].max()) for of_map in judged.values()))
        axes.set_xlabel("share of pixels", fontsize=7, labelpad=1)
        axes.set_ylabel("probability", fontsize=7, labelpad=2)
        axes.legend(fontsize=6.5, frameon=False, loc="best")

    return Plot(draw=draw, title=TITLES[name], span=span)
