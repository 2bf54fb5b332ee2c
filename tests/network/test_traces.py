"""Writes to tensors are noticed, also those that version counters do not tell of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastcam.network.traces import Traces

TENSORS: dict[str, Callable[[], Tensor]] = {
    "vector": lambda: torch.randn(7),
    "kernel": lambda: torch.randn(5, 3, 2, 2),
    "channels-last": lambda: torch.randn(5, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 6).t(),
    "slice": lambda: torch.randn(9, 8)[2:7:2, 1::3],
    "expanded": lambda: torch.randn(1, 4).expand(3, 4),
    "number": lambda: torch.randn(()),
    "two": lambda: torch.randn(2),
    "float64": lambda: torch.randn(3, 3, dtype=torch.float64),
    "bfloat16": lambda: torch.randn(3, 3).bfloat16(),
    "int64": lambda: torch.arange(6),
    "bool": lambda: torch.tensor([True, False]),
    "complex64": lambda: torch.randn(4, dtype=torch.complex64),
    "inference": lambda: _in_inference_mode(),
}


@torch.inference_mode()
def _in_inference_mode() -> Tensor:
    return torch.randn(5)


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_a_write_to_all_of_a_tensor_is_seen(make: Callable[[], Tensor]) -> None:
    tensors = [torch.ones(3), make(), torch.ones(2, 2)]
    traces = Traces(tensors)
    assert not traces.written()
    tensors[1].untyped_storage().fill_(0)
    assert traces.are_of(tuple(tensors))
    assert traces.written()


@pytest.mark.parametrize("place", [0, 24, 49], ids=["first", "middle", "last"])
def test_numbers_are_looked_at_in_all_parts(place: int) -> None:
    tensor = torch.zeros(50)
    traces = Traces([tensor])
    tensor.numpy()[place] = 1
    assert traces.are_of((tensor,))
    assert traces.written()


def test_nan_is_nan() -> None:
    tensor = torch.tensor([torch.nan, 0.0])
    traces = Traces([tensor])
    assert not traces.written()
    tensor.numpy()[1] = -0.0
    assert traces.written()


def test_no_device_is_waited_for() -> None:
    # Values of a meta tensor cannot be read at all.
    assert Traces([torch.empty(4, device="meta")]).written().is_meta


def test_what_has_no_numbers_is_passed_over() -> None:
    for tensors in ([], [torch.empty(0, 3)]):
        assert not Traces(tensors).written()
