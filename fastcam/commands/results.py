"""A run's figures on the terminal."""

from rich.console import Console
from rich.table import Table

from fastcam.evaluation.store import Run
from fastcam.evaluation.tables import results
from fastcam.metrics.registry import METRICS


def print_results(run: Run) -> None:
    """The mean of every metric, one line a model, layer and method."""
    found = results(run.rows, run.study, METRICS, resamples=1)
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "layer", "method", "images"):
        table.add_column(heading, no_wrap=True)
    for column in found.columns:
        table.add_column(f"{column.title}{' (%)' if column.unit else ''}", justify="right")
    for line in found.lines:
        if line.count:
            figures = [line.figures.get(column.name) for column in found.columns]
            shown_figures = ["" if figure is None else f"{figure.value:.4g}" for figure in figures]
            table.add_row(line.model, line.layer, line.method, str(line.count), *shown_figures)
    console = Console()
    Console(width=None if console.is_terminal else 400).print(table)
