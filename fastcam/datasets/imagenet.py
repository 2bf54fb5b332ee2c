"""ImageNet's validation photos (ILSVRC 2012), sorted into folders by synset or all in one."""

import re
from collections.abc import Sequence
from pathlib import Path

from .annotations import Annotation, read_annotation
from .classes import LEFT_OUT, ClassTable, class_index, imagenet_table
from .folders import check_folder, contents, first_folder, photos_in, some
from .sample import Box, PhotoFiles, Sample

_WNID = re.compile(r"n\d{8}")
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_DEVKIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_PHOTOS = "ILSVRC2012_img_val.tar"
_BOXES = "ILSVRC2012_bbox_val_v3.tgz"


def open_imagenet(root: Path, *, annotations: Path | None = None, classes: ClassTable | None = None) -> PhotoFiles:
    """ILSVRC 2012 val below `root`, in one of the two forms in which people keep it:

    - folders by synset, `n01440764/*.JPEG`: the folder is the class. Part of the classes or of the photos is fine; so
      an archive that was extracted in part is noticed only where a folder is empty.
    - flat, `ILSVRC2012_val_00000001.JPEG` ..., as the archive unpacks it: classes come from the devkit (its ids are
      not the models' indices: meta.mat turns them into WordNet ids) or, without it, from the XML annotations.

    Either lies in `root`, `root/val` or, as Kaggle has it, `root/ILSVRC/Data/CLS-LOC/val`; the devkit in `root` or
    beside the photos. A synset's index is its position among the 1000 sorted WordNet ids, unless `classes` says
    otherwise.

    Boxes come from `annotations`, a folder of XML files, or from where the archives put them: `root/val/*.xml`,
    `root/bbox/val`, `root/Annotations/CLS-LOC/val`, `root/ILSVRC/Annotations/CLS-LOC/val`. Their corners are pixel
    indices from 0 and belong to the box, so that right = xmax + 1.

    Raises:
        ValueError: no photos in either form; empty class folders, or a flat folder with other photos than the ground
            truth (half-extracted archives); a synset without an index; annotations that are missing, unreadable or of
            another class than the photo's.
        ModuleNotFoundError: flat with the devkit, and scipy, which reads meta.mat, is not installed.
    """
    table = imagenet_table() if classes is None else classes
    check_folder(root, name="imagenet")
    folder = _photo_folder(root, table)
    if folder is None:
        raise ValueError(
            f"data set imagenet: {root} holds neither folders such as val/n01440764 nor photos such as "
            f"val/ILSVRC2012_val_00000001.JPEG; found {contents(root)}. Extract {_PHOTOS} into {root / 'val'}"
        )
    xml = _annotation_folder(root, folder, annotations)
    flat = [path for path in photos_in(folder) if _FLAT.fullmatch(path.name)]
    photos = _flat(root, folder, flat, xml) if flat else _sorted(folder, table)
    notes = None if xml is None else _annotations(photos, xml)
    samples = []
    for position, (path, wnid) in enumerate(photos):
        label = class_index(wnid, table, where=f"photo {path}")
        if label != LEFT_OUT:
            note = None if notes is None else notes[position]
            samples.append(
                Sample(
                    name=path.name if path.parent == folder else f"{path.parent.name}/{path.name}",
                    path=path,
                    label=label,
                    boxes=() if note is None else _boxes(note, wnid),
                    annotated=None if note is None else note.size,
                    upright=False,
                )
            )
    if not samples:
        raise ValueError(f"data set imagenet: the class table leaves out every class of {folder}")
    own = len(table) if classes is None else None
    return PhotoFiles(name="imagenet", root=root, samples=tuple(samples), has_regions=notes is not None, classes=own)


def _photo_folder(root: Path, table: ClassTable) -> Path | None:
    places = ("val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "")
    for folder in (root / place for place in places):
        if folder.is_dir() and any(
            _is_class(path.name, table) or _FLAT.fullmatch(path.name) for path in folder.iterdir()
        ):
            return folder
    return None


def _is_class(name: str, table: ClassTable) -> bool:
    return _WNID.fullmatch(name) is not None or name in table


def _sorted(folder: Path, table: ClassTable) -> list[tuple[Path, str]]:
    """Photos with their synsets, in the order of their paths."""
    classes = sorted(path for path in folder.iterdir() if _is_class(path.name, table) and path.is_dir())
    photos = {path.name: photos_in(path) for path in classes}
    empty = [name for name, found in photos.items() if not found]
    if empty:
        raise ValueError(
            f"data set imagenet: {len(empty)} of {len(photos)} class folders in {folder} are empty ({some(empty)}); "
            f"extract {_PHOTOS} again"
        )
    return [(path, name) for name, found in photos.items() for path in found]


def _flat(root: Path, folder: Path, photos: Sequence[Path], xml: Path | None) -> list[tuple[Path, str]]:
    places = (place / name for place in (root, folder, folder.parent) for name in (_DEVKIT, "."))
    devkit = next((place for place in places if (place / "data" / _GROUND_TRUTH).is_file()), None)
    if devkit is None and xml is None:
        raise ValueError(
            f"data set imagenet: {folder} holds {len(photos)} photos and nothing tells their classes; extract "
            f"{_DEVKIT}.tar.gz into {root}, or {_BOXES}, or sort the photos into folders by synset"
        )
    if devkit is None:
        return [(path, "") for path in photos]
    truth = _ground_truth(devkit)
    numbers = {int(match[1]) for path in photos if (match := _FLAT.fullmatch(path.name))}
    missing = sorted(set(range(1, len(truth) + 1)) - numbers)
    beyond = sorted(numbers - set(range(1, len(truth) + 1)))
    if missing or beyond:
        what = f"photo {missing[0]} is missing" if missing else f"photo {beyond[0]} is not in it"
        raise ValueError(
            f"data set imagenet: the ground truth in {devkit} has {len(truth)} lines, {folder} "
            f"{len(photos)} photos ({what}); extract {_PHOTOS} again"
        )
    return list(zip(photos, truth, strict=True))


def _ground_truth(devkit: Path) -> list[str]:
    """The WordNet id of each photo, by number."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ModuleNotFoundError(
            "the devkit's meta.mat is read by scipy, which is not installed: pip install 'fastcam[eval]', or sort the "
            "photos into folders by synset"
        ) from error
    meta, truth = devkit / "data" / "meta.mat", devkit / "data" / _GROUND_TRUTH
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        ids = {int(i): str(wnid) for i, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    # A damaged .mat file raises anything from OSError to zlib.error and scipy's own MatReadError.
    except Exception as error:
        raise ValueError(f"{meta} cannot be read ({error}); extract {_DEVKIT}.tar.gz again") from error
    try:
        return [ids[int(line)] for line in truth.read_text(encoding="ascii").split()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{truth} cannot be read ({error}); extract {_DEVKIT}.tar.gz again") from error
    except KeyError as error:
        raise ValueError(f"{truth} has the class {error}, which is not in {meta}") from error


def _annotation_folder(root: Path, photos: Path, given: Path | None) -> Path | None:
    if given is not None:
        folder = check_folder(given, name="imagenet, annotations")
        inside = first_folder((folder / "Annotations/CLS-LOC/val", folder / "CLS-LOC/val", folder / "val"))
        if not any(folder.glob("*.xml")) and inside is not None:
            folder = inside
        if not any(folder.glob("*.xml")):
            raise ValueError(f"annotations {given}: no XML file there; found {contents(given)}. Extract {_BOXES} there")
        return folder
    places = ("val", "bbox/val", "ILSVRC2012_bbox_val_v3/val", "Annotations/CLS-LOC/val")
    candidates = [root / place for place in (*places, "ILSVRC/Annotations/CLS-LOC/val")]
    return next((folder for folder in (*candidates, photos) if folder.is_dir() and any(folder.glob("*.xml"))), None)


def _annotations(photos: list[tuple[Path, str]], xml: Path) -> list[Annotation]:
    """The annotation of each photo; fills in synsets that only it tells."""
    notes, mismatched = [], []
    there = {path.stem for path in xml.glob("*.xml")}
    missing = [path.name for path, _ in photos if path.stem not in there]
    if missing:
        raise ValueError(
            f"annotations {xml}: {len(missing)} of {len(photos)} photos have none ({some(missing)}); extract {_BOXES} "
            "again, or name the folder that belongs to these photos"
        )
    for position, (path, wnid) in enumerate(photos):
        note = read_annotation(xml / f"{path.stem}.xml")
        names = {marked.name for marked in note.objects}
        if not wnid and len(names) == 1:
            photos[position] = path, names.pop()
        elif wnid not in names:
            mismatched.append(
                f"{path.name} is of {wnid or 'one class'}, its annotation of {some(sorted(names)) or 'none'}"
            )
        notes.append(note)
    if mismatched:
        raise ValueError(
            f"annotations {xml}: {len(mismatched)} of {len(photos)} are of another class than the photo: "
            f"{mismatched[0]}"
        )
    return notes


def _boxes(note: Annotation, wnid: str) -> tuple[Box, ...]:
    corners = (marked.corners for marked in note.objects if marked.name == wnid)
    return tuple(Box(left, top, right + 1, bottom + 1) for left, top, right, bottom in corners)
