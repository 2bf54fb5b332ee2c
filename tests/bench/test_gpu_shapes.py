"""What the GPU tests ask of the references is valid: their shapes, tried here without a device and without numbers."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fastcam.ops import reference
from tests.gpu import (
    test_cam_map,
    test_fold_patches,
    test_masked_inputs,
    test_perturbed_inputs,
    test_relevance_conv,
    test_relevance_conv_backward,
    test_relevance_linear,
    test_unfold_patches,
)


class _WithoutNumbers(TorchFunctionMode):
    """Tensors for CUDA are shapes alone, and nothing is drawn for them."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {**(kwargs or {})}
        if given.get("device") == "cuda":
            given |= {"device": "meta"}
            given.pop("generator", None)
        return function(*args, **given)


class _Generator:
    def __init__(self, device: str) -> None: ...

    def manual_seed(self, seed: int) -> None: ...


@pytest.fixture(autouse=True)
def _no_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # has no such device
    with _WithoutNumbers():
        yield


def _conv(name: str) -> object:
    operands, geometry = test_relevance_conv.problem(name, torch.float32, signed=True)
    assert len(operands[1]) % geometry.groups == 0  # which shapes without numbers are not asked
    return reference.relevance_conv(*operands, None, *test_relevance_conv.arguments(geometry), "relu", False)


def _conv_backward(case: str) -> object:
    tensors = test_relevance_conv_backward.problem(case, torch.float32, signed=True, residual=True)
    *given, geometry = tensors
    assert len(given[3]) % geometry.groups == 0
    return reference.relevance_conv_backward(*given, list(given[2].shape[2:]), *geometry.arguments())


def _linear(name: str) -> object:
    tensors = test_relevance_linear.problem(test_relevance_linear.SHAPES[name], True, torch.float32)
    return reference.relevance_linear(**tensors, activation="relu", reciprocal=False)


def _cam_map(name: str) -> object:
    activations, weights, size = test_cam_map.tensors(test_cam_map.SHAPES[name], False, torch.float32)
    return reference.cam_map(activations, weights, list(size), False, False)


def _masked_inputs(name: str) -> object:
    return reference.masked_inputs(*test_masked_inputs.tensors(test_masked_inputs.SHAPES[name], torch.float32))


def _perturbed_inputs(name: str) -> object:
    return reference.perturbed_inputs(*test_perturbed_inputs.tensors(test_perturbed_inputs.SHAPES[name], torch.float32))


def _unfold_patches(name: str) -> object:
    arguments = test_unfold_patches.tensors(test_unfold_patches.SHAPES[name], torch.float32)
    return reference.unfold_patches(*arguments, "bicubic")


def _fold_patches(name: str) -> object:
    return reference.fold_patches(*test_fold_patches.tensors(test_fold_patches.SHAPES[name], torch.float32))


CALLS: list[tuple[Callable[[str], object], Any]] = [
    (_conv, test_relevance_conv.SHAPES),
    (_conv_backward, test_relevance_conv_backward.CASES),
    (_linear, test_relevance_linear.SHAPES),
    (_cam_map, test_cam_map.SHAPES),
    (_masked_inputs, test_masked_inputs.SHAPES),
    (_perturbed_inputs, test_perturbed_inputs.SHAPES),
    (_unfold_patches, test_unfold_patches.SHAPES),
    (_fold_patches, test_fold_patches.SHAPES),
]


@pytest.mark.parametrize(
    ("call", "name"),
    [pytest.param(call, name, id=f"{call.__name__[1:]}-{name}") for call, shapes in CALLS for name in shapes],
)
def test_the_reference_takes_it(call: Callable[[str], object], name: str) -> None:
    found = call(name)
    tensors = found if isinstance(found, tuple) else (found,)
    assert all(tensor.numel() for tensor in tensors)
