"""PASCAL VOC 2007 test, one sample for each class in a photo."""

from pathlib import Path

from .annotations import Annotation, read_annotation
from .classes import LEFT_OUT, VOC_CLASSES, ClassTable, check_table, class_index, numbered
from .folders import check_folder, contents, some
from .sample import Box, PhotoFiles, Sample

_ARCHIVE = "VOCtest_06-Nov-2007.tar"


def open_voc07(root: Path, *, classes: ClassTable | None = None) -> PhotoFiles:
    """VOC 2007's test photos below `root` (which holds VOCdevkit/VOC2007, VOC2007, or what is in it).

    A class of which all objects in a photo are flagged "difficult" gives no sample there, as in VOC's own rules; of
    the others all boxes count. Corners in the XML are pixels counted from 1 and belong to the box: left = xmin - 1,
    right = xmax. The pointing game's difficult subset: the boxes' areas sum to less than a quarter of the photo, and
    there is another class in it (Zhang et al. 2018, https://arxiv.org/abs/1608.00507, section 4.1).

    Raises:
        ValueError: folders, photos or annotations are missing, unreadable or do not match, or `classes` does not fit.
    """
    check_folder(root, name="voc07")
    table = numbered(VOC_CLASSES) if classes is None else check_table(classes, VOC_CLASSES, source="--classes")
    places = [root / "VOCdevkit" / "VOC2007", root / "VOC2007", root]
    parts = ("JPEGImages", "Annotations", "ImageSets/Main/test.txt")
    home = next((place for place in places if (place / parts[0]).is_dir()), None)
    lacking = [part for part in parts if home is None or not (home / part).exists()]
    if home is None or lacking:
        raise ValueError(
            f"data set voc07: {home or root} lacks {', '.join(lacking)}; found {contents(home or root)}. "
            f"Extract {_ARCHIVE} into {root}"
        )
    try:
        numbers = (home / parts[2]).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"data set voc07: {home / parts[2]} cannot be read ({error}); extract {_ARCHIVE} again"
        ) from error
    for folder, suffix in ((parts[0], ".jpg"), (parts[1], ".xml")):
        there = {path.name for path in (home / folder).iterdir()}
        missing = [number + suffix for number in numbers if number + suffix not in there]
        if missing:
            raise ValueError(
                f"data set voc07: {len(missing)} of the {len(numbers)} photos in {parts[2]} have no file in "
                f"{home / folder} ({some(missing)}); extract {_ARCHIVE} again"
            )
    samples = tuple(sample for number in numbers for sample in _samples(home, number, table))
    if not samples:
        raise ValueError(f"data set voc07: no class of the table is in the {len(numbers)} photos of {home / parts[2]}")
    own = len(VOC_CLASSES) if classes is None else None
    return PhotoFiles(name="voc07", root=root, samples=samples, has_regions=True, classes=own)


def _samples(home: Path, number: str, table: ClassTable) -> list[Sample]:
    path = home / "Annotations" / f"{number}.xml"
    note = read_annotation(path)
    if note.filename != f"{number}.jpg":
        raise ValueError(f"annotation {path} is of the photo {note.filename!r}; {number}.jpg was expected")
    samples = []
    present = sorted({marked.name for marked in note.objects})
    for name in present:
        if class_index(name, table, where=f"annotation {path}") == LEFT_OUT:
            continue
        if all(marked.difficult for marked in note.objects if marked.name == name):
            continue
        boxes = _boxes(note, name)
        area = sum((box.right - box.left) * (box.bottom - box.top) for box in boxes)
        samples.append(
            Sample(
                name=f"{number}.jpg#{name}",
                path=home / "JPEGImages" / f"{number}.jpg",
                label=table[name],
                boxes=boxes,
                difficult=len(present) > 1 and area < note.size[0] * note.size[1] / 4,
                annotated=note.size,
                upright=False,
            )
        )
    return samples


def _boxes(note: Annotation, name: str) -> tuple[Box, ...]:
    corners = (marked.corners for marked in note.objects if marked.name == name)
    return tuple(Box(left - 1, top - 1, right, bottom) for left, top, right, bottom in corners)
