"""The figures of a GPU run that are computed, and the pictures made from them."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import gpu_relevance, plots
from fastcam.network.units import Geometry
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
    found = gpu_relevance.totals(rows)
    assert found["triton"]["us"] == 2 * (3 * 2 + 10)
    assert found["composition"]["us"] == 2 * (3 * 4 + 5)
    assert found["triton"]["times_composition"] == {"least": 0.5, "median": 2.0, "most": 2.0}


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
                {"network": "resnet50", "batch": 256, "total": {}},
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
