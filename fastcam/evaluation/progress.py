"""How far a run is, on a terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Images per second, of those worked on since the bar began."""

    def render(self, task: Task) -> Text:
        worked = task.completed - task.fields.get("before", 0)
        elapsed = task.elapsed or 0
        return Text(f"{worked / elapsed:.3g} images/s" if worked and elapsed else "")


@dataclass
class Bar:
    """One stage's bar: `tick` for each batch, `skip` for what was finished before."""

    progress: Progress
    stage: str
    images: int
    _before: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._task = self.progress.add_task(escape(self.stage), total=self.images, before=0)

    def tick(self, images: int) -> None:
        """So many images more are done."""
        self.progress.advance(self._task, images)

    def skip(self, images: int) -> None:
        """So many were done in an earlier launch."""
        self._before += images
        self.progress.update(self._task, advance=images, before=self._before)

    def end(self) -> None:
        """The stage is over."""
        self.progress.remove_task(self._task)


@contextmanager
def bars(*, shown: bool) -> Iterator[Progress]:
    """Bars on the error stream, gone at the end; none where it is no terminal or they are not wanted."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(compact=True)
    )  # fmt: skip
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
        redirect_stdout=False,
        redirect_stderr=False,
        get_time=time.monotonic,
    ) as progress:
        yield progress
