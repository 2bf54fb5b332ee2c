"""What a study names, opened: its data set and its models, alike for the runner and for whoever looks again later."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from fastcam.datasets.opening import open_dataset
from fastcam.datasets.sample import DataSet
from fastcam.evaluation.study import ModelSpec, Study
from fastcam.models.loading import LoadedModel, imagenet_class_names, load_model
from fastcam.models.preprocessing import parse_size


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a study's data set lies: its folder, and the files beside it that `open_dataset` was told of."""

    root: Path
    annotations: Path | None = None
    classes: Path | None = None

    def noted(self) -> dict[str, str]:
        """As a run notes it: absolute paths, those that are given."""
        return {key: str(path.resolve()) for key, path in vars(self).items() if path is not None}


def place_noted(noted: Mapping[str, Any], **instead: Path | None) -> Place:
    """The place that a run has noted; `instead` by the names of `Place`, None for what lies where it lay."""
    paths = {each.name: Path(noted[each.name]) for each in fields(Place) if noted.get(each.name)}
    return Place(**{**paths, **{key: path for key, path in instead.items() if path is not None}})


def open_data(study: Study, place: Place) -> DataSet:
    """The study's data set; raises what `open_dataset` raises."""
    # Folders of photos may be called as ImageNet's classes are, where the models' classes are these.
    names = None if any(":" in model.name for model in study.models) else imagenet_class_names()
    return open_dataset(
        study.dataset, place.root, annotations=place.annotations, classes=place.classes, class_names=names
    )


def open_model(spec: ModelSpec, device: torch.device) -> LoadedModel:
    """A study's model on its device, with the view of a photo that the study gives it; raises what loading raises."""
    loaded = load_model(spec.name, weights=spec.weights)
    resize = None if spec.resize is None else parse_size(spec.resize)
    crop = "none" if spec.crop == "none" else None if spec.crop is None else parse_size(spec.crop)
    preprocessing = loaded.preprocessing.changed(resize=resize, crop=crop)
    return replace(loaded, model=loaded.model.to(device), preprocessing=preprocessing)
