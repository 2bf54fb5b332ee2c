from hypothesis import given
from hypothesis import strategies as st

from fastcam.evaluation.parts import cut, draw_order, first_right, next_round


@given(samples=st.lists(st.integers(0, 999), unique=True, max_size=60), size=st.integers(1, 9), batch=st.integers(1, 9))
def test_parts_and_batches_hold_each_sample_once_in_order(samples: list[int], size: int, batch: int) -> None:
    parts = cut("m", samples, size)
    assert [s for part in parts for s in part.samples] == samples
    assert [s for part in parts for b in part.batches(batch) for s in b] == samples
    assert all(len(part.samples) == size for part in parts[:-1])
    assert all(len(b) <= batch for part in parts for b in part.batches(batch))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert all(part.total == len(parts) for part in parts)


@given(names=st.lists(st.text(max_size=3), unique=True, max_size=9), seed=st.integers())
def test_the_drawn_order_is_a_permutation_that_depends_on_names_alone(names: list[str], seed: int) -> None:
    order = draw_order(names, seed)
    assert sorted(order) == list(range(len(names)))
    turned = names[::-1]
    assert [names[i] for i in order] == [turned[i] for i in draw_order(turned, seed)]


def test_the_drawn_order_is_this_one_for_good() -> None:
    """Runs of other versions must be gone on with on the same samples."""
    assert draw_order([f"{i}.png" for i in range(8)], 0) == [5, 1, 2, 0, 4, 6, 3, 7]
    assert draw_order([f"{i}.png" for i in range(8)], 1) != draw_order([f"{i}.png" for i in range(8)], 0)


@given(
    right=st.lists(st.booleans(), min_size=1, max_size=50),
    size=st.integers(1, 7),
    wanted=st.none() | st.integers(1, 50),
)
def test_screening_finds_the_first_that_are_right(right: list[bool], size: int, wanted: int | None) -> None:
    order = draw_order([str(i) for i in range(len(right))], 5)
    screening = cut("m", order, size)
    done, found = 0, set[int]()
    while parts := next_round(screening, done, len(found), wanted):
        assert parts[0].number == done
        # Nothing is screened in vain: more are needed, and without the last part there could not be enough.
        assert wanted is None or sum(len(part.samples) for part in parts[:-1]) < wanted - len(found)
        found |= {s for part in parts for s in part.samples if right[s]}
        done += len(parts)
    assert first_right(order, found, wanted) == sorted([s for s in order if right[s]][:wanted])
