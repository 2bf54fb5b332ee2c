"""`fastcam demo`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.commands.common import clean_errors, print_top, show_steps
from fastcam.demo import make_demo


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", metavar="DIR")] = Path(
        "demo-output"
    ),
) -> None:
    """Explain four photos and a mosaic of two with the embedded model; nothing is downloaded."""
    with clean_errors(), show_steps("demo", total=None) as step:
        shown = make_demo(output, before=step)
    for name, explained in shown.explained.items():
        typer.echo(name)
        print_top(explained, shown.names)
    typer.echo(f"Pictures are in {output.resolve()}:")
    for path in sorted(output.glob("*/figure.png")):
        typer.echo(f"  {path}")
