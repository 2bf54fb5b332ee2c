import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastcam.evaluation.memory import Portions, is_out_of_memory
from fastcam.network.portions import fitted


@pytest.fixture(autouse=True, scope="module")
def no_garbage() -> Iterator[None]:
    """Each halving collects it, among a whole session's objects here: a quarter of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)
        yield


@given(count=st.integers(0, 40), size=st.integers(1, 16), fits=st.integers(1, 16))
def test_every_image_is_worked_on_once_in_portions_that_fit(count: int, size: int, fits: int) -> None:
    halvings: list[tuple[int, int]] = []
    portions = Portions(size, lambda before, after: halvings.append((before, after)))

    def work(portion: slice) -> list[int]:
        images = list(range(portion.start, portion.stop))
        if len(images) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images

    assert [i for images in portions.each(count, work) for i in images] == list(range(count))
    assert all(after < before for before, after in halvings)
    # For good: a second batch of the same size meets no shortage.
    told = len(halvings)
    portions.each(count, work)
    assert len(halvings) == told


def test_one_image_too_much_is_the_error_it_was() -> None:
    asked: list[slice] = []

    def work(portion: slice) -> None:
        asked.append(portion)
        assert len(asked) < 9, "tried again and again"
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Portions(8, lambda before, after: None).each(8, work)
    assert [portion.stop for portion in asked] == [8, 4, 2, 1]


@pytest.mark.parametrize("most", [1, 5, 16, 100])
def test_forward_passes_shrink_with_the_images_and_beyond(most: int) -> None:
    """Those that nobody gave a size to: 64 inputs to a forward pass, however few images there are."""
    tried: list[tuple[int, int]] = []

    def work(portion: slice) -> int:
        inputs = fitted(64)
        tried.append((portion.stop - portion.start, inputs))
        if inputs > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs

    fits = next(inputs for inputs in (64, 32, 16, 8, 4, 2, 1) if inputs <= most)
    portions = Portions(4, lambda before, after: None)
    assert set(portions.each(4, work)) == {fits}
    expected = [(4, 64), (2, 32), (1, 16), (1, 8), (1, 4), (1, 2), (1, 1)]
    assert tried[: expected.index((portions.size, fits)) + 1] == expected[: expected.index((portions.size, fits)) + 1]
    assert fitted(64) == 64


def test_what_fits_of_a_batch_is_done_alone() -> None:
    def work(portion: slice) -> slice:
        if portion.stop - portion.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return portion

    assert Portions(8, lambda before, after: None).first(8, work) == slice(0, 2)


def test_other_errors_are_not_taken_for_it() -> None:
    calls = []

    def work(portion: slice) -> None:
        calls.append(portion)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Portions(8, lambda before, after: None).each(8, work)
    assert len(calls) == 1


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("no such operator"))
