"""The interpreter's kernels write into memory that holds NaN: what a kernel leaves out shows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from triton.runtime import interpreter


@pytest.fixture(autouse=True)
def empty_tensors_are_nan() -> Iterator[None]:
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def a_single_number_bounds_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `range` take the interpreter's numbers under every triton and NumPy that are supported together.

    The interpreter keeps a number as an array of one element and one axis. Triton 3.6 makes an `int` of the array as it
    is, which NumPy refuses from 2.4 on; later versions drop the axis first, and so does this.
    """
    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_lang_tensor)


@pytest.fixture(autouse=True)
def overflow_goes_unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out conditions that nobody reads, nearly half of the interpreter's work.

    Each sum, difference and product of integers is formed again in 64 bits and compared with its type's bounds, for an
    assertion that is made where `debug` is set, which it is not here.
    """
    options = interpreter.interpreter_builder.options
    assert not options.debug
    monkeypatch.setattr(interpreter.interpreter_builder, "options", replace(options, sanitize_overflow=False))
