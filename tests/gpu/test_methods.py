"""Whole explanations on the device, against the references on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from torch import Tensor, nn
from torchvision.models import get_model

import fastcam
from bench.gpu_methods import FAMILIES, PRECISIONS, SETTINGS, build, variants
from fastcam.models.loading import LoadedModel, load_model
from fastcam.ops.backend import use_backend
from fastcam.photos import read_photo
from tests.attribution.test_gradient import LEAST as OF_GRADIENTS
from tests.classifiers import SMALL_OPTIONS

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
LAST = "head.activation"
# Maps at the images' own resolution follow single rectifiers, which rounding flips: they agree as wholes.
AT_THE_IMAGES = {m.name for m in fastcam.methods() if m.layer != "last"} | {"rsp"}
# One photo, and few samples: thousands of forward passes on the CPU otherwise.
SLOW = {m.name for m in fastcam.methods() if m.family == "score"}
METHODS = [m.name for m in fastcam.methods()]


def options(method: str) -> dict[str, Any]:
    """Few samples, and the same random numbers on either device."""
    drawn = "generator" in fastcam.attribution.METHODS[method].options
    return {
        **SMALL_OPTIONS.get(method, {}),
        **({"generator": torch.Generator().manual_seed(0)} if drawn else {}),
        **({"layer": LAST} if fastcam.attribution.METHODS[method].layer == "last" else {}),
    }


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


# In float16 and bfloat16, as tests/attribution measures them on a CPU, where each bound has its reason. TF32 rounds the
# operands of products as float16 does and nothing else: float16's bound holds for it.
AIM = (0.9999, 0.998)
LEAST = {
    **OF_GRADIENTS,
    **dict.fromkeys(("cam", "fake_cam", "ablation_cam", "cameras", "relevance_cam", "lrp", "excitation_backprop"), AIM),
    # Weights of both signs: the sum is smaller than what it is of.
    "random_cam": (0.999, 0.98),
    # The component of the largest singular value, by as much as that differs from the next.
    "eigen_cam": (0.9995, 0.995),
    # Scores are differences of probabilities.
    "score_cam": (0.9999, 0.99),
    **dict.fromkeys(("is_cam", "abs_cam", "rise"), (0.999, 0.99)),
    # Masks of one sample are mostly noise, and leave most channels scores that are nearly the same.
    "ss_cam": (0.999, 0.9),
    "group_cam": (0.995, 0.99),
    # Two steps from the start move it little.
    "extremal_perturbation": (0.99, 0.99),
    **dict.fromkeys(("clrp", "sglrp"), (0.995, 0.99)),
    **dict.fromkeys(("rap", "rsp"), (0.999, 0.99)),
    # At the last feature map: behind it rounding turns its clusters, and its map is another one.
    "agf": AIM,
}
_REFERENCES: dict[str, Tensor] = {}


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_reduced_precision_on_real_weights(
    method: str, precision: str, embedded: LoadedModel, on_device: nn.Module, photos: Tensor
) -> None:
    chosen = photos[: 1 if method in SLOW else 2]

    def explain(model: nn.Module, images: Tensor, precision: str | None) -> Tensor:
        at = {"layer": LAST} if method == "agf" else {}
        found: Tensor = fastcam.explain(model, images, method=method, precision=precision, **options(method), **at)
        return found

    if method not in _REFERENCES:
        _REFERENCES[method] = explain(embedded.model, chosen, None)
    found = explain(on_device, chosen.cuda(), precision)
    assert found.dtype == torch.float32
    assert correlation(found, _REFERENCES[method]) >= LEAST[method][precision == "bfloat16"]


@pytest.mark.parametrize("method", METHODS)
def test_float32_on_real_weights(method: str, embedded: LoadedModel, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:1] if method in SLOW else photos
    found = fastcam.explain(on_device, chosen.cuda(), method=method, **options(method))
    expected = fastcam.explain(embedded.model, chosen, method=method, **options(method))
    assert found.device.type == "cuda"
    if method in AT_THE_IMAGES:
        assert found.cpu().equal(expected) if method == "fake_cam" else correlation(found, expected) > 0.99
    else:
        assert (found.cpu() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer4"])
@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
def test_float32_on_resnet50(method: str, layer: str) -> None:
    torch.manual_seed(0)
    model, images = get_model("resnet50", weights=None).eval(), torch.randn(3, 3, 224, 224)
    expected = fastcam.explain(model, images, [1, 2, 3], method=method, layer=layer)
    found = fastcam.explain(model.cuda(), images.cuda(), [1, 2, 3], method=method, layer=layer)
    assert (found.cpu() - expected).abs().max() < 1e-4


NETWORKS = ["vgg16_bn", "densenet121", "mobilenet_v2", "resnext50_32x4d", "inception_v3"]


# Not score_cam: of a random network's scores, which masks hardly move, it makes maps of zeros.
@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_layer_in_float32(method: str, name: str) -> None:
    torch.manual_seed(0)
    side = 299 if name == "inception_v3" else 96
    options = {"init_weights": False} if name == "inception_v3" else {}
    model, images = get_model(name, weights=None, **options).eval(), torch.randn(2, 3, side, side)
    expected = fastcam.explain(model, images, [[1, 2], [3, 4]], method=method)
    found = fastcam.explain(model.cuda(), images.cuda(), [[1, 2], [3, 4]], method=method)
    if (method, name) == ("relevance_cam", "vgg16_bn"):
        # Behind three random linear layers the two seeds' sums are nearly equal: float32 on a CPU differs from float64
        # by 5e-4 there, and by 6e-6 at most on the others.
        assert correlation(found.flatten(0, 1), expected.flatten(0, 1)) > 0.9999
    else:
        assert (found.cpu() - expected).abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_the_kernels_and_the_references_agree(method: str, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:1].cuda()
    found = fastcam.explain(on_device, chosen, method=method, **options(method))
    with use_backend("reference"):
        expected = fastcam.explain(on_device, chosen, method=method, **options(method))
    if method in AT_THE_IMAGES:
        assert found.equal(expected) if method == "fake_cam" else correlation(found, expected) > 0.99
    else:
        assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_repeated_runs_agree_bit_for_bit(method: str, precision: str, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:2].cuda()

    def run() -> Tensor:
        return fastcam.explain(on_device, chosen, 282, method=method, precision=precision, **options(method))

    first = run()
    for _ in range(3):
        assert torch.equal(run(), first)


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow(method: str, on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[: 1 if method in SLOW else 4].cuda()
    run = fastcam.Explainer(on_device, method=method, precision="bfloat16", **options(method))
    for _ in range(3):
        run(chosen)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20 if method in SLOW else 200):
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


def test_methods_asked_for_together(on_device: nn.Module, photos: Tensor) -> None:
    names = [m.name for m in fastcam.methods() if m.family == "gradient" and m.layer == "last" and not m.options]
    together = fastcam.explain(on_device, photos.cuda(), layer=LAST, method=names)
    for name in names:
        alone = fastcam.explain(on_device, photos.cuda(), layer=LAST, method=name)
        assert (together[name] - alone).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("precision", "least"), [("float32", 0.999), ("tf32", 0.999), ("float16", 0.999), ("bfloat16", 0.99)]
)
@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam", "lrp"])
def test_ucag(
    method: str, precision: str, least: float, embedded: LoadedModel, on_device: nn.Module, photos: Tensor
) -> None:
    settings = {"method": method, "patches": 3, "layer": None if method == "lrp" else LAST}
    found = fastcam.ucag(on_device, photos[:2].cuda(), precision=precision, **settings)
    assert correlation(found, fastcam.ucag(embedded.model, photos[:2], **settings)) > least


@pytest.mark.parametrize(("name", "method", "layer"), sorted({s[:3] for s in SETTINGS + FAMILIES}, key=str))
def test_what_is_measured_runs(name: str, method: str, layer: str | None) -> None:
    runs = variants(build(name), method, layer, torch.rand(2, 3, 224, 224, device="cuda"))
    for precision in PRECISIONS:
        maps = runs[f"fastcam, {precision}"]()
        assert maps.shape == (2, 224, 224)
        assert maps.isfinite().all()


@pytest.mark.parametrize("rule", ["z+", "epsilon", "gamma", "alpha_beta", "epsilon_plus_flat", "epsilon_gamma_box"])
@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "mobilenet_v2"])
def test_rules_in_float32(name: str, rule: str) -> None:
    torch.manual_seed(0)
    model, images = get_model(name, weights=None).eval(), torch.rand(2, 3, 96, 96)
    expected = fastcam.lrp(model, images, [1, 2], rule=rule)
    found = fastcam.lrp(model.cuda(), images.cuda(), [1, 2], rule=rule)
    assert correlation(found, expected) > 0.999


def test_score_cam_takes_batches_of_any_size(on_device: nn.Module, photos: Tensor) -> None:
    chosen = photos[:1].cuda()
    first = fastcam.score_cam(on_device, chosen, 282, LAST)
    assert (fastcam.score_cam(on_device, chosen, 282, LAST, batch_size=37) - first).abs().max() < 1e-4
