"""From one prepared photo to its maps by several methods, and from those to files."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import fastcam

from .attribution import METHODS
from .class_names import class_title
from .plots import Block, Map, grid_figure, overlay, write_npy, write_png

# Of the figure: more would take minutes to lay out, and nobody could read it.
_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The maps of one photo.

    Attributes:
        maps: raw maps at input size, by (method, layer, class index).
        probabilities: of every class.
        methods: in the order asked for.
        layers: in the order asked for, of the method with most.
        targets: class indices, in the order asked for.
    """

    maps: Mapping[tuple[str, str, int], Map]
    probabilities: NDArray[np.float32]
    methods: tuple[str, ...]
    layers: tuple[str, ...]
    targets: tuple[int, ...]

    @property
    def in_figure(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The layers and classes that the figure shows: the first, as many as are legible as rows, layers x classes."""
        layers = self.layers[:_ROWS]
        return layers, self.targets[: _ROWS // len(layers)]

    def top(self, count: int) -> list[tuple[int, float]]:
        """The most probable classes with their probabilities, the first of equals first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(i), float(self.probabilities[i])) for i in order]


def explain_photo(
    model: nn.Module,
    inputs: Tensor,
    *,
    methods: Mapping[str, Sequence[str] | None],
    targets: Sequence[int] | None,
    precision: str | None = None,
    before: Callable[[str], None] = lambda _: None,
) -> Explained:
    """Raw maps of one input (1, C, H, W) for every method at its layers, and every class.

    Args:
        model: the classifier.
        inputs: one prepared photo.
        methods: the layers of each method; None is the last layer.
        targets: class indices; None is the predicted class.
        precision: as for `fastcam.explain`.
        before: called with the method's name before its maps are made, for showing progress.

    Raises:
        ValueError: whatever `fastcam.explain` finds wrong.
    """
    maps: dict[tuple[str, str, int], Map] = {}
    names: dict[str, list[str]] = {}
    probabilities: Tensor | None = None
    for method, layers in methods.items():
        before(method)
        info = fastcam.explain(
            model,
            inputs,
            method=method,
            targets=None if targets is None else torch.tensor([list(targets)], device=inputs.device),
            layer=None if layers is None else list(layers),
            normalize=False,
            precision=precision,
            return_info=True,
        )
        if targets is None:
            targets = info.targets.flatten().tolist()
        if probabilities is None:
            probabilities = info.probabilities[0]
        names[method] = [info.layer] if isinstance(info.layer, str) else list(info.layer)
        stacks = info.maps if isinstance(info.maps, list) else [info.maps]
        for layer, stack in zip(names[method], stacks, strict=True):
            height, width = stack.shape[-2:]
            for target, values in zip(targets, stack.reshape(-1, height, width), strict=True):
                maps[method, layer, target] = values.float().cpu().numpy()
    if targets is None or probabilities is None:
        raise ValueError("methods is empty: name at least one")
    return Explained(
        maps=maps,
        probabilities=probabilities.float().cpu().numpy(),
        methods=tuple(methods),
        # The method with most layers tells the order; another may be defined at some of them only.
        layers=tuple(dict.fromkeys(name for found in sorted(names.values(), key=len, reverse=True) for name in found)),
        targets=tuple(targets),
    )


def write_pictures(
    folder: Path, *, title: str, view: Image.Image, explained: Explained, names: Sequence[str] | None
) -> None:
    """Write the overlays, the raw maps and the figure of methods x layers into `folder`.

    `METHOD-LAYER-CLASS.png` is an overlay, `METHOD-LAYER-CLASS.npy` the raw map (H, W), float32, both at the
    size of the network's input; `figure.png` shows the overlays of `explained.in_figure`.
    """
    photo = np.asarray(view)
    stems = file_stems(list(explained.maps), names=names)
    overlays = {key: overlay(photo, values, signed=METHODS[key[0]].signed) for key, values in explained.maps.items()}
    for key, values in explained.maps.items():
        write_npy(folder / f"{stems[key]}.npy", values)
        write_png(folder / f"{stems[key]}.png", overlays[key])
    layers, targets = explained.in_figure
    blocks = [
        Block(
            heading=heading(target, explained, names=names),
            cells={(layer, method): picture for (method, layer, t), picture in overlays.items() if t == target},
        )
        for target in targets
    ]
    figure = grid_figure(photo, blocks, rows=layers, columns=explained.methods, title=title)
    write_png(folder / "figure.png", figure)


def heading(target: int, explained: Explained, *, names: Sequence[str] | None) -> str:
    """The class's name, index and probability."""
    index = f" ({target})" if names is not None else ""
    return f"{class_title(target, names)}{index}, probability {explained.probabilities[target]:.3f}"


def file_stems(keys: Sequence[tuple[str, str, int]], *, names: Sequence[str] | None) -> dict[tuple[str, str, int], str]:
    """A file name that any file system takes, for the map of each (method, layer, class index)."""
    stems = []
    for method, layer, target in keys:
        name = "" if names is None else "-" + re.sub(r"[^a-z0-9]+", "-", names[target].lower()).strip("-")[:60]
        stems.append(f"{method}-{re.sub(r'[^A-Za-z0-9_.@-]', '_', layer)}-{target}{name}".rstrip("-"))
    return dict(zip(keys, _distinct(stems, own=stems), strict=True))


def folder_names(photos: Sequence[Path], *, output: Path) -> list[str]:
    """A name in `output` for each photo's folder: its stem; where several share one, with the parent folder's name.

    What is still equal then, and what is the name of a file there (a photo without a suffix, say), is numbered.
    """
    stems = [photo.stem.lower() for photo in photos]
    wanted = []
    for photo, stem in zip(photos, stems, strict=True):
        parent = photo.absolute().parent.name
        wanted.append(f"{parent}-{photo.stem}" if stems.count(stem) > 1 and parent else photo.stem)
    return _distinct(
        wanted,
        own=[photo.stem for photo in photos],
        free=lambda name: (output / name).is_dir() or not (output / name).exists(),
    )


def _distinct(wanted: Sequence[str], *, own: Sequence[str], free: Callable[[str], bool] = lambda _: True) -> list[str]:
    """The names wanted, numbered where they are equal (in case alone, too: some file systems ignore it) or not free.

    own: for each a name that it may have and, numbered, no other gets.
    """
    kept = {name.lower() for name in own}
    taken: set[str] = set()
    result = []
    for name, mine in zip(wanted, own, strict=True):
        candidate, number = name, 1
        while candidate.lower() in taken or (candidate != mine and candidate.lower() in kept) or not free(candidate):
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.lower())
        result.append(candidate)
    return result
