"""The command line."""

import typer

from fastcam.commands.bench import bench
from fastcam.commands.demo import demo
from fastcam.commands.evaluate import evaluate
from fastcam.commands.explain import explain
from fastcam.commands.figure import figure
from fastcam.commands.methods import methods
from fastcam.commands.report import report

app = typer.Typer(help="Explain the decisions of CNN image classifiers.", no_args_is_help=True, add_completion=False)

for command in (explain, evaluate, report, methods, demo):
    app.command()(command)
app.add_typer(bench, name="bench")
app.add_typer(figure, name="figure")
