"""CPU benchmarks on ResNet-50 against the stock model, grad-cam and torchcam.

    make bench        # pytest bench/test_cpu.py --benchmark-only, writes bench/results/cpu.json

Each test is one comparison: its variants run turn by turn in one process; medians count. Peers run at their best
settings: no_grad or inference_mode where they allow it, both memory layouts.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchcamGradCAM
from torchvision.models import resnet50

import fastcam
from bench.compare import compare
from fastcam.network.cache import network_for

STAGES = ["layer1", "layer2", "layer3", "layer4"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet50(weights=None).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_relevance_cam_against_forward(
    benchmark: BenchmarkFixture, model: nn.Module, images: Tensor, precision: str
) -> None:
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    network = network_for(model, images, precision=precision)

    def stock(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode():
                return module(x)

        return run

    def relevance(layer: str | list[str]) -> Callable[[], Any]:
        explainer = fastcam.Explainer(model, method="relevance_cam", layer=layer, precision=precision)
        return lambda: explainer(images)

    compare(
        benchmark,
        {
            "stock forward, float32": stock(model, images),
            "stock forward, float32, channels-last": stock(channels_last, laid_out),
            "own forward": lambda: network.forward(images),
            "relevance_cam layer4": relevance("layer4"),
            "relevance_cam layer2": relevance("layer2"),
            "relevance_cam layer1-4, one pass": relevance(STAGES),
        },
        yardstick="own forward",
        rounds=21,
        model="resnet50",
        batch=8,
        precision=precision,
    )


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_grad_cam_against_peers(benchmark: BenchmarkFixture, model: nn.Module, images: Tensor, layer: str) -> None:
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    laid_out = images.contiguous(memory_format=torch.channels_last)
    targets = [int(t) for t in model(images).argmax(dim=1)]
    explainer = fastcam.Explainer(model, method="grad_cam", layer=layer)

    def grad_cam(module: nn.Module, x: Tensor) -> Callable[[], Any]:
        peer = PeerGradCAM(model=module, target_layers=[module.get_submodule(layer)])
        chosen = [ClassifierOutputTarget(t) for t in targets]
        return lambda: peer(input_tensor=x, targets=chosen)

    def torchcam(module: nn.Module, x: Tensor) -> Callable[[], Any]:
        def run() -> Any:
            with TorchcamGradCAM(module, layer) as extractor:
                return extractor(targets, module(x))

        return run

    compare(
        benchmark,
        {
            "fastcam": lambda: explainer(images, targets),
            "grad-cam": grad_cam(copy.deepcopy(model), images),
            "grad-cam, channels-last": grad_cam(copy.deepcopy(channels_last), laid_out),
            "torchcam": torchcam(copy.deepcopy(model), images),
            "torchcam, channels-last": torchcam(copy.deepcopy(channels_last), laid_out),
        },
        yardstick="fastcam",
        rounds=9,
        model="resnet50",
        layer=layer,
        batch=8,
        precision="float32",
    )
