"""Timing on a CUDA device: what can be said without one."""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastcam_kernels import timing


class Result:
    """Something that a weak reference can follow."""


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for streams and graphs; whether a graph is being captured, and the pools that were given."""
    state: dict[str, Any] = {"now": False, "pools": []}

    class Stream:
        def wait_stream(self, other: object) -> None: ...

        def synchronize(self) -> None: ...

    class Graph:
        def replay(self) -> None: ...

    @contextlib.contextmanager
    def graph(of: Graph, pool: object = None) -> Iterator[None]:
        state["now"] = True
        state["pools"].append(pool)
        yield
        state["now"] = False

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return state


def test_every_set_of_inputs_is_taken_before_the_capture(capturing: dict[str, Any]) -> None:
    before, inside = [], []

    def call(number: int) -> None:
        (inside if capturing["now"] else before).append(number)

    timing.replay_of(call, 5, 12)
    assert before == [0, 1, 2, 3, 4]
    assert inside == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_results_rotate_as_inputs_do(capturing: dict[str, Any]) -> None:
    alive: list[weakref.ref[Result]] = []
    most = 0

    def call(number: int) -> Result:
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        result = Result()
        if capturing["now"]:
            alive.append(weakref.ref(result))
        return result

    timing.replay_of(call, 3, 9)
    assert most == 3
