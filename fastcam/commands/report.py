"""`fastcam report`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.commands import options
from fastcam.commands.common import choose_device, clean_errors, show_steps
from fastcam.evaluation.report import write_report


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that fastcam evaluate wrote to.", metavar="RUN", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.", metavar="FILE.html")] = Path(
        "report.html"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            help="The data set's folder, for the gallery.", metavar="DIR", show_default="where it lay during the run"
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="What fastcam evaluate was given by this name, if it lies elsewhere now.",
            metavar="PATH",
            show_default="as in the run",
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Likewise.", metavar="FILE", show_default="as in the run")
    ] = None,
    gallery: Annotated[
        int | None,
        typer.Option(
            help="The most images per model in the gallery; their maps are made anew. 0: none.",
            min=0,
            show_default="the worst and the best by each metric",
        ),
    ] = None,
    device: options.Device = None,
) -> None:
    """Make one HTML page of runs: tables beside the papers' figures, curves, scatter plots, a gallery, costs.

    The page needs no network and no other file. The figures are written beside it as CSV and LaTeX too.
    """
    with clean_errors():
        where = choose_device(device)
        with show_steps("report", total=None) as step:
            written = write_report(
                runs,
                output,
                data=data,
                annotations=annotations,
                classes=classes,
                gallery=gallery,
                device=where,
                before=step,
            )
    for path in written:
        typer.echo(str(path.resolve()))
