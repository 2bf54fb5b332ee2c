"""Sanity checks by random layers: against stages made by hand, and what must not be touched."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor, nn

import fastcam
from fastcam.evaluation import sanity
from fastcam.metrics.randomization import layers_from_logits, make_random, randomization
from fastcam.network.cache import network_for
from tests.attribution.test_model_untouched import assert_unchanged, snapshot
from tests.zoo import conv, head, randomise


class Scaled(nn.Module):
    """A parameter of its own, and no way to reset it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor([0.5, -2.0, 1.5, 3.0])), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


class Net(nn.Module):
    """Registered in another order than it is run; `aux` has no part in the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.aux = head(4), head(4)
        self.norm, self.stem, self.scaled, self.last = nn.BatchNorm2d(4), conv(3, 4, bias=True), Scaled(), conv(4, 4)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.head(torch.relu(self.last(torch.relu(self.norm(self.scaled(self.stem(x))))))))


ORDER = ["head.2", "last", "norm", "scaled", "stem"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(Net()).train()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 14, 16, generator=torch.Generator().manual_seed(1))


def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Signed maps, by torch alone: gradient times image."""
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        columns = targets if targets.dim() == 2 else targets[:, None]
        logits = model(x)
        maps = [
            torch.autograd.grad(logits.gather(1, column[:, None]).sum(), x, retain_graph=True)[0] * images
            for column in columns.T
        ]
    stacked = torch.stack([m.sum(1) for m in maps], 1)
    return stacked if targets.dim() == 2 else stacked[:, 0]


def by_hand(model: nn.Module, name: str, seed: int) -> None:
    module = model.get_submodule(name)
    torch.manual_seed(seed)
    if name == "scaled":
        for parameter in module.parameters():
            rms = parameter.detach().square().mean().sqrt()
            parameter.data = torch.randn(parameter.shape) * rms
    else:
        module.reset_parameters()


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_stages_as_made_by_hand(mode: str, model: nn.Module, images: Tensor) -> None:
    stages = list(randomization(model, images, explain=saliency, mode=mode, seed=5))
    assert [stage.name for stage in stages] == ORDER
    trained = copy.deepcopy(model).eval()
    targets = trained(images).argmax(1)
    original, twin = saliency(trained, images, targets), copy.deepcopy(trained)
    with torch.random.fork_rng(devices=[]):
        for place, stage in enumerate(stages):
            twin = twin if mode == "cascading" else copy.deepcopy(trained)
            by_hand(twin, stage.name, 5 + place)
            maps = saliency(twin, images, targets)
            assert torch.allclose(stage.maps, maps, atol=1e-6)
            expected = [spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(original, stage.maps, strict=True)]
            assert stage.rank_correlation.tolist() == pytest.approx(expected, abs=1e-4)
            absolute = [
                spearmanr(a.abs().flatten(), b.abs().flatten())[0] for a, b in zip(original, stage.maps, strict=True)
            ]
            assert stage.absolute_rank_correlation.tolist() == pytest.approx(absolute, abs=1e-4)
            assert not torch.equal(stage.ssim, stage.absolute_ssim)
            assert bool((stage.ssim < 0.99).all())


def test_independent_stages_have_only_one_random_layer(model: nn.Module, images: Tensor) -> None:
    seen: list[dict[str, Tensor]] = []

    def watch(twin: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        assert not twin.training
        seen.append({name: value.clone() for name, value in twin.state_dict().items()})
        return saliency(twin, images, targets)

    list(randomization(model, images, explain=watch, mode="independent"))
    for name, state in zip(ORDER, seen[1:], strict=True):
        changed = {key.rpartition(".")[0] for key, value in state.items() if not torch.equal(value, seen[0][key])}
        assert changed == {name}
    cascading, before = list(seen[:1]), len(seen)
    list(randomization(model, images, explain=watch, mode="cascading"))
    cascading = seen[before:]
    for count, state in enumerate(cascading):
        changed = {key.rpartition(".")[0] for key, value in state.items() if not torch.equal(value, seen[0][key])}
        assert changed == set(ORDER[:count])


def test_the_model_and_the_generator_are_not_touched(model: nn.Module, images: Tensor) -> None:
    before, generator = snapshot(model), torch.get_rng_state()
    list(randomization(model, images, explain=saliency))
    list(sanity.randomization(model, images, 1, "stem", method="grad_cam", layers=["last"]))
    assert_unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_classes_stay_those_of_the_model_as_it_was(model: nn.Module, images: Tensor) -> None:
    seen = []

    def watch(twin: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets.tolist())
        return saliency(twin, images, targets)

    list(randomization(model, images, explain=watch))
    assert seen == [copy.deepcopy(model).eval()(images).argmax(1).tolist()] * (len(ORDER) + 1)


def test_several_classes_per_image(model: nn.Module, images: Tensor) -> None:
    targets = torch.tensor([[0, 1], [2, 3], [4, 0]])
    stages = list(randomization(model, images, targets, explain=saliency, layers=["last"]))
    single = [next(randomization(model, images, t, explain=saliency, layers=["last"])) for t in targets.T]
    assert stages[0].maps.shape == (3, 2, 14, 16)
    for name in ("rank_correlation", "ssim", "absolute_rank_correlation", "absolute_ssim"):
        expected = torch.stack([getattr(stage, name) for stage in single], 1)
        assert torch.allclose(getattr(stages[0], name), expected, atol=1e-5)


def test_a_method_that_does_not_look_at_the_model_is_found_out(model: nn.Module, images: Tensor) -> None:
    stages = randomization(model, images, explain=lambda model, images, targets: images.abs().sum(1))
    for stage in stages:
        assert stage.rank_correlation.tolist() == pytest.approx([1] * 3, abs=1e-6)
        assert stage.ssim.tolist() == pytest.approx([1] * 3, abs=1e-6)


def test_stages_are_computed_when_asked_for(model: nn.Module, images: Tensor) -> None:
    calls = []

    def watch(twin: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return saliency(twin, images, targets)

    stages = randomization(model, images, explain=watch)
    assert not calls
    next(stages)
    assert len(calls) == 2


def test_names_take_along_what_lies_below_them(model: nn.Module, images: Tensor) -> None:
    (whole,) = randomization(model, images, explain=saliency, layers=["head"], seed=3)
    (alone,) = randomization(model, images, explain=saliency, layers=["head.2"], seed=3)
    assert whole.name == "head"
    assert torch.equal(whole.maps, alone.maps)


class Branches(nn.Module):
    """`shared` is used twice, the second time behind `first`."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.first = conv(3, 3), conv(3, 3)
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.shared(self.first(self.shared(x))).mean((2, 3)))


def test_layers_lie_where_they_are_used_last(images: Tensor) -> None:
    model = Branches().eval()
    names = layers_from_logits(network_for(model, images).graph, model)
    assert names == ["fc", "fc.parametrizations.weight", "shared", "first"]


def test_what_random_means() -> None:
    norm = nn.BatchNorm2d(4)
    randomise(nn.Sequential(norm))
    make_random(norm, 0)
    assert [t.tolist() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)] == [
        [1] * 4, [0] * 4, [0] * 4, [1] * 4,
    ]  # fmt: skip
    module = nn.Module()
    module.many, module.one = nn.Parameter(torch.full((10_000,), 3.0)), nn.Parameter(torch.tensor(2.0))
    module.zero = nn.Parameter(torch.zeros(5))
    before = module.many.data_ptr()
    make_random(module, 0)
    assert float(module.many.detach().mean()) == pytest.approx(0, abs=0.1)
    assert float(module.many.detach().std()) == pytest.approx(3, abs=0.1)
    assert float(module.one.detach()) != 2
    assert module.zero.tolist() == [0] * 5
    assert module.many.data_ptr() == before


@settings(max_examples=20, deadline=None)
@given(seeds=st.tuples(st.integers(0, 1000), st.integers(0, 1000)))
def test_seeds_decide(seeds: tuple[int, int]) -> None:
    layers = [nn.Linear(3, 3) for _ in seeds]
    for layer, seed in zip(layers, seeds, strict=True):
        make_random(layer, seed)
    assert torch.equal(layers[0].weight, layers[1].weight) == (seeds[0] == seeds[1])


# -- methods by name


def test_methods_by_name(model: nn.Module, images: Tensor) -> None:
    """The layer may be a module of the user's model, whose twin has modules of its own."""

    def explain(twin: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return fastcam.lrp(twin, images, targets, "norm", rule="epsilon_plus")

    ours = sanity.randomization(model, images, 2, model.norm, method="lrp", rule="epsilon_plus", seed=4)
    theirs = randomization(model, images, 2, explain=explain, seed=4)
    for one, other in itertools.islice(zip(ours, theirs, strict=True), 3):
        assert one.name == other.name
        assert torch.equal(one.maps, other.maps)
        assert torch.equal(one.rank_correlation, other.rank_correlation)


# -- bad input


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"mode": "random"}, ValueError, r"mode: 'random' given, one of 'cascading', 'independent'"),
        ({"seed": "0"}, TypeError, r"seed: '0' given, an integer"),
        ({"explain": "grad_cam"}, TypeError, r"explain: str given, a function"),
        ({"layers": "last"}, TypeError, r"layers: 'last' given, None or a list"),
        ({"layers": []}, TypeError, r"layers: \[\] given"),
        ({"layers": ["lost"]}, ValueError, r"layers: 'lost' is no module of the model; choose from 'last'"),
        ({"layers": ["drop"]}, ValueError, r"layers: 'drop' has no parameters"),
        ({"targets": 9}, ValueError, r"targets: class 9 given"),
    ],
    ids=["mode", "seed", "explain", "a_name", "no_names", "unknown", "no_parameters", "targets"],
)
def test_bad_arguments(
    settings: dict[str, Any], error: type[Exception], match: str, model: nn.Module, images: Tensor
) -> None:
    """At the call, before any stage is asked for."""
    with pytest.raises(error, match=match):
        randomization(model, images, **{"explain": saliency, **settings})


@pytest.mark.parametrize(
    ("maps", "error", "match"),
    [
        (None, TypeError, r"explain: NoneType given, a float tensor of maps"),
        (torch.zeros(2, 14, 16), ValueError, r"explain: returned maps of shape \(2, 14, 16\), \(3, H, W\) is valid"),
        (torch.zeros(3, 7, 7), ValueError, r"maps of 7 x 7 pixels given, at least 11 x 11"),
    ],
    ids=["none", "few", "small"],
)
def test_bad_maps(maps: Any, error: type[Exception], match: str, model: nn.Module, images: Tensor) -> None:
    with pytest.raises(error, match=match):
        next(randomization(model, images, explain=lambda model, images, targets: maps))


def test_a_model_that_cannot_be_copied(images: Tensor) -> None:
    model = Net()
    model.kept = (i for i in range(3))
    with pytest.raises(ValueError, match=r"model: Net cannot be copied"):
        randomization(model, images, explain=saliency)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"method": ["grad_cam"]}, TypeError, r"method: list given, a method's name"),
        ({"layer": ["stem", "last"]}, TypeError, r"layer: list given"),
        ({"layer": nn.ReLU()}, ValueError, r"layer: the ReLU given is no module of the model"),
    ],
    ids=["methods", "layers", "module"],
)
def test_bad_methods(
    settings: dict[str, Any], error: type[Exception], match: str, model: nn.Module, images: Tensor
) -> None:
    with pytest.raises(error, match=match):
        sanity.randomization(model, images, **settings)
