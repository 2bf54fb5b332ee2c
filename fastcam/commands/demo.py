"""`fastcam demo`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.commands.common import clean_errors, print_top, show_steps
from fastcam.commands.results import print_results
from fastcam.demo import evaluate_demo, make_demo


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", metavar="DIR")] = Path(
        "demo-output"
    ),
) -> None:
    """Explain four photos and a mosaic of two with the embedded model, and evaluate methods on the photos.

    Nothing is downloaded.
    """
    with clean_errors(), show_steps("demo", total=None) as step:
        shown = make_demo(output, before=step)
    for name, explained in shown.explained.items():
        typer.echo(name)
        print_top(explained, shown.names)
    typer.echo(f"Pictures are in {output.resolve()}:")
    for path in sorted(output.glob("*/figure.png")):
        typer.echo(f"  {path}")
    with clean_errors(), show_steps("demo", total=None) as step:
        run, page = evaluate_demo(output, before=step)
    typer.echo("How good are the maps? Means over the four photos:")
    print_results(run)
    typer.echo(f"The report, with curves and a gallery: {page.resolve()}")
