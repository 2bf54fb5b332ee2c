"""The command line."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .attribution import METHODS
from .attribution.registry import methods as list_methods
from .class_names import class_title, parse_targets, read_class_names
from .demo import make_demo
from .files import atomic_write
from .models.loading import load_model
from .models.preprocessing import parse_size
from .network.arguments import check_choice
from .network.precision import PRECISIONS
from .photos import PhotoError, read_photo
from .pictures import Explained, explain_photo, folder_names, write_pictures
from .propagation.convolutions import convolutions
from .propagation.tuning import read_table
from .propagation.tuning import tune as run_tuning

app = typer.Typer(help="Explain the decisions of CNN image classifiers.", no_args_is_help=True, add_completion=False)

bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")

_SOME_FAILED = 1
_WRONG_USE = 2


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(help="Image files.", metavar="PHOTO", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", metavar="DIR")],
    model: Annotated[
        str,
        typer.Option(help="A torchvision classifier, efficientnet_lite0, or package.module:function."),
    ] = "resnet50",
    weights: Annotated[
        str,
        typer.Option(
            help="default (downloaded once), none (random), or a file with a state dict. The model of a "
            "function is taken as it comes unless a file is named.",
            metavar="default|none|FILE",
        ),
    ] = "default",
    methods: Annotated[
        str, typer.Option(help="Names between commas, such as relevance_cam,grad_cam.")
    ] = "relevance_cam",
    layers: Annotated[
        str | None,
        typer.Option(
            help="Module names between commas, such as layer2,layer4; for methods that take a layer.",
            show_default="the last layer, or the images",
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help='Class names and indices between commas, such as "tiger cat,285".',
            show_default="the predicted class",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="Text file, one class name a line, class 0 first.", metavar="FILE"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, ...", show_default="cuda where there is one, else cpu"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, tf32, bfloat16 or float16.", show_default="the model's own"),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="256 for the short side, or 224x224 for exactly that (then nothing is cropped unless --crop says so).",
            metavar="SIZE|HxW",
            show_default="the model's own",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            help="Centre crop after resizing, or none.",
            metavar="SIZE|HxW|none",
            show_default="the model's own",
        ),
    ] = None,
) -> None:
    """Show what in each photo speaks for a class: overlays, raw maps and a figure of methods x layers.

    Ends with 1 if a photo could not be read (the others are explained), with 2 if nothing could be done.
    """
    with _clean_errors():
        where = _device(device)
        method_names = _names(methods, option="--methods")
        for name in method_names:
            check_choice("--methods", name, tuple(METHODS))
        layer_names = None if layers is None else _names(layers, option="--layers")
        size = None if resize is None else parse_size(resize)
        crop_size = "none" if crop == "none" else None if crop is None else parse_size(crop)
        loaded = load_model(model, weights=weights)
        network = loaded.model.to(where)
        preprocessing = loaded.preprocessing.changed(resize=size, crop=crop_size)
        names = loaded.class_names if class_names is None else read_class_names(class_names)
        wanted = None if targets is None else parse_targets(targets, names)

    # The same file named twice is explained once.
    photos = list({photo.resolve(): photo for photo in reversed(photos)}.values())[::-1]
    failed = False
    for photo, folder_name in zip(photos, folder_names(photos), strict=True):
        try:
            view = preprocessing.view(read_photo(photo))
        except PhotoError as error:
            failed = True
            _complain(str(error))
            continue
        except ValueError as error:
            failed = True
            _complain(f"photo {photo}: {error}")
            continue
        folder = output / folder_name
        with _clean_errors():
            with _progress(f"{photo.name}", total=len(method_names)) as step:
                explained = explain_photo(
                    network,
                    preprocessing.tensor(view).to(where),
                    methods={name: None if METHODS[name].layer == "none" else layer_names for name in method_names},
                    targets=wanted,
                    precision=precision,
                    before=step,
                )
            _check_names(names, explained)
            write_pictures(folder, title=photo.name, view=view, explained=explained, names=names)
        typer.echo(f"{photo}: {len(explained.maps)} maps in {folder}")
        _print_top(explained, names)
    if failed:
        raise typer.Exit(_SOME_FAILED)


@app.command()
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


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", metavar="DIR")] = Path(
        "demo-output"
    ),
) -> None:
    """Explain four photos and a mosaic of two with the embedded model; nothing is downloaded."""
    with _clean_errors(), _progress("demo", total=None) as step:
        shown = make_demo(output, before=step)
    for name, explained in shown.explained.items():
        typer.echo(name)
        _print_top(explained, shown.names)
    typer.echo(f"Pictures are in {output.resolve()}:")
    for path in sorted(output.glob("*/figure.png")):
        typer.echo(f"  {path}")


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
    with _clean_errors():
        names = _names(models, option="--models")
        sizes = [_positive(number, option="--batches") for number in _names(batches, option="--batches")]
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


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is no device: cpu, cuda and cuda:1 are some") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"--device {name}: PyTorch finds {count} CUDA devices here; leave it out, or use cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}); leave it out, or use cpu") from error
    return device


def _names(text: str, *, option: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if "" in names:
        raise ValueError(f"{option} {text!r} has an empty entry: write names between commas")
    return list(dict.fromkeys(names))


def _check_names(names: Sequence[str] | None, explained: Explained) -> None:
    count = len(explained.probabilities)
    if names is not None and len(names) != count:
        raise ValueError(
            f"there are {len(names)} class names, but the model has {count} classes: name a file that fits "
            "with --class-names FILE"
        )


def _print_top(explained: Explained, names: Sequence[str] | None) -> None:
    for index, probability in explained.top(5):
        typer.echo(f"  {probability:.3f}  {index:4d}  {class_title(index, names)}")


class _Step:
    """Shows which method is at work, one step on at each call."""

    def __init__(self, progress: Progress, title: str, *, total: int | None) -> None:
        self._progress, self._title = progress, title
        self._task = progress.add_task(escape(title), total=total)
        self._calls = 0

    def __call__(self, method: str) -> None:
        description = escape(f"{self._title}: {method}")
        self._progress.update(self._task, description=description, completed=self._calls)
        self._calls += 1


@contextmanager
def _progress(title: str, *, total: int | None) -> Iterator[_Step]:
    """A bar on the error stream, gone at the end, so that the output stays fit for a pipe."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        yield _Step(progress, title, total=total)


def _complain(message: str) -> None:
    typer.echo("fastcam: " + " ".join(message.split()), err=True)


@contextmanager
def _clean_errors() -> Iterator[None]:
    """Turn what the user can set right into one line on the error stream."""
    try:
        yield
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        _complain(str(error))
        raise typer.Exit(_WRONG_USE) from error
