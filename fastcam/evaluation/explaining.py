"""A study's methods at a model's layers: their maps, from as few calls as can be."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.attribution import METHODS, Explainer, Explanation, Ucag
from fastcam.evaluation.checks import UCAG, wrapped_name
from fastcam.evaluation.study import MethodSpec
from fastcam.metrics.trial import Explain


@dataclass(frozen=True, eq=False)
class Made:
    """The maps (N, H, W) of one method at one layer, raw; explain: makes maps of further images in the same way."""

    label: str
    layer: str
    maps: Tensor
    explain: Explain


@dataclass(frozen=True, eq=False)
class Explained:
    """What all methods found: probabilities (N, classes), the classes explained (N,), maps."""

    probabilities: Tensor
    targets: Tensor
    made: tuple[Made, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """Methods that one call serves, at layers (None: their own)."""

    model: nn.Module
    specs: tuple[MethodSpec, ...]
    layers: tuple[str, ...] | None
    precision: str | None

    @cached_property
    def generator(self) -> torch.Generator:
        """The source of its random numbers: on the CPU, so that they are the same whatever the device."""
        return torch.Generator()

    @cached_property
    def explainer(self) -> Explainer | Ucag:
        """All of it at once: a dict of results by method."""
        names = [wrapped_name(spec) for spec in self.specs]
        settings: dict[str, Any] = {"normalize": False, "precision": self.precision, **self.specs[0].options}
        if any("generator" in METHODS[name].options for name in names):
            settings["generator"] = self.generator
        if any(METHODS[name].layer != "none" for name in names):
            settings["layer"] = None if self.layers is None else list(self.layers)
        kind = Ucag if self.specs[0].name == UCAG else Explainer
        return kind(self.model, **{**settings, "method": names})

    def __call__(self, images: Tensor, targets: Tensor | None, seed: int) -> tuple[Explanation, list[Made]]:
        """Maps of images (N, C, H, W) for classes (N,), None: the predicted ones."""
        self.generator.manual_seed(seed)
        # Not return_info=True: no row asks what relevance was lost, and finding it out costs half as much again.
        found = self.explainer.explanations(images, targets)
        made = []
        for spec in self.specs:
            explanation = found[wrapped_name(spec)]
            several = isinstance(explanation.maps, list)
            maps = explanation.maps if isinstance(explanation.maps, list) else [explanation.maps]
            layers = explanation.layer if isinstance(explanation.layer, list) else [explanation.layer]
            for position, (layer, of_layer) in enumerate(zip(layers, maps, strict=True)):
                asked = (self.layers[position],) if several and self.layers is not None else self.layers
                made.append(Made(spec.label, layer, of_layer, self._again(spec, asked, seed)))
        return explanation, made

    def _again(self, spec: MethodSpec, layers: tuple[str, ...] | None, seed: int) -> Explain:
        """One method at one layer, on further images, with the same random numbers."""

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            call = Call(self.model, (spec,), layers, self.precision)
            call.generator.manual_seed(seed)
            maps = call.explainer(images, targets)[wrapped_name(spec)]
            only: Tensor = maps[0] if isinstance(maps, list) else maps
            return only

        return explain


def calls_of(
    model: nn.Module, specs: Sequence[MethodSpec], layers: tuple[str, ...] | None, precision: str | None
) -> list[Call]:
    """The methods in as few calls as serve them.

    Methods with options of their own, or with random numbers, are called alone: so no method's maps depend on which
    others the study has.
    """
    shared = [spec for spec in specs if not _needs_its_own(spec, specs)]
    alone = [(spec,) for spec in specs if spec not in shared]
    return [Call(model, group, layers, precision) for group in ([tuple(shared)] if shared else []) + alone]


def explain_all(
    calls: Sequence[Call], labels: Sequence[str], images: Tensor, targets: Tensor | None, seed: int
) -> Explained:
    """The maps of all calls' methods, in the order of `labels`; without targets, of the class that is predicted."""
    made: list[Made] = []
    first: Explanation | None = None
    for call in calls:
        explanation, of_call = call(images, targets, seed)
        if first is None:
            first, targets = explanation, explanation.targets
        made += of_call
    assert first is not None, "a study has at least one method"
    place = {label: position for position, label in enumerate(labels)}
    made.sort(key=lambda m: place[m.label])
    return Explained(first.probabilities, first.targets, tuple(made))


def seed_of(seed: int, first_name: str) -> int:
    """The seed of a batch's random numbers: of the study's seed and the name of the batch's first sample."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{first_name}".encode()).digest()[:7])


def random_labels(specs: Sequence[MethodSpec]) -> list[str]:
    """Methods that draw random numbers: in a smaller batch, which has its own seed and shape, they draw others."""
    return [spec.label for spec in specs if "generator" in METHODS[wrapped_name(spec)].options]


def _needs_its_own(spec: MethodSpec, specs: Sequence[MethodSpec]) -> bool:
    named = [other for other in specs if other.name == spec.name and not other.options]
    return (
        spec.name == UCAG
        or bool(spec.options)
        or "generator" in METHODS[spec.name].options
        # One call tells methods apart by name.
        or named[0] is not spec
    )
