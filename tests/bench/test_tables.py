"""The README's figures are those of the file that it names."""

import json

import pytest

from bench.interleave import interleave, summary
from bench.tables import RESULTS, ROOT, methods_table, with_tables


def test_the_readme_shows_what_the_results_hold() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_tables(readme) == readme


def test_every_variant_runs_once_a_round_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("bench.interleave.time.perf_counter", lambda: float(next(clock)))
    calls: list[str] = []
    variants = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    found = interleave(variants, yardstick="a", rounds=3, warmups=1)
    assert calls == ["a", "b"] * 4
    assert found["a"] == {"median": 1.0, "p20": 1.0, "p80": 1.0, "min": 1.0, "times_yardstick": 1.0, "rounds": 3}


def test_the_ratio_is_that_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three rounds on a machine that slows down: a takes 1, 10, 3 seconds, b twice, three times, twice as long.
    times = [seconds for a, b in ((1, 2), (10, 30), (3, 6)) for seconds in (0, a, 0, b)]
    monkeypatch.setattr("bench.interleave.time.perf_counter", lambda: float(times.pop(0)))
    found = interleave({"a": lambda: None, "b": lambda: None}, yardstick="a", rounds=3, warmups=0)
    assert found["b"]["times_yardstick"] == 2.0
    assert found["b"]["median"] == 6.0


def test_a_comparison_on_a_model_of_its_own_has_a_table_of_its_own() -> None:
    results = json.loads((RESULTS / "methods.json").read_text(encoding="utf-8"))
    without = methods_table(results)
    seconds = {name: summary([value], [2.0]) for name, value in {"fastcam": 2.0, "captum": 3.0}.items()}
    common = {"alone": True, "method": "lrp, epsilon", "yardstick": "fastcam", "seconds": seconds}
    row = {**common, "model": "vgg11", "layer": "input", "batch": 8, "precision": "float32", "threads": 2}
    results["benchmarks"].insert(0, row)
    drawn = methods_table(results)
    assert drawn.startswith(without)
    assert "**lrp, epsilon: vgg11, input, batch 8, float32, 2 threads**" in drawn
    assert "| captum | 3.000 | 3.000-3.000 | 1.50 | 1 |" in drawn
