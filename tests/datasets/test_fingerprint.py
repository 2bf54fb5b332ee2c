from dataclasses import replace
from pathlib import Path

import pytest

from fastcam.datasets import Box, PhotoFiles, Sample, fingerprint

FIRST = Sample(name="a.jpg", path=Path("x/a.jpg"), label=3, boxes=(Box(1, 2, 3, 4.5),), annotated=(10, 20))
SECOND = Sample(name="b.jpg", path=Path("x/b.jpg"))


def dataset(*samples: Sample, name: str = "voc07", root: str = "x") -> PhotoFiles:
    return PhotoFiles(name=name, root=Path(root), samples=samples, has_regions=True)


def test_the_place_does_not_count() -> None:
    moved = [replace(sample, path=Path("elsewhere") / sample.path.name) for sample in (FIRST, SECOND)]
    one, other = fingerprint(dataset(FIRST, SECOND)), fingerprint(dataset(*moved, root="elsewhere"))
    assert one == other
    assert (one.name, one.count, len(one.sha256)) == ("voc07", 2, 64)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param((SECOND, FIRST), id="order"),
        pytest.param((FIRST,), id="count"),
        pytest.param((replace(FIRST, label=4), SECOND), id="label"),
        pytest.param((replace(FIRST, label=None), SECOND), id="no label"),
        pytest.param((replace(FIRST, name="c.jpg"), SECOND), id="name"),
        pytest.param((replace(FIRST, boxes=(Box(1, 2, 3, 4),)), SECOND), id="box"),
        pytest.param((replace(FIRST, boxes=()), SECOND), id="no box"),
        pytest.param((replace(FIRST, difficult=True), SECOND), id="difficult"),
        pytest.param((replace(FIRST, annotated=(20, 10)), SECOND), id="size"),
        pytest.param((replace(FIRST, upright=False), SECOND), id="orientation"),
    ],
)
def test_everything_else_does(changed: tuple[Sample, ...]) -> None:
    assert fingerprint(dataset(*changed)).sha256 != fingerprint(dataset(FIRST, SECOND)).sha256


def test_stays_what_it_is() -> None:
    """Runs are continued after an upgrade: the hash of the same samples must not change."""
    assert fingerprint(dataset(FIRST, SECOND)).sha256.startswith("75a2fdaec009475f")
