"""CPU benchmarks of every method that a peer has, against every peer that has it.

    make bench-methods     # writes bench/results/methods.json

resnet18 and efficientnet_lite0, the last layer, batch 8 (1 for the score family), float32, random images. A method and
its peers take turns in one process; each peer runs on the default and on the channels-last layout, under no_grad where
it takes no gradients, the score family at the fastest of four batch sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import captum.attr
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
import zennit.attribution
import zennit.canonizers
import zennit.composites
import zennit.torchvision
from pytest_benchmark.fixture import BenchmarkFixture
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import resnet18

import fastcam
from bench.compare import Variants, compare, fastest_batch

# (model, layer, images, targets, batch of masked images) -> a call to time
Make = Callable[[nn.Module, str, Tensor, list[int], int], Callable[[], Any]]


def grad_cam(name: str, *, gradients: bool = True) -> Make:
    """pytorch-grad-cam: `Method(model, target_layers)(input_tensor, targets)`."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        peer = getattr(pytorch_grad_cam, name)(model=model, target_layers=[model.get_submodule(layer)])
        peer.batch_size = batch
        chosen = [ClassifierOutputTarget(target) for target in targets]

        def run() -> Any:
            with torch.set_grad_enabled(gradients):
                return peer(input_tensor=x, targets=chosen)

        return run

    return make


def extractor(name: str, *, gradients: bool = True, **options: Any) -> Make:
    """torchcam: a context manager around the model's own forward pass."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        own = {} if gradients or name == "CAM" else {"batch_size": batch}

        def run() -> Any:
            with (
                torch.set_grad_enabled(gradients),
                getattr(torchcam.methods, name)(model, layer, **own, **options) as ex,
            ):
                return ex(targets, model(x))

        return run

    return make


def attribution(name: str) -> Make:
    """captum: `Method(model).attribute(images, target)`."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        peer, chosen = getattr(captum.attr, name)(model), torch.tensor(targets)
        return lambda: peer.attribute(x.clone().requires_grad_(), target=chosen)

    return make


def layer_grad_cam(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
    """captum's Grad-CAM, with its ReLU."""
    peer, chosen = captum.attr.LayerGradCam(model, model.get_submodule(layer)), torch.tensor(targets)
    return lambda: peer.attribute(x, target=chosen, relu_attributions=True)


def composite(name: str, **options: Any) -> Make:
    """zennit: gradient of a model whose modules carry rules."""

    def make(model: nn.Module, layer: str, x: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
        resnet = isinstance(model, type(resnet18()))
        kinds = zennit.canonizers
        chosen = kinds.SequentialMergeBatchNorm() if not resnet else zennit.torchvision.ResNetCanonizer()
        seed = torch.eye(1000)[targets]

        def run() -> Any:
            rules = getattr(zennit.composites, name)(canonizers=[chosen], **options)
            with zennit.attribution.Gradient(model, rules) as peer:
                return peer(x.clone().requires_grad_(), seed)

        return run

    return make


@dataclass(frozen=True)
class Comparison:
    """A method's options here, and the peers that have it."""

    peers: dict[str, Make]
    options: dict[str, Any] = field(default_factory=dict)


RANGE = {"low": torch.full((1, 3, 224, 224), -3.0), "high": torch.full((1, 3, 224, 224), 3.0)}
BATCHED: dict[str, Comparison] = {
    "cam": Comparison({"torchcam": extractor("CAM", gradients=False)}),
    "grad_cam": Comparison(
        {"grad-cam": grad_cam("GradCAM"), "torchcam": extractor("GradCAM"), "captum": layer_grad_cam}
    ),
    "grad_cam_pp": Comparison({"grad-cam": grad_cam("GradCAMPlusPlus"), "torchcam": extractor("GradCAMpp")}),
    "smooth_grad_cam_pp": Comparison({"torchcam": extractor("SmoothGradCAMpp", num_samples=4)}, {"samples": 4}),
    "xgrad_cam": Comparison({"grad-cam": grad_cam("XGradCAM"), "torchcam": extractor("XGradCAM")}),
    "layer_cam": Comparison({"grad-cam": grad_cam("LayerCAM"), "torchcam": extractor("LayerCAM")}),
    "hires_cam": Comparison({"grad-cam": grad_cam("HiResCAM")}),
    "full_grad": Comparison({"grad-cam": grad_cam("FullGrad")}),
    "eigen_cam": Comparison({"grad-cam": grad_cam("EigenCAM", gradients=False)}),
    "random_cam": Comparison({"grad-cam": grad_cam("RandomCAM")}),
    "gradient": Comparison({"captum": attribution("Saliency")}),
    "guided_backprop": Comparison({"captum": attribution("GuidedBackprop")}),
    "deconvnet": Comparison({"captum": attribution("Deconvolution")}),
    "lrp, epsilon_plus": Comparison({"zennit": composite("EpsilonPlus")}, {"rule": "epsilon_plus", "first": "z+"}),
    "lrp, epsilon_plus_flat": Comparison({"zennit": composite("EpsilonPlusFlat")}, {"rule": "epsilon_plus_flat"}),
    "lrp, epsilon_gamma_box": Comparison(
        {"zennit": composite("EpsilonGammaBox", **RANGE)},
        {"rule": "epsilon_gamma_box", "pixel_range": (-3.0, 3.0)},
    ),
    # zennit's excitation backprop goes on to the images; so does this one, in place of stopping at a layer.
    "lrp, excitation_backprop": Comparison(
        {"zennit": composite("ExcitationBackprop")}, {"rule": "z+", "first": "z+", "seed": "probability"}
    ),
}
# One image, one round: hundreds to thousands of forward passes each.
SCORED: dict[str, Comparison] = {
    "score_cam": Comparison(
        {"grad-cam": grad_cam("ScoreCAM", gradients=False), "torchcam": extractor("ScoreCAM", gradients=False)}
    ),
    "ss_cam": Comparison({"torchcam": extractor("SSCAM", gradients=False, num_samples=2)}, {"samples": 2}),
    "is_cam": Comparison({"torchcam": extractor("ISCAM", gradients=False, num_samples=2)}, {"samples": 2}),
    "ablation_cam": Comparison({"grad-cam": grad_cam("AblationCAM", gradients=False)}),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (lambda: resnet18(weights=None), "layer4"),
    "efficientnet_lite0": (lambda: fastcam.models.efficientnet_lite0(pretrained=True), "head.activation"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module, str]:
    build, layer = NETWORKS[request.param]
    torch.manual_seed(0)
    return request.param, build().eval(), layer


def measure(
    benchmark: BenchmarkFixture,
    network: tuple[str, nn.Module, str],
    case: str,
    comparison: Comparison,
    *,
    images: int,
    rounds: int,
    warmups: int,
) -> None:
    name, model, layer = network
    method = case.partition(",")[0]
    x = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    targets = [int(t) for t in model(x).argmax(dim=1)]
    info = fastcam.attribution.METHODS[method]
    at = {"layer": layer} if info.layer == "last" else {}
    # The method's own resolution, which is what torchcam, captum and zennit give; grad-cam resizes to the images.
    explainer = fastcam.Explainer(model, method=method, **at, **comparison.options)
    variants: Variants = {"fastcam": lambda: explainer(x, targets)}
    for layout, form in (("", torch.contiguous_format), (", channels-last", torch.channels_last)):
        laid_out = x.contiguous(memory_format=form)
        batch = fastest_batch(model.to(memory_format=form), laid_out[:1], rounds=2) if images == 1 else 32
        model.to(memory_format=torch.contiguous_format)
        for peer, make in comparison.peers.items():
            # Some peers write to the model; each has its own.
            own = copy.deepcopy(model).to(memory_format=form)
            variants[peer + layout] = make(own, layer, laid_out, targets, batch)
    compare(
        benchmark,
        variants,
        yardstick="fastcam",
        rounds=rounds,
        warmups=warmups,
        model=name,
        method=case,
        layer=layer if info.layer == "last" else "input",
        batch=images,
        precision="float32",
    )


@pytest.mark.parametrize("case", BATCHED)
def test_method_against_peers(benchmark: BenchmarkFixture, network: tuple[str, nn.Module, str], case: str) -> None:
    # grad-cam's full_grad takes a minute a call.
    rounds = 1 if case == "full_grad" else 5
    measure(benchmark, network, case, BATCHED[case], images=8, rounds=rounds, warmups=1 if rounds > 1 else 0)


@pytest.mark.parametrize("case", SCORED)
def test_score_method_against_peers(
    benchmark: BenchmarkFixture, network: tuple[str, nn.Module, str], case: str
) -> None:
    measure(benchmark, network, case, SCORED[case], images=1, rounds=1, warmups=0)
