"""`fastcam bench`."""

import json
from pathlib import Path
from typing import Annotated

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

bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@bench.command()
def tune(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file for the table.", metavar="FILE")],
    models: Annotated[
        str, typer.Option(help="torchvision classifiers or efficientnet_lite0, between commas.")
    ] = "resnet50,vgg16_bn,densenet121",
    batches: Annotated[str, typer.Option(help="Images at once, numbers between commas.")] = "1,32,256",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
) -> None:
    """Choose, per convolution and batch, the fastest kernel on this CUDA device; write the table.

    Saved as fastcam_kernels/tables/DEVICE.json, it serves every call on a device of that name. What a file already
    holds is kept unless measured anew.
    """
    with clean_errors():
        names = split_names(models, option="--models")
        sizes = [_positive(number, option="--batches") for number in split_names(batches, option="--batches")]
        check_choice("--precision", precision, ("float32", "bfloat16", "float16"))
        table = read_table(output) if output.exists() else {}
        if not torch.cuda.is_available():
            raise ValueError("bench tune measures on a CUDA device, and PyTorch finds none here")
        for name in names:
            loaded = load_model(name, weights="none" if name != "efficientnet_lite0" else "default")
            view = loaded.preprocessing.tensor(loaded.preprocessing.view(Image.new("RGB", (300, 300))))
            layers = convolutions(loaded.model, view)
            table |= run_tuning(layers, sizes, PRECISIONS[precision], note=typer.echo)
            with atomic_write(output) as stream:
                stream.write((json.dumps(table, indent=1) + "\n").encode())
    typer.echo(f"{len(table)} entries in {output}")


def _positive(text: str, *, option: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{option}: {text!r} given, positive integers between commas are valid")
    return int(text)
