import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastcam.datasets.sample import DataSet
from fastcam.evaluation import progress
from fastcam.evaluation.progress import Bar, bars
from tests.evaluation.conftest import STUDY, run


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    """What the error stream shows, a terminal or none."""
    shown = io.StringIO()

    def console(**_: Any) -> Console:
        return Console(file=shown, force_terminal=terminal, width=120)

    monkeypatch.setattr(progress, "Console", console)
    return shown


@pytest.mark.parametrize("quiet", [False, True], ids=["", "quiet"])
@pytest.mark.parametrize("terminal", [False, True], ids=["no terminal", "terminal"])
def test_a_run_shows_how_far_it_is(
    terminal: bool, quiet: bool, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = screen(monkeypatch, terminal=terminal)
    study = replace(STUDY, methods=STUDY.methods[:1], metrics=("drop",), options={}, subset=8)
    run(study, dataset, tmp_path / "run", quiet=quiet)
    if terminal and not quiet:
        assert "tests.evaluation.nets:tiny: evaluating" in shown.getvalue()
        assert "/8" in shown.getvalue()
    else:
        assert shown.getvalue() == ""


def test_the_rate_is_of_this_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    screen(monkeypatch, terminal=True)
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with bars(shown=True) as shown:
        bar = Bar(shown, "a stage", 100)
        bar.skip(60)
        bar.tick(10)
        now = 105.0
        bar.tick(10)
        (task,) = shown.tasks
        assert (task.completed, task.total) == (80, 100)
        assert str(progress._Rate().render(task)) == "4 images/s"
        bar.end()
        assert not shown.tasks
