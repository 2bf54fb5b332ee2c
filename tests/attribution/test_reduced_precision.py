"""Reduced precision, judged on real weights and photos (random networks amplify rounding until nothing is left).

The gradient family stands in test_gradient.py, score_cam in bfloat16 in test_score_real_weights.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from torch import Tensor, nn

import fastcam
from fastcam.models.loading import LoadedModel, load_model
from fastcam.network.cache import network_for
from fastcam.photos import read_photo
from fastcam.propagation import agf

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
LAST, MIDDLE, EARLY = "head.activation", "blocks.11.expand.activation", "blocks.5.expand.activation"


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model("efficientnet_lite0")


@pytest.fixture(scope="module")
def photos(embedded: LoadedModel) -> Tensor:
    folder = Path(skimage.__file__).parent / "data"
    views = [embedded.preprocessing.view(read_photo(folder / name)) for name in PHOTOS]
    return torch.cat([embedded.preprocessing.tensor(view) for view in views])


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, per map."""
    a, b = (m.flatten(1).double() - m.flatten(1).double().mean(1, keepdim=True) for m in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def agreement(model: nn.Module, photos: Tensor, method: str, layer: str, precision: str) -> float:
    maps = fastcam.explain(model, photos, method=method, layer=layer, precision=precision)
    return correlation(maps, fastcam.explain(model, photos, method=method, layer=layer)).min().item()


@pytest.mark.parametrize(
    ("method", "layer", "precision", "least"),
    [
        ("grad_cam", LAST, "float16", 0.9999),
        ("grad_cam", LAST, "bfloat16", 0.998),
        ("relevance_cam", LAST, "float16", 0.9999),
        ("relevance_cam", LAST, "bfloat16", 0.998),
        # Deeper, a difference of nearly equal sums is all that a contrastive seed leaves. The forward's rounding
        # decides (where an addition is fused it rounds once less, which moves these figures by 1e-4, early by 1e-3);
        # the signal's own would show here as 0.98 and 0.83 if gates of linear layers were bfloat16.
        ("relevance_cam", MIDDLE, "float16", 0.9995),
        ("relevance_cam", EARLY, "float16", 0.998),
        ("relevance_cam", MIDDLE, "bfloat16", 0.99),
    ],
)
def test_maps_correlate_with_float32(
    embedded: LoadedModel, photos: Tensor, method: str, layer: str, precision: str, least: float
) -> None:
    assert agreement(embedded.model, photos, method, layer, precision) >= least


# In float16 and bfloat16, for a map that no difference and no threshold makes.
AIM = (0.9999, 0.998)
# At the images, rule by rule; on photos of half the side, for time.
RULES: list[tuple[str, dict[str, Any], tuple[float, float]]] = [
    # Shares of one sign, or nearly so: no sum of them loses digits.
    ("lrp", {"rule": "z+"}, AIM),
    ("lrp", {"rule": "gamma"}, AIM),
    ("lrp", {"rule": "epsilon_plus_flat"}, AIM),
    ("lrp", {"rule": "epsilon_gamma_box"}, AIM),
    # x w / z of signed contributions: where they cancel, z is small and its rounding large beside it. An epsilon that
    # is large beside the rounding helps.
    ("lrp", {"rule": "epsilon"}, (0.95, 0.7)),
    ("lrp", {"rule": "epsilon", "epsilon": 0.5}, (0.999, 0.97)),
    # 2 C+ - C-; with less of C- the aim holds.
    ("lrp", {"rule": "alpha_beta"}, (0.998, 0.98)),
    ("lrp", {"rule": "alpha_beta", "alpha": 1.2, "beta": 0.2}, AIM),
    # Relevance of both signs, which cancel to a hundredth of their magnitude (rap) and a tenth (rsp).
    ("rap", {}, (0.999, 0.99)),
    ("rsp", {}, (0.999, 0.99)),
]
WHOLE: list[tuple[str, dict[str, Any], tuple[float, float]]] = [
    ("cam", {}, AIM),
    ("ablation_cam", {}, AIM),
    # Here the rest of the network runs once per channel. A channel moves a logit by a thousandth or less; from logits
    # rounded to 16 bits, bfloat16's maps would correlate by 0.57.
    ("ablation_cam", {"layer": MIDDLE}, (0.998, 0.95)),
    ("excitation_backprop", {}, AIM),
    # Differences of maps: of nearly one size here,
    ("excitation_backprop", {"contrastive": True}, (0.9995, 0.99)),
    # and here of nearly one shape, too: the cat's is a 50th of the two that make it, and these agree as z+ does.
    ("clrp", {}, (0.995, 0.99)),
    ("sglrp", {}, (0.995, 0.99)),
    # Of 49 positions a group keeps the highest third, and rounding swaps one with the next. With all of them the aim
    # holds.
    ("group_cam", {"groups": 8}, (0.999, 0.99)),
    ("group_cam", {"groups": 8, "percentile": 0}, AIM),
]


def named(cases: list[tuple[str, dict[str, Any], tuple[float, float]]]) -> list[Any]:
    return [pytest.param(*case, id="-".join((case[0], *(f"{k}={v}" for k, v in case[1].items())))) for case in cases]


@pytest.fixture(scope="module")
def small(embedded: LoadedModel) -> Tensor:
    """The first photo and the third, at half the side."""
    folder = Path(skimage.__file__).parent / "data"
    views = [embedded.preprocessing.view(read_photo(folder / name)).resize((112, 112)) for name in PHOTOS[::2]]
    return torch.cat([embedded.preprocessing.tensor(view) for view in views])


def check(model: nn.Module, images: Tensor, method: str, options: dict[str, Any], least: tuple[float, float]) -> None:
    def maps(precision: str | None) -> Tensor:
        found: Tensor = fastcam.explain(model, images, method=method, precision=precision, **options)
        return found

    expected = maps(None)
    for precision, bound in zip(("float16", "bfloat16"), least, strict=True):
        assert correlation(maps(precision), expected).min() >= bound, precision


@pytest.mark.parametrize(("method", "options", "least"), named(RULES))
def test_rules_correlate_with_float32(
    embedded: LoadedModel, small: Tensor, method: str, options: dict[str, Any], least: tuple[float, float]
) -> None:
    check(embedded.model, small, method, options, least)


@pytest.mark.parametrize(("method", "options", "least"), named(WHOLE))
def test_methods_correlate_with_float32(
    embedded: LoadedModel, photos: Tensor, method: str, options: dict[str, Any], least: tuple[float, float]
) -> None:
    check(embedded.model, photos[::2], method, options, least)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam", "lrp"])
def test_logits_are_not_rounded_to_16_bits(embedded: LoadedModel, small: Tensor, method: str, precision: str) -> None:
    info = fastcam.explain(embedded.model, small, method=method, precision=precision, return_info=True)
    assert not torch.equal(info.logits.to(getattr(torch, precision)).float(), info.logits)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
def test_logits_are_what_float32_makes_of_rounded_features(
    embedded: LoadedModel, small: Tensor, method: str, precision: str
) -> None:
    info = fastcam.explain(embedded.model, small, method=method, precision=precision, return_info=True)
    dtype, classifier = getattr(torch, precision), embedded.model.classifier
    network = network_for(embedded.model, small, precision=precision, output=None)
    (last,) = [n for n in network.graph.nodes if n.target is torch.ops.aten.linear.default]
    features = network.forward(small, (last.args[0],))[1][last.args[0]]
    assert features.dtype == dtype
    weight, bias = (p.detach().to(dtype).double() for p in (classifier.weight, classifier.bias))
    expected = features.double() @ weight.T + bias
    torch.testing.assert_close(info.logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_cameras_correlates_with_float32(embedded: LoadedModel, small: Tensor) -> None:
    # Of averages over the sizes, here 112 and 224, what grad_cam is of one.
    check(embedded.model, small, "cameras", {"steps": 2, "largest": 2}, AIM)


def test_score_cam_correlates_in_float16(embedded: LoadedModel, small: Tensor) -> None:
    # Its scores are probabilities, which float16 resolves eight times as finely as bfloat16.
    assert agreement(embedded.model, small[:1], "score_cam", LAST, "float16") >= 0.9999


@pytest.mark.parametrize(
    ("layer", "precision", "least"),
    [(None, "bfloat16", 0.998), (MIDDLE, "float16", 0.9995), (MIDDLE, "bfloat16", 0.99)],
)
def test_agf_turns_with_its_clusters_alone(
    embedded: LoadedModel,
    photos: Tensor,
    layer: str | None,
    precision: str,
    least: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A position belongs to a cluster by the sign of a sum over channels that are centred about 0. Rounding turns that
    # of a few in the layers behind; their F is another, and in the end up to a third of all positions change sides: the
    # cat's map correlates with float32's at 0.76 in bfloat16, and at the middle layer at 0.53 in float16. In float32,
    # noise of 2^-9 of each pixel's value does the same in one draw of three. With float32's clusters the rest agrees.
    cat, factor = photos[:1], agf._factor
    guides: list[Tensor] = []

    def keep(u: Tensor, guide: Tensor) -> Tensor:
        guides.append(guide)
        return factor(u, guide)

    def follow(given: Iterator[Tensor]) -> Any:
        return lambda u, _: factor(u, next(given))

    monkeypatch.setattr(agf, "_factor", keep)
    expected = fastcam.agf(embedded.model, cat, layer=layer)
    left = iter(guides)
    monkeypatch.setattr(agf, "_factor", follow(left))
    found = fastcam.agf(embedded.model, cat, layer=layer, precision=precision)
    assert next(left, None) is None
    assert correlation(found, expected).item() >= least
