"""What identifies a data set, so that a run is not continued on another one."""

import hashlib
import json
from dataclasses import dataclass

from .sample import DataSet


@dataclass(frozen=True)
class Fingerprint:
    """A data set's name, its number of samples, and a hash over all that is known of them without opening a photo."""

    name: str
    count: int
    sha256: str


def fingerprint(dataset: DataSet) -> Fingerprint:
    """SHA-256 over each sample's name, label, boxes, flag and annotated size, in order; its path takes no part."""
    digest = hashlib.sha256()
    for sample in dataset.samples:
        boxes = [(box.left, box.top, box.right, box.bottom) for box in sample.boxes]
        entry = [sample.name, sample.label, boxes, sample.difficult, sample.annotated, sample.upright]
        digest.update(json.dumps(entry).encode() + b"\n")
    return Fingerprint(dataset.name, len(dataset.samples), digest.hexdigest())
