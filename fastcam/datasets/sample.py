"""What a data set holds: photos, each with one class to look at, and where that class is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Box:
    """A rectangle in a photo's own pixels, x to the right and y down; right and bottom are the first pixels outside."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A photo and a class in it.

    name: unique in the data set, the same on every machine: the photo's path below the folder of photos, with
        "#class" behind it where a photo has several classes.
    path: the photo, or the file that holds it together with others.
    label: the class's index among the model's outputs; None where it is not known.
    boxes: of that class.
    difficult: belongs to the pointing game's difficult subset.
    annotated: (width, height) of the photo that boxes and masks were drawn on; None where that is not told. A photo
        that has been scaled since is fine, one of other proportions is not this photo.
    upright: the photo is turned as its EXIF orientation says; False where annotations refer to pixels as stored.
    """

    name: str
    path: Path
    label: int | None = None
    boxes: tuple[Box, ...] = ()
    difficult: bool = False
    annotated: tuple[int, int] | None = None
    upright: bool = True


class DataSet(Protocol):
    """Photos with their classes, in a fixed order.

    name: as `--dataset` takes it. root: the folder. regions: what tells where a class is. classes: how many there are
    where labels are positions in the data set's own order; None where a table or folders tell them.
    Data sets are pickled to worker processes and hold no open files.
    """

    @property
    def name(self) -> str:
        """The data set's name."""

    @property
    def root(self) -> Path:
        """Its folder."""

    @property
    def samples(self) -> Sequence[Sample]:
        """All samples, in a fixed order."""

    @property
    def has_regions(self) -> bool:
        """Whether it tells where the classes are."""

    @property
    def classes(self) -> int | None:
        """How many classes its own order has; None where labels are given in another way."""

    def pixels(self, sample: Sample) -> Tensor | None:
        """The photo, uint8 (3, h, w), where the data set keeps photos in a file of its own; None: read `path`."""

    def mask(self, sample: Sample) -> Tensor | None:
        """Booleans (h, w) of the photo's size where the class is, for data sets of masks; None where boxes tell."""


@dataclass(frozen=True, kw_only=True)
class PhotoFiles:
    """A data set of photos in files of their own, with boxes or without."""

    name: str
    root: Path
    samples: tuple[Sample, ...]
    has_regions: bool
    classes: int | None = None

    def pixels(self, sample: Sample) -> Tensor | None:
        """None: every photo is a file."""
        return None

    def mask(self, sample: Sample) -> Tensor | None:
        """None: boxes tell."""
        return None
