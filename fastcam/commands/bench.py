"""`fastcam bench`."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from fastcam.commands.common import clean_errors, split_names
from fastcam.files import atomic_write
from fastcam.models.loading import load_model
from fastcam.network.arguments import check_choice
from fastcam.network.precision import PRECISIONS
from fastcam.propagation.convolutions import convolutions
from fastcam.propagation.tuning import read_table
from fastcam.propagation.tuning import tune as run_tuning
from fastcam_kernels.tuning import table_path

bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@bench.command()
def tune(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="JSON file for the table, gone on with if it exists. Default: the one that calls on this device read.",
            metavar="FILE",
        ),
    ] = None,
    models: Annotated[
        str, typer.Option(help="torchvision classifiers or efficientnet_lite0, between commas.")
    ] = "resnet50,vgg16_bn,densenet121",
    batches: Annotated[str, typer.Option(help="Images at once, numbers between commas.")] = "1,32,256",
    precision: Annotated[str, typer.Option(help="float32, tf32, bfloat16 or float16.")] = "bfloat16",
) -> None:
    """Choose, per convolution and batch, the fastest kernel on this CUDA device; write the table.

    Saved as fastcam_kernels/tables/DEVICE.json, it serves every call on a device of that name. Each entry is written as
    soon as it is measured, and what the file holds is not measured again: delete it to begin anew.
    """
    with clean_errors():
        names = split_names(models, option="--models")
        sizes = [_positive(number, option="--batches") for number in split_names(batches, option="--batches")]
        check_choice("--precision", precision, tuple(PRECISIONS))
        table = {} if output is None else _held(output)
        if not torch.cuda.is_available():
            raise ValueError("bench tune measures on a CUDA device, and PyTorch finds none here")
        device = torch.device("cuda")
        path = output
        if path is None:
            path = table_path(device)
            table = _held(path)

        def keep(key: str, entry: dict[str, Any]) -> None:
            table[key] = entry
            with atomic_write(path) as stream:
                stream.write((json.dumps(table, indent=1) + "\n").encode())

        for name in names:
            loaded = load_model(name, weights="none" if name != "efficientnet_lite0" else "default")
            view = loaded.preprocessing.tensor(loaded.preprocessing.view(Image.new("RGB", (300, 300))))
            layers = convolutions(loaded.model, view)
            run_tuning(layers, sizes, precision, device, known=table, keep=keep, note=typer.echo)
    typer.echo(f"{len(table)} entries in {path}")


def _held(path: Path) -> dict[str, dict[str, Any]]:
    return read_table(path) if path.exists() else {}


def _positive(text: str, *, option: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{option}: {text!r} given, positive integers between commas are valid")
    return int(text)
