"""`fastcam report` on a finished run."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastcam.cli import app
from fastcam.evaluation.store import Run


@pytest.fixture(scope="module")
def written(reference: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    page = tmp_path_factory.mktemp("report") / "report.html"
    result = CliRunner().invoke(
        app, ["report", str(reference.path), "-o", str(page), "--gallery", "3", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    return page, result


def test_the_page_needs_nothing_else(written: tuple[Path, Any]) -> None:
    html = written[0].read_text(encoding="utf-8")
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", html)
    assert loaded
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert "@import" not in html
    assert not re.search(r"url\(\s*[\"']?https?:", html)


def test_the_page_names_what_was_compared(written: tuple[Path, Any], reference: Run) -> None:
    html = written[0].read_text(encoding="utf-8")
    for method in reference.study.methods:
        assert method.label in html
    assert "data:image/jpeg;base64," in html


def test_tables_hold_the_means_of_the_rows(written: tuple[Path, Any], reference: Run) -> None:
    page, result = written
    (table,) = [path for path in page.parent.iterdir() if path.suffix == ".csv"]
    assert str(table) in result.output
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    frame = reference.rows.to_pylist()
    places = {(r["method"], r["layer"]) for r in frame}
    assert {(row["method"], row["layer"], row["column"]) for row in rows} == {
        (*place, column) for place in places for column in ("drop", "insertion")
    }
    for row in rows:
        values = [r[row["column"]] for r in frame if (r["method"], r["layer"]) == (row["method"], row["layer"])]
        assert float(row["value"]) == pytest.approx(sum(values) / len(values), rel=1e-6)
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert int(row["count"]) == len(values)


def test_a_folder_without_a_run_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(page)])
    assert result.exit_code == 2
    assert "run.json" in result.output
    assert not page.exists()
