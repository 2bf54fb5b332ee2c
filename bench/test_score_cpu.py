"""CPU benchmarks of Score-CAM on efficientnet_lite0 against grad-cam and torchcam, and what it holds in memory.

    make bench        # pytest bench/test_score_cpu.py --benchmark-only, writes bench/results/score.json

In a process of its own: what other comparisons leave in the heap changes how often a large batch's memory comes from
the system, and with it the peers' times (`bench/test_memory_cpu.py`). Variants run turn by turn; medians count. Peers
run at their best settings: no_grad, the fastest of four batch sizes, both memory layouts.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from pytorch_grad_cam import ScoreCAM as PeerScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import ScoreCAM as TorchcamScoreCAM

import fastcam
from bench.compare import compare, fastest_batch
from fastcam.models.loading import load_model
from fastcam.photos import read_photo

LAYER, TARGET = "head.activation", 282

# The least correlation with float32's maps that is aimed at, by method and precision.
AIMS = {
    ("grad_cam", "float16"): 0.9999,
    ("grad_cam", "bfloat16"): 0.998,
    ("relevance_cam", "float16"): 0.9999,
    ("relevance_cam", "bfloat16"): 0.998,
    ("score_cam", "bfloat16"): 0.99,
}


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """The photo of a cat that scikit-image carries."""
    cat = read_photo(Path(skimage.__file__).parent / "data" / "chelsea.png")
    preprocessing = load_model("efficientnet_lite0").preprocessing
    return preprocessing.tensor(preprocessing.view(cat))


def score_cam(precision: str, photo: Tensor) -> Callable[[], Any]:
    model = fastcam.models.efficientnet_lite0(pretrained=True).eval()
    explainer = fastcam.Explainer(model, method="score_cam", layer=LAYER, precision=precision)
    return lambda: explainer(photo, TARGET)


def torchcam_score_cam(module: nn.Module, photo: Tensor, batch: int) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad(), TorchcamScoreCAM(module, LAYER, batch_size=batch) as extractor:
            return extractor(TARGET, module(photo))

    return run


def grad_cam_score_cam(module: nn.Module, photo: Tensor, batch: int) -> Callable[[], Any]:
    peer = PeerScoreCAM(model=module, target_layers=[module.get_submodule(LAYER)])
    peer.batch_size = batch

    def run() -> Any:
        with torch.no_grad():
            return peer(input_tensor=photo, targets=[ClassifierOutputTarget(TARGET)])

    return run


def test_score_cam_against_peers(benchmark: BenchmarkFixture, photo: Tensor) -> None:
    model = fastcam.models.efficientnet_lite0(pretrained=True).eval()
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    laid_out = photo.contiguous(memory_format=torch.channels_last)
    plain, last = fastest_batch(model, photo), fastest_batch(channels_last, laid_out)
    compare(
        benchmark,
        {
            "fastcam": score_cam("float32", photo),
            "fastcam, bfloat16": score_cam("bfloat16", photo),
            f"grad-cam, batches of {plain}": grad_cam_score_cam(copy.deepcopy(model), photo, plain),
            f"grad-cam, channels-last, batches of {last}": grad_cam_score_cam(
                copy.deepcopy(channels_last), laid_out, last
            ),
            f"torchcam, batches of {plain}": torchcam_score_cam(copy.deepcopy(model), photo, plain),
            f"torchcam, channels-last, batches of {last}": torchcam_score_cam(
                copy.deepcopy(channels_last), laid_out, last
            ),
        },
        yardstick="fastcam",
        rounds=3,
        warmups=0,
        model="efficientnet_lite0",
        layer=LAYER,
        batch=1,
        precision="float32 unless named",
    )


def test_score_cam_in_bfloat16_against_torchcam(benchmark: BenchmarkFixture, photo: Tensor) -> None:
    """Both in bfloat16; grad-cam turns activations into numpy arrays, which have no bfloat16."""
    model = fastcam.models.efficientnet_lite0(pretrained=True).eval().bfloat16()
    image = photo.bfloat16()
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    laid_out = image.contiguous(memory_format=torch.channels_last)
    plain, last = fastest_batch(model, image), fastest_batch(channels_last, laid_out)
    compare(
        benchmark,
        {
            "fastcam": score_cam("bfloat16", photo),
            f"torchcam, batches of {plain}": torchcam_score_cam(model, image, plain),
            f"torchcam, channels-last, batches of {last}": torchcam_score_cam(channels_last, laid_out, last),
        },
        yardstick="fastcam",
        rounds=3,
        warmups=0,
        model="efficientnet_lite0",
        layer=LAYER,
        batch=1,
        precision="bfloat16",
    )


def test_agreement_with_float32(benchmark: BenchmarkFixture) -> None:
    """Least correlation of maps with float32's over the four embedded photos, last layer."""
    embedded = load_model("efficientnet_lite0")
    folder = Path(skimage.__file__).parent / "data"
    names = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    views = [embedded.preprocessing.view(read_photo(folder / name)) for name in names]
    photos = torch.cat([embedded.preprocessing.tensor(view) for view in views])

    def least(method: str, precision: str) -> float:
        pair = [fastcam.explain(embedded.model, photos, method=method, precision=p) for p in (precision, None)]
        return min(torch.corrcoef(torch.stack(maps).flatten(1))[0, 1].item() for maps in zip(*pair, strict=True))

    found = benchmark.pedantic(lambda: {case: least(*case) for case in AIMS}, rounds=1)
    correlation = {f"{method}, {precision}": value for (method, precision), value in found.items()}
    benchmark.extra_info.update(model="efficientnet_lite0", layer=LAYER, correlation=correlation)
    assert [case for case, value in found.items() if not value >= AIMS[case]] == []


_PEAK = """
import json, pathlib, torch, fastcam

def memory(what):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))

torch.set_num_threads(2)
model = fastcam.models.efficientnet_lite0(pretrained=True).eval()
image = torch.randn(1, 3, 224, 224)
with torch.inference_mode():
    model(image)
before = memory("VmRSS")
fastcam.score_cam(model, image, layer="head.activation")
print(json.dumps({"before": before, "after": memory("VmHWM")}))
"""


def test_score_cam_memory(benchmark: BenchmarkFixture) -> None:
    """Peak memory over what the process holds after a plain forward pass, in a process of its own (Linux)."""

    def measure() -> dict[str, int]:
        output = subprocess.run([sys.executable, "-c", _PEAK], check=True, capture_output=True, text=True).stdout
        return json.loads(output.splitlines()[-1])

    peak = benchmark.pedantic(measure, rounds=1)
    extra = (peak["after"] - peak["before"]) / 1024
    benchmark.extra_info.update(model="efficientnet_lite0", layer=LAYER, batch=1, peak_over_model_mib=extra)
    assert extra < 1024
