"""`fastcam methods`."""

from rich.console import Console
from rich.table import Table

from fastcam.attribution.registry import methods as list_methods


def methods() -> None:
    """List the methods: family, paper, and cost per image in passes through the model."""
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "family", "paper", "explains", "forward passes", "backward passes"):
        table.add_column(heading, no_wrap=True)
    for method in list_methods():
        where = {"last": "a layer", "input": "the images or a layer", "none": "the images"}[method.layer]
        table.add_row(method.name, method.family, method.paper, where, method.forwards, method.backwards)
    console = Console()
    # A pipe gets whole lines; a terminal's width is its own.
    Console(width=None if console.is_terminal else 400).print(table)
