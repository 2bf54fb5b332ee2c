"""What is measured on a GPU: every method or one that tells of it, and each of them runs."""

import pytest
import torch

import fastcam
from bench.gpu_methods import FAMILIES, SETTINGS, TOLD_BY, variants
from tests.attribution.test_matrix import classifier

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
