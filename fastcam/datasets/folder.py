"""Any folder of photos, with a folder for each class or without."""

import re
from collections.abc import Sequence
from pathlib import Path

from .classes import LEFT_OUT, ClassTable, class_index, imagenet_table
from .folders import check_folder, contents, is_photo
from .sample import PhotoFiles, Sample


def open_folder(
    root: Path, *, classes: ClassTable | None = None, class_names: Sequence[str] | None = None
) -> PhotoFiles:
    """The photos in `root` and in the folders below it, sorted by their paths; hidden ones are passed over.

    The first folder on a photo's path is its class: looked up in `classes` where that is given; else an index (7), a
    WordNet id (n01440764), or one of the model's `class_names`, with _ for spaces and in any case. Photos in `root`
    itself have no label; neither have any where no folder is a class and no table is given.

    Raises:
        ValueError: no photo is there, or a folder is no class while others are (close names are listed).
    """
    check_folder(root, name="folder")
    relative = [path.relative_to(root) for path in root.rglob("*") if is_photo(path)]
    relative = sorted((path for path in relative if not any(p.startswith(".") for p in path.parts)), key=Path.as_posix)
    if not relative:
        raise ValueError(f"data set folder: no photo in {root} or below; found {contents(root)}")
    labels = _labels(
        sorted({path.parts[0] for path in relative if len(path.parts) > 1}), classes, class_names, where=str(root)
    )
    found = [(path, labels.get(path.parts[0]) if len(path.parts) > 1 else None) for path in relative]
    samples = tuple(
        Sample(name=path.as_posix(), path=root / path, label=label) for path, label in found if label != LEFT_OUT
    )
    if not samples:
        raise ValueError(f"data set folder: the class table leaves out every class of {root}")
    return PhotoFiles(name="folder", root=root, samples=samples, has_regions=False)


def _labels(
    folders: Sequence[str], classes: ClassTable | None, names: Sequence[str] | None, *, where: str
) -> dict[str, int]:
    if classes is not None:
        return {name: class_index(name, classes, where=f"folder of {where}") for name in folders}
    spellings = _spellings(names or ())
    labels = {name: index for name in folders if (index := _index(name, spellings)) is not None}
    unknown = [name for name in folders if name not in labels]
    if labels and unknown:
        # Some folders are classes, so this one was meant to be: a slip of spelling.
        class_index(unknown[0], {**spellings, **dict.fromkeys(labels, 0)}, where=f"folder of {where}")
    return labels


def _spellings(names: Sequence[str]) -> dict[str, int]:
    """Names as folders may have them; of several classes with one name none counts."""
    plain = [_plain(name) for name in names]
    return {name: index for index, name in enumerate(plain) if plain.count(name) == 1}


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _index(folder: str, spellings: dict[str, int]) -> int | None:
    if folder.isdecimal():
        return int(folder)
    if re.fullmatch(r"n\d{8}", folder):
        return imagenet_table().get(folder)
    return spellings.get(_plain(folder))
