"""What the commands share: reading options, showing progress, and saying in one line what is wrong."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastcam.class_names import class_title
from fastcam.pictures import Explained

SOME_FAILED = 1
WRONG_USE = 2

# Advice that the command line, which takes no Python function, cannot follow.
_PICK_THE_LOGITS = re.compile(r"pick (or make )?the logits with `output=`.*", re.DOTALL)


def choose_device(name: str | None) -> torch.device:
    """The device of that name; None: CUDA where there is one. Raises ValueError for one that cannot be used."""
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


def split_names(text: str, *, option: str) -> list[str]:
    """Names between commas, each once. Raises ValueError for an empty entry."""
    names = [part.strip() for part in text.split(",")]
    if "" in names:
        raise ValueError(f"{option} {text!r} has an empty entry: write names between commas")
    return list(dict.fromkeys(names))


def print_top(explained: Explained, names: Sequence[str] | None) -> None:
    """The five most probable classes."""
    for index, probability in explained.top(5):
        typer.echo(f"  {probability:.3f}  {index:4d}  {class_title(index, names)}")


def check_class_names(names: Sequence[str] | None, count: int) -> None:
    """Raise ValueError unless there are as many class names as classes, or none."""
    if names is not None and len(names) != count:
        raise ValueError(
            f"there are {len(names)} class names, but the model has {count} classes: name a file that fits "
            "with --class-names FILE"
        )


class Step:
    """Shows which method is at work, one step on at each call."""

    def __init__(self, progress: Progress, title: str, *, total: int | None) -> None:
        self._progress, self._title = progress, title
        self._task = progress.add_task(escape(title), total=total)
        self._calls = 0

    def __call__(self, method: str) -> None:
        """The next method begins."""
        description = escape(f"{self._title}: {method}")
        # At once: what works now may keep the thread that draws the bar from its turn for long.
        self._progress.update(self._task, description=description, completed=self._calls, refresh=True)
        self._calls += 1


@contextmanager
def show_steps(title: str, *, total: int | None) -> Iterator[Step]:
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
        yield Step(progress, title, total=total)


def complain(message: str) -> None:
    """One line on the error stream."""
    typer.echo("fastcam: " + " ".join(message.split()), err=True)


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turn what the user can set right into one line on the error stream."""
    try:
        yield
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        complain(_PICK_THE_LOGITS.sub("have the function of --model return such a classifier", str(error)))
        raise typer.Exit(WRONG_USE) from error
