"""The file of a GPU run: nothing in it is lost, and every row says what measured it."""

import json
from pathlib import Path

import pytest

from bench.gpu_results import Results, digest

MACHINE = {"gpu": "a device", "torch": "2.11"}


def begun(path: Path, code: str = "1", **run: object) -> Results:
    results = Results(path)
    results.begin(MACHINE, {"code": code, "driver": "580.1", "time": "now", **run})
    return results


def test_rows_are_kept_and_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    results = begun(path)
    for name in ("a", "b", "c"):
        results.keep("memory", {"name": name, "us": 1})
    begun(path, "2").keep("memory", {"name": "b", "us": 2})
    assert Results(path).content["memory"]["rows"] == [
        {"name": "a", "us": 1, "run": 0},
        {"name": "b", "us": 2, "run": 1},
        {"name": "c", "us": 1, "run": 0},
    ]


def test_states_follow_the_sources(tmp_path: Path) -> None:
    results = begun(tmp_path / "gpu.json")
    results.keep("memory", {"name": "a"})
    results.fail("memory", "b", "wrong")
    assert [results.state("memory", name) for name in "abc"] == ["measured", "failed", "missing"]
    results = begun(tmp_path / "gpu.json", "2")
    assert [results.state("memory", name) for name in "abc"] == ["older", "missing", "missing"]
    results = begun(tmp_path / "gpu.json", "1")
    assert [results.state("memory", name) for name in "abc"] == ["measured", "failed", "missing"]


def test_what_failed_is_forgotten_when_it_is_measured_and_on_demand(tmp_path: Path) -> None:
    results = begun(tmp_path / "gpu.json")
    results.fail("memory", "a", "wrong")
    results.keep("memory", {"name": "a"})
    assert results.content["memory"]["failed"] == {}
    results.fail("memory", "a", "wrong")
    assert len(results.content["memory"]["rows"]) == 1  # measured before: it stays
    results.forget_failures(["memory", "methods"])
    assert results.state("memory", "a") == "measured"


def test_what_is_being_measured_is_noted(tmp_path: Path) -> None:
    results = begun(tmp_path / "gpu.json")
    for end in (lambda: results.keep("memory", {"name": "a"}), lambda: results.fail("memory", "a", "wrong")):
        results.start("memory", "a")
        assert Results(results.path).content["measuring"] == ["memory", "a"]
        end()
        assert "measuring" not in Results(results.path).content


def test_another_device_is_refused_and_another_driver_noted(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    begun(path)
    results = Results(path)
    with pytest.raises(ValueError, match=r"was begun with \{'gpu': 'a device'\}, here it is \{'gpu': 'another'\}"):
        results.begin({**MACHINE, "gpu": "another"}, {"code": "1"})
    assert len(Results(path).content["runs"]) == 1
    assert results.begin(MACHINE, {"code": "1", "driver": "580.2", "time": "later"}) == ["driver"]
    results.keep("memory", {"name": "a"})
    assert results.content["runs"][results.content["memory"]["rows"][0]["run"]]["driver"] == "580.2"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = begun(tmp_path / "gpu.json")
    before = results.path.read_text()

    def cut(self: Path, text: str, **_: object) -> None:
        with self.open("w") as file:
            file.write(text[:20])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="no space left"):
        results.keep("memory", {"name": "a"})
    assert results.path.read_text() == before
    json.loads(before)


def test_sources_have_a_number(tmp_path: Path) -> None:
    (tmp_path / "code" / "tables").mkdir(parents=True)
    source, table = tmp_path / "code" / "a.py", tmp_path / "code" / "tables" / "a.json"
    source.write_text("1")
    first = digest(["code"], tmp_path)
    (tmp_path / "code" / "notes.txt").write_text("no source")
    assert digest(["code"], tmp_path) == first
    table.write_text("{}")
    second = digest(["code"], tmp_path)
    source.write_text("2")
    assert len({first, second, digest(["code"], tmp_path)}) == 3


def test_a_row_of_which_a_variant_failed_is_measured_again_on_demand(tmp_path: Path) -> None:
    results = begun(tmp_path / "gpu.json")
    results.keep("memory", {"name": "a", "failed": {"compiled": "no compiler"}})
    results.keep("memory", {"name": "b", "failed": {}})
    assert [results.state("memory", name) for name in "ab"] == ["measured", "measured"]
    results.forget_failures(["memory"])
    assert [results.state("memory", name) for name in "ab"] == ["missing", "measured"]
    assert len(results.content["memory"]["rows"]) == 2
    results.keep("memory", {"name": "a", "failed": {}})
    assert results.state("memory", "a") == "measured"
