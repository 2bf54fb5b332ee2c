"""What is measured on a GPU: every method or one that tells of it, and each of them runs."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastcam
from bench import gpu_measure, gpu_methods
from bench.gpu_methods import FAMILIES, SETTINGS, TOLD_BY, jobs, variants
from bench.gpu_results import Results
from tests.attribution.test_matrix import classifier

IN_PRECISION = gpu_methods._in_precision
MEASURED = {method for _, method, _, _ in SETTINGS + FAMILIES}


def test_every_method_is_measured_or_another_tells_of_it() -> None:
    assert MEASURED.isdisjoint(TOLD_BY)
    assert MEASURED | set(TOLD_BY) == {"ucag"} | {method.name for method in fastcam.methods()}
    assert set(TOLD_BY.values()) <= MEASURED
    assert len(set(SETTINGS + FAMILIES)) == len(SETTINGS + FAMILIES)


@pytest.mark.parametrize(("name", "method", "layer"), sorted({s[:3] for s in SETTINGS + FAMILIES}, key=str))
def test_every_setting_runs(name: str, method: str, layer: str | None) -> None:
    # On a CPU, by the references, on models with an eighth of their channels and one image of 64 pixels.
    model, side = classifier(name)
    found = variants(model, method, layer, torch.rand(1, 3, side, side))
    assert {f"fastcam, {precision}" for precision in ("float32", "tf32", "bfloat16", "float16")} < set(found)
    maps = found["fastcam, bfloat16, references"]()
    assert maps.shape == (1, side, side)
    assert maps.isfinite().all()


def test_the_largest_batches_come_first_and_names_differ() -> None:
    for settings in (SETTINGS, FAMILIES):
        names = [job.name for job in jobs(settings)]
        batches = [int(name.split()[-1]) for name in names]
        assert batches == sorted(batches, reverse=True)
        assert len(set(names)) == len(settings)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_peers_multiply_as_their_label_says(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def peer(*_: object) -> dict:
        return {"a peer": lambda: seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))}

    monkeypatch.setattr(gpu_methods, "peers", peer)
    model, side = classifier("resnet50")
    # Only on CUDA there is TF32: its label is the device's.
    monkeypatch.setattr(gpu_methods, "_in_precision", partial(in_precision, device=torch.device("cuda")))
    found = variants(model, "grad_cam", "layer4", torch.rand(1, 3, side, side))
    assert "a peer" not in found
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    found[f"a peer, {precision}"]()
    assert seen == [(precision == "tf32",) * 2]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def in_precision(run: Callable[[], Any], precision: str, _: torch.device, *, device: torch.device) -> Callable[[], Any]:
    return IN_PRECISION(run, precision, device)


def test_a_model_that_cannot_be_built_and_a_variant_that_fails_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build(name: str) -> nn.Module:
        if name == "efficientnet_lite0":
            raise ModuleNotFoundError("its weights are not installed")
        return classifier(name)[0]

    def fails() -> None:
        raise AttributeError("a peer's")

    monkeypatch.setattr(gpu_methods, "build", build)
    monkeypatch.setattr(gpu_methods, "variants", lambda *_: {"good": lambda: None, "bad": fails})
    for name in ("WARM_UP_SECONDS", "WINDOW_SECONDS", "ENERGY_SECONDS"):
        monkeypatch.setattr(gpu_methods, name, 0.0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu_methods, "draw_images", lambda batch: torch.zeros(batch, 3, 8, 8))
    settings = [("efficientnet_lite0", "grad_cam", None, 1), ("resnet50", "grad_cam", "layer4", 1)]
    monkeypatch.setitem(gpu_measure.MEASUREMENTS, "methods", lambda _: jobs(settings))
    results = Results(tmp_path / "gpu.json")
    results.begin({}, {"code": "1"})
    results.content["ceilings"] = {}
    gpu_measure.measure(results, ["methods"], time.monotonic() + 60)
    content = Results(results.path).content["methods"]
    (row,) = content["rows"]
    assert list(row["seconds"]) == ["good"]
    assert row["failed"] == {"bad": "AttributeError: a peer's"}
    assert [entry["error"] for entry in content["failed"].values()] == [
        "ModuleNotFoundError: its weights are not installed"
    ]
