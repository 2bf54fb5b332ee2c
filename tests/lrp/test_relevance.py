"""fastcam.lrp.relevance: the same arguments, checks and shapes as the methods."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.attribution.test_model_untouched import assert_unchanged, build, snapshot, some_images

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
}


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_and_changes_nothing(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str, model: nn.Module
) -> None:
    before = snapshot(model)
    with pytest.raises(error, match=message):
        fastcam.lrp.relevance(model, *arguments, **options)
    assert_unchanged(model, before)


def test_no_model() -> None:
    with pytest.raises(TypeError, match=r"model: str given, a torch.nn.Module is valid"):
        fastcam.lrp.relevance("resnet18", GOOD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "axes"), [(None, 4), (1, 4), ([0, 1], 4), (torch.tensor([[0, 1], [1, 0]]), 5)], ids=str
)
def test_targets_decide_the_shape(targets: Any, axes: int, model: nn.Module) -> None:
    one = fastcam.lrp.relevance(model, GOOD, targets)
    assert isinstance(one, Tensor)
    assert one.dim() == axes
    assert len(one) == len(GOOD)
    several = fastcam.lrp.relevance(model, GOOD, targets, [None])
    assert isinstance(several, list)
    assert torch.equal(several[0], one)


def test_several_targets_are_each_one_alone(model: nn.Module) -> None:
    both = fastcam.lrp.relevance(model, GOOD, [[0, 1], [1, 0]])
    for t, alone in enumerate(([0, 1], [1, 0])):
        torch.testing.assert_close(both[:, t], fastcam.lrp.relevance(model, GOOD, alone), rtol=1e-5, atol=1e-6)
