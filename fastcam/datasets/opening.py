"""Data sets by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastcam.network.arguments import check_choice

from .classes import ClassTable, read_classes
from .coco import open_coco14
from .folder import open_folder
from .imagenet import open_imagenet
from .imagenet_segmentation import open_imagenet_segmentation
from .sample import DataSet
from .voc import open_voc07

DATASETS = ("imagenet", "voc07", "coco14", "imagenet-segmentation", "folder")


def open_dataset(
    name: str,
    root: Path | str,
    *,
    annotations: Path | str | None = None,
    classes: ClassTable | Path | str | None = None,
    class_names: Sequence[str] | None = None,
) -> DataSet:
    """A data set, with its annotations read; photos are opened when they are looked at.

    name: "imagenet" (ILSVRC 2012 val), "voc07" (PASCAL VOC 2007 test), "coco14" (COCO 2014 val),
        "imagenet-segmentation", or "folder" (any photos, in class folders or not).
    root: where it lies, as its archives unpack; each data set's function tells the layouts it knows.
    annotations: ImageNet's folder of XML files or COCO's JSON file, where they lie elsewhere.
    classes: from class names (WordNet ids for ImageNet) to the model's outputs, or a file of them (`read_classes`);
        needed where the model's outputs are not in the data set's own order.
    class_names: the model's, to which "folder" matches its class folders.

    Raises:
        ValueError: an unknown name, or a data set that is missing, half extracted, unreadable or inconsistent.
        ModuleNotFoundError: a package that reads it is not installed.
    """
    check_choice("data set", name, DATASETS)
    root = Path(root)
    marks = None if annotations is None else Path(annotations)
    table = classes if classes is None or isinstance(classes, Mapping) else read_classes(Path(classes))
    if marks is not None and name not in ("imagenet", "coco14"):
        raise ValueError(
            f"annotations: {annotations} given; only imagenet and coco14 have annotations of their own place"
        )
    match name:
        case "imagenet":
            return open_imagenet(root, annotations=marks, classes=table)
        case "voc07":
            return open_voc07(root, classes=table)
        case "coco14":
            return open_coco14(root, annotations=marks, classes=table)
        case "imagenet-segmentation":
            return open_imagenet_segmentation(root, classes=table)
        case _:
            return open_folder(root, classes=table, class_names=class_names)
