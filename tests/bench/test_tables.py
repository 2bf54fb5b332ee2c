"""The README's figures are those of the file that it names."""

import pytest

from bench.interleave import interleave
from bench.tables import ROOT, with_tables


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
