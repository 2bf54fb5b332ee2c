"""The figures of a GPU run that are computed, and the pictures made from them."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bench import gpu_relevance, plots
from fastcam.network.units import Geometry
from fastcam.propagation import tuning
from fastcam.propagation.convolutions import Convolution

DENSE = Convolution(64, 128, (14, 14), (3, 3), Geometry((1, 1), (1, 1), (1, 1), 1), "relu", signed=False)
NARROW = Convolution(256, 64, (56, 56), (1, 1), Geometry((1, 1), (0, 0), (1, 1), 1), "relu", signed=False)


def row(conv: Convolution, batch: int, count: int, times: dict[str, float]) -> dict:
    us = {name: {"p20": value, "p50": value, "p80": value} for name, value in times.items()}
    least = gpu_relevance.roofline_us(conv, batch, 4e12, 8e14)
    return {
        "network": "resnet50",
        "batch": batch,
        "count": count,
        "layer": asdict(conv),
        "dtype": "torch.bfloat16",
        "roofline_us": {"forward": least[0], "backward": least[1]},
        "share_of_roofline": 0.25,
        "us": {"forward": us, "backward": us},
    }


def test_a_roofline_is_the_slower_of_bytes_and_operations() -> None:
    forward, backward = gpu_relevance.roofline_us(NARROW, 32, 4e12, 8e14)
    assert forward == pytest.approx(NARROW.forward_bytes(32, 2) / 4e6)
    assert backward == pytest.approx(NARROW.backward_bytes(32, 2) / 4e6)
    forward, backward = gpu_relevance.roofline_us(DENSE, 32, 4e15, 8e14)
    assert forward == pytest.approx(2 * 2 * DENSE.products(32) / 8e8)
    assert backward == pytest.approx(2 * DENSE.products(32) / 8e8)


def test_the_layers_sampled_take_the_most_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_relevance, "MOST", 1)
    assert gpu_relevance.sampled(Counter({DENSE: 1, NARROW: 5}), lambda conv: 1.0) == [NARROW]
    assert gpu_relevance.sampled(Counter({DENSE: 6, NARROW: 5}), lambda conv: 1.0) == [DENSE]


def test_totals_weigh_layers_by_their_counts() -> None:
    rows = [
        row(DENSE, 32, 3, {"triton": 2.0, "composition": 4.0}),
        row(NARROW, 32, 1, {"triton": 10.0, "composition": 5.0}),
    ]
    other = row(DENSE, 1, 1, {"triton": 1.0})
    found, small = gpu_relevance.totals([*rows, other])
    assert (found["network"], found["batch"], found["share_of_roofline"]) == ("resnet50", 32, 0.5)
    assert found["total"]["triton"]["us"] == 2 * (3 * 2 + 10)
    assert found["total"]["composition"]["us"] == 2 * (3 * 4 + 5)
    assert found["total"]["triton"]["times_composition"] == {"least": 0.5, "median": 2.0, "most": 2.0}
    assert small["total"] == {"triton": {"us": 2.0}}  # where the composition is missing nothing is compared


def test_a_variant_missing_from_a_layer_has_no_total() -> None:
    rows = [row(DENSE, 32, 1, {"triton": 2.0, "composition": 4.0}), row(NARROW, 32, 1, {"composition": 5.0})]
    (found,) = gpu_relevance.totals(rows)
    assert list(found["total"]) == ["composition"]


def test_the_largest_batch_comes_first_and_names_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_relevance, "NETWORKS", {"resnet18": "layer1", "squeezenet1_1": None})
    jobs = list(gpu_relevance.jobs(4e12, 8e14))
    batches = [int(job.name.split()[1]) for job in jobs]
    assert batches == sorted(batches, reverse=True)
    assert len({job.name for job in jobs}) == len(jobs)


def test_a_wrong_variant_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: dict[str, list[str]] = {}

    def measure(calls: dict, copies: int, *, rounds: int) -> dict:
        timed["backward" if timed else "forward"] = list(calls)
        return {name: {"p50": 1.0} for name in calls}

    def variants(conv: Convolution, inputs: list) -> tuple:
        def broken(i: int) -> object:
            raise RuntimeError("out of resources")

        y, q = tuning.reference_forward(conv, inputs[0])
        g = tuning.reference_backward(conv, inputs[0])
        ahead = {"triton": lambda i: (y, q * 1.4), "composition": lambda i: (y, q), "torch": broken}
        return ahead, {"triton": lambda i: g, "composition": lambda i: g * torch.nan}

    monkeypatch.setattr(gpu_relevance, "measure", measure)
    monkeypatch.setattr(gpu_relevance, "variants", variants)
    monkeypatch.setattr(gpu_relevance, "l2_bytes", lambda: 1)
    monkeypatch.setattr(
        gpu_relevance, "make_problem", lambda conv, batch, dtype, _: tuning.make_problem(conv, batch, dtype, "cpu")
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = gpu_relevance._row(DENSE, 2, {})
    assert timed == {"forward": ["composition"], "backward": ["triton"]}
    assert found["failed"] == {
        "forward, torch": "RuntimeError: out of resources",
        "forward, triton": "not what the reference gives",
        "backward, composition": "not what the reference gives",
    }


def test_operations_and_bytes_of_a_row_survive_json() -> None:
    assert gpu_relevance.work(row(NARROW, 32, 1, {}), "forward") == (
        4.0 * NARROW.products(32),
        NARROW.forward_bytes(32, 2),
    )


def test_pictures(tmp_path: Path) -> None:
    import json

    us = {"kernel": {"p50": 10.0}, "eager": {"p50": 45.0}, "compiled": {"p50": 15.0}}
    results = {
        "machine": {"gpu": "a device"},
        "ceilings": {"copy_bytes_per_s": 4e12, "bf16_flop_per_s": 8e14},
        "relevance": {
            "rows": [
                row(DENSE, 256, 3, {"triton": 30.0, "composition": 25.0}),
                row(NARROW, 256, 1, {"triton": 60.0, "composition": 110.0}),
            ]
        },
        "memory": {
            "rows": [
                {"operator": "cam_map", "layer": "resnet50 layer4", "dtype": "torch.float32", "batch": 256, "us": us},
                {"operator": "fold_patches", "dtype": "torch.float32", "batch": 256, "us": us},
                {"operator": "fold_patches", "dtype": "torch.float32", "batch": 1, "us": us},
            ]
        },
    }
    path = tmp_path / "gpu-some.json"
    path.write_text(json.dumps(results))
    plots.main(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "gpu-some-roofline.png",
        "gpu-some-speedups.png",
        "gpu-some.json",
    ]
    axes = plots.speedups(results).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [4.5, 4.5, 1.5, 1.5]
