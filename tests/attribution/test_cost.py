"""What `fastcam.methods()` tells of passes through the model, against passes that are counted."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastcam
from bench.evaluation_hours import passes
from fastcam.attribution.method import Method
from tests.zoo import conv, head, randomise

aten = torch.ops.aten
# Known by their sizes: the pool in front of the layer, and the one behind it.
BEFORE, BEHIND = 2, 3
SMALL: dict[str, dict[str, Any]] = {
    "smooth_grad_cam_pp": {"samples": 3},
    "ss_cam": {"samples": 2},
    "is_cam": {"samples": 2},
    "group_cam": {"groups": 3},
    "rise": {"masks": 7},
    "extremal_perturbation": {"steps": 2},
    "cameras": {"steps": 3},
}


class Pools(nn.Module):
    """Whatever the rule of a convolution, a pass takes each of these pools once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.before = nn.Sequential(conv(3, 4, bias=True), nn.ReLU()), nn.MaxPool2d(BEFORE)
        self.layer, self.behind = nn.Sequential(conv(4, 6, bias=True), nn.ReLU()), nn.MaxPool2d(BEHIND)
        self.last, self.head = nn.Sequential(conv(6, 5), nn.ReLU()), head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.behind(self.layer(self.before(self.first(x))))))


class Around(Pools):
    """With a connection around the layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.first(x))
        return self.head(self.last(self.behind(self.layer(x) + torch.cat([x, x[:, :2]], 1))))


@cache
def network(kind: type[Pools] = Pools) -> tuple[Pools, Tensor]:
    """The model and an image, in which two of the layer's six channels are 0 everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = kind()
        randomise(model)
        with torch.no_grad():
            model.layer[0].weight[1:3], model.layer[0].bias[1:3] = 0, -1
            model.layer[0].bias[[0, 3, 4, 5]] = 0.5
        return model, torch.randn(1, 3, 18, 18)


class Counted(TorchDispatchMode):
    """Feature maps (C, h, w) that came to each pool, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = {BEFORE: 0, BEHIND: 0}
        self.backwards = {BEFORE: 0, BEHIND: 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = {
            aten.max_pool2d_with_indices: (self.forwards, 1),
            aten.max_pool2d_with_indices_backward: (self.backwards, 2),
        }.get(func.overloadpacket)
        if found is not None:
            counts, place = found
            counts[args[place][0]] += args[0][..., 0, 0, 0].numel()
        return func(*args, **(kwargs or {}))


def counted(method: str, targets: int, kind: type[Pools] = Pools, at: str = "layer", **options: Any) -> Counted:
    model, image = network(kind)
    options = {**SMALL.get(method, {}), **options}
    if KNOWN[method].layer == "last":
        options["layer"] = "last" if method == "cam" else at
    if "pixel_range" in KNOWN[method].options:
        options["pixel_range"] = (-6.0, 6.0)

    def explain() -> None:
        fastcam.explain(model, image, [list(range(targets))], method=method, **options)

    # What is found out once for a graph is no cost of an image's.
    explain()
    with Counted() as counts:
        explain()
    return counts


def told(text: str, method: str, targets: int, **known: float) -> float:
    """What a method's words come to with its options in the tests; four channels are not 0."""
    options = {**KNOWN[method].options, **SMALL.get(method, {})}
    numbers = {name: value for name, value in options.items() if type(value) in (int, float)}
    return passes(text, {**numbers, "targets": targets, "channels": 4, **known})


KNOWN: dict[str, Method] = {method.name: method for method in fastcam.methods()}
EVERY_METHOD = pytest.mark.parametrize("method", KNOWN)
SOME_TARGETS = pytest.mark.parametrize("targets", [1, 2], ids=["one_target", "two_targets"])


@SOME_TARGETS
@EVERY_METHOD
def test_passes_are_those_told(method: str, targets: int) -> None:
    counts, known = counted(method, targets), {}
    if method == "group_cam":
        known = {"groups": live_groups(targets) / targets}
    if method == "ss_cam":
        known = {"channels": 5}
    assert counts.forwards[BEFORE] == told(KNOWN[method].forwards, method, targets, **known)
    # rsp's own goes on where the gradient's ends.
    behind = counts.backwards[BEHIND] + (counts.backwards[BEFORE] if method == "rsp" else 0)
    assert behind == targets * told(KNOWN[method].backwards, method, targets)
    # agf's gradients end at the convolutions.
    whole = targets if method == "agf" else behind
    if method != "rsp":
        assert counts.backwards[BEFORE] == (0 if KNOWN[method].layer == "last" else whole)


def live_groups(targets: int) -> int:
    """Of three pairs of channels, those whose weighted sum is positive anywhere."""
    model, image = network()
    alpha = fastcam.grad_cam(model, image, [list(range(targets))], "layer", return_info=True).weights[0]
    with torch.no_grad():
        terms = alpha[:, :, None, None] * model.layer(model.before(model.first(image)))
    return int((terms.unflatten(1, (3, 2)).sum(2).amax((2, 3)) > 0).sum())


def test_rsp_goes_forward_again_up_to_the_layer() -> None:
    counts = counted("rsp", 1)
    assert counts.forwards == {BEFORE: 2, BEHIND: 1}


@SOME_TARGETS
def test_ablation_cam_runs_the_head_alone(targets: int) -> None:
    once, around = counted("ablation_cam", targets), counted("ablation_cam", targets, Around)
    assert once.forwards == {BEFORE: 1, BEHIND: 1 + 4}
    # What goes around the layer is made once more.
    assert around.forwards[BEFORE] == 2
    assert "and 1 for each layer that a connection goes around" in KNOWN["ablation_cam"].forwards
    # Behind the last convolution are pooling and one linear layer.
    assert counted("ablation_cam", targets, at="last").forwards == {BEFORE: 1, BEHIND: 1}


@SOME_TARGETS
@pytest.mark.parametrize("mask", ["shared", "joint"])
def test_abs_cams_masks_are_told_apart(mask: str, targets: int) -> None:
    _, *others = KNOWN["abs_cam"].forwards.split("; with mask=")
    text = dict(other.replace("'", "").split(" ", 1) for other in others)[mask]
    assert counted("abs_cam", targets, mask=mask).forwards[BEFORE] == told(text, "abs_cam", targets)


@SOME_TARGETS
def test_abs_cam_masks_all_channels_where_none_is_0_everywhere(targets: int) -> None:
    assert "all channels where the layer's least value is not 0" in KNOWN["abs_cam"].forwards
    # In front of the ReLU.
    found = counted("abs_cam", targets, at="layer.0", mask="shared")
    assert found.forwards[BEFORE] == 1 + 6 * targets
