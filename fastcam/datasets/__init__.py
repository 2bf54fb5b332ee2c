"""Data sets to evaluate explanations on."""

from .classes import COCO_CLASSES, LEFT_OUT, VOC_CLASSES, ClassTable, read_classes
from .fingerprint import Fingerprint, fingerprint
from .loader import ViewBatch, loader
from .opening import DATASETS, open_dataset
from .sample import Box, DataSet, PhotoFiles, Sample
from .views import BadView, View, Views

__all__ = [
    "COCO_CLASSES",
    "DATASETS",
    "LEFT_OUT",
    "VOC_CLASSES",
    "BadView",
    "Box",
    "ClassTable",
    "DataSet",
    "Fingerprint",
    "PhotoFiles",
    "Sample",
    "View",
    "ViewBatch",
    "Views",
    "fingerprint",
    "loader",
    "open_dataset",
    "read_classes",
]
