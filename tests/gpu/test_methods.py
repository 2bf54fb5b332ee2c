"""Whole explanations on the device, against the references on the CPU."""

from pathlib import Path

import pytest
import skimage
import torch
from torch import Tensor, nn
from torchvision.models import get_model

import fastcam
from fastcam.models.loading import LoadedModel, load_model
from fastcam.ops.backend import use_backend
from fastcam.photos import read_photo

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
LAST = "head.activation"
METHODS = ["cam", "grad_cam", "relevance_cam", "score_cam"]


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model("efficientnet_lite0")


@pytest.fixture(scope="module")
def photos(embedded: LoadedModel) -> Tensor:
    folder = Path(skimage.__file__).parent / "data"
    views = [embedded.preprocessing.view(read_photo(folder / name)) for name in PHOTOS]
    return torch.cat([embedded.preprocessing.tensor(view) for view in views])


@pytest.fixture(scope="module")
def on_device(embedded: LoadedModel) -> nn.Module:
    model = load_model("efficientnet_lite0").model.cuda()
    model.load_state_dict(embedded.model.state_dict())
    return model.eval()


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, the least over the maps."""
    pairs = zip(a.double().cpu().flatten(1), b.double().cpu().flatten(1), strict=True)
    return min(torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs)


@pytest.mark.parametrize(
    ("method", "precision", "least"),
    [
        ("grad_cam", "float16", 0.9999),
        ("grad_cam", "bfloat16", 0.998),
        ("relevance_cam", "float16", 0.9999),
        ("relevance_cam", "bfloat16", 0.998),
        ("score_cam", "bfloat16", 0.99),
    ],
)
def test_reduced_precision_on_real_weights(
    method: str, precision: str, least: float, embedded: LoadedModel, on_device: nn.Module, photos: Tensor
) -> None:
    chosen = photos[:1] if method == "score_cam" else photos
    found = fastcam.explain(on_device, chosen.cuda(), method=method, layer=LAST, precision=precision)
    expected = fastcam.explain(embedded.model, chosen, method=method, layer=LAST)
    assert correlation(found, expected) >= least


@pytest.mark.parametrize("method", METHODS)
def test_float32_on_real_weights(method: str, embedded: LoadedModel, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:1] if method == "score_cam" else photos
    found = fastcam.explain(on_device, chosen.cuda(), method=method, layer=LAST)
    expected = fastcam.explain(embedded.model, chosen, method=method, layer=LAST)
    assert found.device.type == "cuda"
    assert (found.cpu() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer4"])
@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
def test_float32_on_resnet50(method: str, layer: str) -> None:
    torch.manual_seed(0)
    model, images = get_model("resnet50", weights=None).eval(), torch.randn(3, 3, 224, 224)
    expected = fastcam.explain(model, images, [1, 2, 3], method=method, layer=layer)
    found = fastcam.explain(model.cuda(), images.cuda(), [1, 2, 3], method=method, layer=layer)
    assert (found.cpu() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["vgg16_bn", "densenet121", "mobilenet_v2", "resnext50_32x4d", "inception_v3"])
def test_every_kind_of_layer_in_float32(name: str) -> None:
    torch.manual_seed(0)
    side = 299 if name == "inception_v3" else 96
    options = {"init_weights": False} if name == "inception_v3" else {}
    model, images = get_model(name, weights=None, **options).eval(), torch.randn(2, 3, side, side)
    expected = fastcam.relevance_cam(model, images, [[1, 2], [3, 4]])
    found = fastcam.relevance_cam(model.cuda(), images.cuda(), [[1, 2], [3, 4]])
    # A random network's deepest maps hold differences of nearly equal sums.
    assert correlation(found.flatten(0, 1), expected.flatten(0, 1)) > 0.9999


@pytest.mark.parametrize("method", METHODS)
def test_the_kernels_and_the_references_agree(method: str, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:1].cuda()
    found = fastcam.explain(on_device, chosen, method=method, layer=LAST)
    with use_backend("reference"):
        expected = fastcam.explain(on_device, chosen, method=method, layer=LAST)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_repeated_runs_agree_bit_for_bit(method: str, precision: str, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:2].cuda()
    run = fastcam.Explainer(on_device, method=method, layer=LAST, precision=precision)
    first = run(chosen, 282)
    for _ in range(3):
        assert torch.equal(run(chosen, 282), first)


@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
def test_memory_does_not_grow(method: str, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos.cuda()
    run = fastcam.Explainer(on_device, method=method, layer=LAST, precision="bfloat16")
    for _ in range(3):
        run(chosen)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        run(chosen)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


def test_several_layers_and_targets_from_one_pass(on_device: nn.Module, photos: Tensor) -> None:
    layers = ["blocks.5.expand.activation", LAST]
    chosen, targets = photos[:2].cuda(), [[281, 282], [967, 504]]
    both = fastcam.relevance_cam(on_device, chosen, targets, layers)
    for layer, maps in zip(layers, both, strict=True):
        for t in range(2):
            alone = fastcam.relevance_cam(on_device, chosen, [row[t] for row in targets], layer)
            assert correlation(maps[:, t], alone) > 0.9999


def test_score_cam_takes_batches_of_any_size(on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:1].cuda()
    first = fastcam.score_cam(on_device, chosen, 282, LAST)
    assert (fastcam.score_cam(on_device, chosen, 282, LAST, batch_size=37) - first).abs().max() < 1e-4
