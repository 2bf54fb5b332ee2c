"""The interpreter's kernels write into memory that holds NaN: what a kernel leaves out shows."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def empty_tensors_are_nan() -> Iterator[None]:
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
