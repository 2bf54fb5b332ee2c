"""fastcam.propagation.relevance: the same arguments, checks and shapes as the methods."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.propagation.composites import RULES
from tests.attribution.test_model_untouched import assert_unchanged, build, snapshot, some_images
from tests.propagation.exhibits import exhibit

GOOD = some_images()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build()


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "no-batch": ((GOOD[0], 0), {}, ValueError, r"images: a tensor of shape \(3, 10, 10\) given"),
    "integers": ((GOOD.int(), 0), {}, TypeError, "images: dtype torch.int32 given"),
    "nan": ((GOOD.clone().fill_(torch.nan), 0), {}, ValueError, "images: NaN or infinite values"),
    "target": ((GOOD, 99), {}, ValueError, "targets: class 99 given, 0 to"),
    "target-count": ((GOOD, [1, 2, 3]), {}, ValueError, r"targets: shape \(3,\) given for 2 image"),
    "seed": ((GOOD, 0), {"seed": "uniform"}, ValueError, "seed: 'uniform' given, one of"),
    "layer": ((GOOD, 0), {"layer": "nowhere"}, ValueError, "no layer 'nowhere'"),
    "no-layer": ((GOOD, 0), {"layer": []}, ValueError, "layer: an empty list given"),
    "rule": ((GOOD, 0), {"rule": "lrp0"}, ValueError, r"rule: 'lrp0' given, one of 'z\+', 'epsilon'"),
    "first": ((GOOD, 0), {"first": "box"}, ValueError, "first: 'box' given, one of 'zB', 'flat'"),
    "epsilon-0": ((GOOD, 0), {"rule": "epsilon", "epsilon": 0}, ValueError, r"epsilon: 0.0 given, a finite .* above 0"),
    "epsilon-inf": ((GOOD, 0), {"rule": "epsilon", "epsilon": math.inf}, ValueError, "epsilon: inf given"),
    "epsilon-text": ((GOOD, 0), {"rule": "epsilon", "epsilon": "1"}, TypeError, "epsilon: str given, a number"),
    "epsilon-of-z+": (
        (GOOD, 0),
        {"epsilon": 1e-3},
        ValueError,
        r"rule 'z\+' has no epsilon; 'epsilon', 'epsilon_plus'",
    ),
    "gamma": ((GOOD, 0), {"rule": "gamma", "gamma": -0.1}, ValueError, r"gamma: -0.1 given, .* at least 0"),
    "gamma-of-epsilon": (
        (GOOD, 0),
        {"rule": "epsilon", "gamma": 1},
        ValueError,
        "rule 'epsilon' has no gamma; 'gamma', ",
    ),
    "beta": ((GOOD, 0), {"rule": "alpha_beta", "alpha": 0.5, "beta": -0.5}, ValueError, "beta: -0.5 given"),
    "alpha-beta": (
        (GOOD, 0),
        {"rule": "alpha_beta", "alpha": 3},
        ValueError,
        r"3.0 and 1.0 given; alpha - beta must be 1",
    ),
    "range-order": ((GOOD, 0), {"pixel_range": (1, 0)}, ValueError, "pixel_range: low 1.0 and high 0.0 given"),
    "range-nan": ((GOOD, 0), {"pixel_range": (math.nan, 0)}, ValueError, "pixel_range: low nan"),
    "range-number": ((GOOD, 0), {"pixel_range": 1.0}, ValueError, "pixel_range: 1.0 given; "),
    "range-one": ((GOOD, 0), {"pixel_range": (0.0,)}, ValueError, r"pixel_range: \(0.0,\) given; "),
    "range-lengths": ((GOOD, 0), {"pixel_range": ([0, 0], [1, 1, 1])}, ValueError, "2 low and 3 high values given"),
    "range-channels": (
        (GOOD, 0),
        {"layer": "input", "pixel_range": ([0, 0], [1, 1])},
        ValueError,
        r"pixel_range: 2 values given for images of 3 channel\(s\)",
    ),
    "range-unused": (
        (GOOD, 0),
        {"first": "flat", "pixel_range": (0, 1)},
        ValueError,
        "pixel_range: .* only first='zB' has use",
    ),
    "outside": (
        (GOOD, 0),
        {"layer": "input", "pixel_range": (-0.5, 0.5)},
        ValueError,
        r"images: values from -\d.* outside the pixel_range -0.5 to 0.5",
    ),
}


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_and_changes_nothing(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str, model: nn.Module
) -> None:
    before = snapshot(model)
    with pytest.raises(error, match=message):
        fastcam.relevance(model, *arguments, **options)
    assert_unchanged(model, before)


def test_no_model() -> None:
    with pytest.raises(TypeError, match=r"model: str given, a torch.nn.Module is valid"):
        fastcam.relevance("resnet18", GOOD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "axes"), [(None, 4), (1, 4), ([0, 1], 4), (torch.tensor([[0, 1], [1, 0]]), 5)], ids=str
)
def test_targets_decide_the_shape(targets: Any, axes: int, model: nn.Module) -> None:
    one = fastcam.relevance(model, GOOD, targets)
    assert isinstance(one, Tensor)
    assert one.dim() == axes
    assert len(one) == len(GOOD)
    several = fastcam.relevance(model, GOOD, targets, [None])
    assert isinstance(several, list)
    assert torch.equal(several[0], one)


@pytest.mark.parametrize("first", ["zB", "flat", "w2", "z+"])
@pytest.mark.parametrize("rule", RULES)
def test_several_targets_are_each_one_alone(rule: str, first: str, model: nn.Module) -> None:
    options = {"rule": rule, "first": first, "pixel_range": (-4, 4) if first == "zB" else None}
    both = fastcam.relevance(model, GOOD, [[0, 1], [1, 0]], "input", **options)
    for t, alone in enumerate(([0, 1], [1, 0])):
        one = fastcam.relevance(model, GOOD, alone, "input", **options)
        torch.testing.assert_close(both[:, t], one, rtol=1e-5, atol=1e-6)


def test_images_of_other_channels_need_a_range() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    images = torch.rand(1, 1, 6, 6)
    with pytest.raises(
        ValueError, match=r"pixel_range: not given, and images of 1 channel\(s\) are none of ImageNet's"
    ):
        fastcam.relevance(model, images, 0, "input")
    assert fastcam.relevance(model, images, 0, "input", pixel_range=(0, 1)).shape == images.shape
    assert fastcam.relevance(model, images, 0, "input", first="flat").shape == images.shape


def test_a_module_may_be_called_input() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.head = nn.Conv2d(3, 4, 1), nn.Linear(144, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.input(x).relu().flatten(1))

    assert fastcam.relevance(Net().eval(), torch.rand(1, 3, 6, 6), 0, "input").shape == (1, 4, 6, 6)


def test_the_report_by_hand() -> None:
    # x = (1, 2), hidden = relu(x1 + x2 - 1, x1 - x2, x2) = (2, 0, 2), logit = h1 + h2 + h3 + 1 = 5, by epsilon.
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]]).view(3, 2, 1, 1))
        model[0].bias.copy_(torch.tensor([-1.0, 0.0, 0.0]))
        model[3].weight.fill_(1)
        model[3].bias.fill_(1)
    images = torch.tensor([1.0, 2.0]).double().view(1, 2, 1, 1)
    found = fastcam.relevance(model, images, 0, "input", rule="epsilon", epsilon=1e-12, return_info=True)
    # 5 at the logit: 2, 0 and 2 go to the units, 1 to the bias. At the first unit 2 = 1 + 2 - 1: the bias takes -1.
    near = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found.relevance.flatten(), torch.tensor([1.0, 4.0]).double(), **near)
    assert list(found.lost) == ["3", "2", "1"]
    torch.testing.assert_close(torch.cat(list(found.lost.values())), torch.tensor([1.0, 0.0, -1.0]).double(), **near)
    torch.testing.assert_close(torch.stack([found.seed, found.total]), torch.tensor([[5.0], [5.0]]).double(), **near)
    assert found.logits.tolist() == [[5.0]]
    assert found.targets.tolist() == [0]
    assert found.layer == "input"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "name", ["residual_downsample", "preactivation", "squeeze_excitation", "functional_and_in_place"]
)
def test_what_is_lost_is_what_does_not_arrive(name: str, rule: str) -> None:
    model, images, targets = exhibit(name)
    options: dict[str, Any] = {"rule": rule, "first": "flat"}
    found = fastcam.relevance(model, images, targets, ["input"], **options, return_info=True)
    (plain,) = fastcam.relevance(model, images, targets, ["input"], **options)
    # The report keeps what is otherwise fused or overwritten: the relevance must be the same.
    scale = plain.abs().flatten(2).amax(2)
    assert ((found.relevance[0] - plain).abs().flatten(2).amax(2) <= 1e-12 * scale).all()
    assert found.layer == ["input"]
    torch.testing.assert_close(found.total[0], found.relevance[0].sum((2, 3, 4)))
    torch.testing.assert_close(found.seed, model(images).detach().gather(1, targets))
    lost = torch.stack(list(found.lost.values()))
    size = lost.abs().sum(0) + found.seed.abs()
    assert ((found.seed - lost.sum(0) - found.total[0]).abs() <= 1e-12 * size).all()


def test_additions_lose_nothing() -> None:
    # Neither operand may be overwritten by the sum, nor the sum by its ReLU, before they are counted.
    model, images, targets = exhibit("residual_downsample")
    found = fastcam.relevance(model, images, targets, "stem", rule="epsilon", return_info=True)
    sums = {name: lost for name, lost in found.lost.items() if name.startswith("add")}
    assert len(sums) == 2
    for name, lost in sums.items():
        assert (lost.abs() <= 1e-12 * found.seed.abs()).all(), name


def test_names_of_the_report_are_layers() -> None:
    model, images, targets = exhibit("residual_downsample")
    found = fastcam.relevance(model, images, targets, "stem", return_info=True)
    names = [name for name in found.lost if name.startswith(("block", "pool", "stem"))]
    assert names[-1] == "pool"
    assert "block2" in names
    for name in names:
        fastcam.relevance(model, images, targets, name)


def test_a_report_of_one_target_has_no_axis_for_it() -> None:
    model, images, _ = exhibit("residual_downsample")
    found = fastcam.relevance(model, images, 1, "stem", return_info=True)
    assert found.relevance.shape[:2] == (2, 4)
    assert {t.shape for t in (found.seed, found.total, found.targets, *found.lost.values())} == {(2,)}
