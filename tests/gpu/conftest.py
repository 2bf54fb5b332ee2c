"""Everything here carries the marker `gpu`, is skipped without a CUDA device, and runs the kernels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastcam import use_backend

HERE = Path(__file__).parent


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> pytest.Item | None:
    """Without a device a test function is one skipped test, whatever its parameters: thousands would cost seconds."""
    if torch.cuda.is_available() or not collector.istestfunction(obj, name):
        return None
    return pytest.Function.from_parent(collector, name=name, callobj=obj)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def the_kernels_serve() -> Iterator[None]:
    """Even where the reference would be chosen."""
    with use_backend("triton"):
        yield
