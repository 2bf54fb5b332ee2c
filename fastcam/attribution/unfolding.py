"""UCAG: a method's maps of enlarged patches, weighted by confidence and put together where they lie."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.attribution.case import Resolve
from fastcam.attribution.checks import check_batch_size
from fastcam.attribution.explainer import Explainer, Result, check_methods, explanation, overflow
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.method import Evidence, LeftOut, Weighted, Whole
from fastcam.attribution.registry import METHODS
from fastcam.attribution.render import render
from fastcam.network.arguments import DeferredChecks, Targets, check_images, resolve_size, resolve_targets
from fastcam.network.layers import Layer
from fastcam.network.network import Network
from fastcam.network.portions import fitted
from fastcam.ops.maps import upsample

# The paper's crop: 124 pixels of 224, and in proportion at other sizes.
_CROP = Fraction(124, 224)

# Pixels of a forward pass: as many images of 224 x 224 as fill the device, few on a CPU, where they should stay near
# the caches.
_PIXELS = {"cpu": 8 * 224**2, "cuda": 128 * 224**2}

# Numbers that folding may hold at a time beside its result: 256 MiB in float32.
_MOST_FOLDED = 2**26
# Pixels of an enlarged patch: 8192 x 8192. The model's own activations for one are many times that.
_LARGEST = 2**26


@dataclass(frozen=True)
class Grid:
    """Where the patches of an image lie: first rows and columns (P,), the crop's sides, the sides it is enlarged to."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    crop: tuple[int, int]
    size: tuple[int, int]


class Ucag:
    """UCAG around a method or several, for one model: `Ucag(model, method="grad_cam")(images, targets)`.

    Not a method itself, but a wrapper of any: it explains other images (patches) than it is given, so it has no entry
    in `fastcam.methods()`. Keyword arguments are those of `fastcam.ucag`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        method: str | Sequence[str] = "grad_cam",
        patches: int = 6,
        crop: int | tuple[int, int] | None = None,
        scale: float = 2.6,
        batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        self._patches, self._crop = _check_patches(patches), _check_crop(crop)
        check_batch_size(batch_size)
        self._scale, self._batch_size = _check_scale(scale), batch_size
        names = check_methods(method)
        # Methods that answer a patch by many forward passes keep to the same bound.
        if batch_size is not None and any("batch_size" in METHODS[name].options for name in names):
            settings["batch_size"] = batch_size
        self._several_methods = not isinstance(method, str)
        self._explainer = Explainer(model, method=names, **settings)

    def __call__(self, images: Tensor, targets: Targets = None, *, return_info: bool = False) -> Result:
        """Explain images; see `fastcam.ucag`."""
        explained = self.explanations(images, targets, report=return_info)
        results = {name: e if return_info else e.maps for name, e in explained.items()}
        return results if self._several_methods else next(iter(results.values()))

    def explanations(self, images: Tensor, targets: Targets = None, *, report: bool = False) -> dict[str, Explanation]:
        """Explain images by each of the methods that are wrapped; report: as of `Explainer.explanations`."""
        with torch.inference_mode(False), torch.no_grad():
            return self._explain(images, targets, report=report)

    def _explain(self, images: Tensor, targets: Targets, *, report: bool) -> dict[str, Explanation]:
        explainer, checks = self._explainer, DeferredChecks()
        s = explainer.settings
        images = check_images(images, checks)
        resolve_size(s.size, images, (1, 1))
        grid = self.grid(images.shape[2], images.shape[3])
        logits, _ = explainer.network(images, checks).forward(images)
        checks.add_finite(logits, lambda: overflow(s.precision))
        classes, several = resolve_targets(targets, logits, checks)
        found = self.partial_maps(images, classes, grid, checks, report=report)
        checks.add_finite(found.confidences, lambda: overflow(s.precision))
        folded = [[Whole(_fold(maps, found.confidences, grid, images)) for maps in parts] for parts in found.maps]
        maps = [
            [explainer.map(c.method, part, images) for part in parts]
            for c, parts in zip(explainer.chosen, folded, strict=True)
        ]
        explainer.check_maps(maps, checks)
        checks.settle()
        confidences = found.confidences.transpose(1, 2)
        by_method = zip(explainer.chosen, folded, found.left_out, maps, found.layers, strict=True)
        explained = {
            c.method.name: explanation(
                Evidence(logits, classes, parts, left_out),
                of_method,
                [layer.name for layer in at],
                several=several,
                as_list=isinstance(s.layer, list | tuple) and c.method.layer != "none",
            )
            for c, parts, left_out, of_method, at in by_method
        }
        weights = {"confidences": confidences if several else confidences.squeeze(1)}
        return {name: replace(e, left_out={**e.left_out, **weights}) for name, e in explained.items()}

    def grid(self, height: int, width: int) -> Grid:
        """Where the patches of images of that size lie.

        Raises ValueError for a crop that does not fit into them, and for patches too many or too large.
        """
        crop = (_side(height), _side(width)) if self._crop is None else self._crop
        if crop[0] > height or crop[1] > width:
            raise ValueError(
                f"crop: {crop[0]} x {crop[1]} pixels given, at most the images' {height} x {width} is valid; "
                "None takes 124/224 of each side"
            )
        if self._patches > max(height, width):
            raise ValueError(
                f"patches: {self._patches} given, at most {max(height, width)} along each axis is valid for images of "
                f"{height} x {width}; choose fewer"
            )
        largest = math.floor(100 * math.sqrt(_LARGEST / (crop[0] * crop[1]))) / 100
        if self._scale > largest:
            raise ValueError(
                f"scale: {self._scale:g} given, at most {largest} is valid for crops of {crop[0]} x {crop[1]}, so that "
                f"patches have no more than {_LARGEST} pixels; choose a smaller scale or crop"
            )
        tops, lefts = (
            ops.patch_offsets(height, crop[0], self._patches),
            ops.patch_offsets(width, crop[1], self._patches),
        )
        return Grid(
            tops=tuple(top for top in tops for _ in lefts),
            lefts=tuple(lefts * len(tops)),
            crop=crop,
            size=(max(round(crop[0] * self._scale), 1), max(round(crop[1] * self._scale), 1)),
        )

    def partial_maps(
        self,
        images: Tensor,
        targets: Tensor,
        grid: Grid,
        checks: DeferredChecks | None = None,
        *,
        report: bool = False,
    ) -> "PartialMaps":
        """Explain all patches of all images for targets (N, T), one after the other as if they were one long batch.

        checks: where checks of the images' values go; report: whether it is told what was left out.
        """
        # The images are taken as one image of height N H, so that a batch may begin and end with any patch of any.
        explainer = self._explainer
        count, channels, height, width = images.shape
        strip = images.transpose(0, 1).reshape(1, channels, count * height, width)
        tops = (_index(range(0, count * height, height), images)[:, None] + _index(grid.tops, images)).flatten()
        lefts = _index(grid.lefts, images).repeat(count)
        classes = targets.repeat_interleave(len(grid.tops), dim=0)
        confidences: list[Tensor] = []
        maps: list[list[list[Tensor]]] = [[] for _ in explainer.chosen]
        told: list[list[Mapping[str, Sequence[LeftOut]]]] = [[] for _ in explainer.chosen]
        layers: list[list[Layer]] = []
        for chunk in _chunks(len(tops), self._batch_size or fitted(_batch_size(grid, images.device))):
            patches = ops.unfold_patches(strip, tops[chunk], lefts[chunk], grid.crop, grid.size, "bicubic")
            wanted = classes[chunk]
            # Enlarging bicubically may leave the images' range a little: checks of it are for images, once.
            to_settle = DeferredChecks() if layers or checks is None else checks
            network = self._network(patches)
            found = explainer.find(network, patches, _known(wanted), to_settle, given=images, report=report)
            layers = [at for _, at in found]
            confidences.append(_confidence(found[0][0].logits, wanted))
            for (evidence, _), parts, left_out in zip(found, maps, told, strict=True):
                parts.append([_partial(part, grid) for part in evidence.parts])
                left_out.append(evidence.left_out)
        return PartialMaps(
            confidences=_by_image(confidences, count),
            maps=[[_by_image(chunks, count) for chunks in zip(*parts, strict=True)] for parts in maps],
            left_out=[_left_out(chunks, count) for chunks in told],
            layers=layers,
        )

    def _network(self, patches: Tensor) -> Network:
        try:
            return self._explainer.network(patches)
        except ValueError as error:
            size = tuple(patches.shape[2:])
            raise ValueError(
                f"scale: {self._scale} given, which makes patches of {size[0]} x {size[1]} pixels, and the model does "
                f"not take them; choose crop and scale so that round(crop * scale) is a size that it takes ({error})"
            ) from error


@dataclass(frozen=True, eq=False)
class PartialMaps:
    """Of all patches: confidences s (N, P, T), and per method and layer the partial maps (N, P, T, h, w).

    left_out: per method what it skipped in the patches, as `Evidence` has it, with the patches P behind N, or N and T.
    """

    confidences: Tensor
    maps: list[list[Tensor]]
    left_out: list[dict[str, list[LeftOut]]]
    layers: list[list[Layer]]


def _confidence(logits: Tensor, targets: Tensor) -> Tensor:
    """s = exp(p_c), eq. 4: (b, T), in at least float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.softmax(dim=1).gather(1, targets).exp()


def _partial(part: Weighted | Whole, grid: Grid) -> Tensor:
    """A partial map, neither clipped nor normalised: (b, T, h, w), at its own resolution or the crop's if that is less.

    Folding would resize to the crop what it is given; doing so here holds less.
    """
    own = part.activation.shape[2:] if isinstance(part, Weighted) else part.map.shape[2:]
    maps = render(part, own, relu=False, normalize=False)
    return upsample(maps, grid.crop) if own[0] * own[1] > grid.crop[0] * grid.crop[1] else maps


def _fold(maps: Tensor, confidences: Tensor, grid: Grid, images: Tensor) -> Tensor:
    """U = sum_m s_m E_m / D, eq. 5-6: (N, T, H, W) from maps (N, P, T, h, w), some images at a time."""
    size = [images.shape[2], images.shape[3]]
    tops, lefts = _index(grid.tops, images), _index(grid.lefts, images)
    of_an_image = maps.shape[1] * maps.shape[2] * size[0] * size[1]
    groups = _chunks(maps.shape[0], max(_MOST_FOLDED // of_an_image, 1))
    return torch.cat([ops.fold_patches(maps[g], confidences[g], tops, lefts, grid.crop, size) for g in groups])


def _by_image(chunks: Sequence[Tensor], count: int) -> Tensor:
    """Chunks of (N P, ...) as one tensor (N, P, ...)."""
    whole = torch.cat(list(chunks))
    return whole.view(count, -1, *whole.shape[1:])


def _left_out(chunks: Sequence[Mapping[str, Sequence[LeftOut]]], count: int) -> dict[str, list[LeftOut]]:
    """What a method skipped in chunks of patches, by image."""

    def joined(parts: Sequence[LeftOut]) -> LeftOut:
        amounts = [part for part in parts if isinstance(part, Mapping)]
        if amounts:
            return {key: _by_image([part[key] for part in amounts], count).transpose(1, 2) for key in amounts[0]}
        return _by_image([part for part in parts if isinstance(part, Tensor)], count)

    return {
        name: [joined(parts) for parts in zip(*(chunk[name] for chunk in chunks), strict=True)] for name in chunks[0]
    }


def _known(targets: Tensor) -> Resolve:
    """The targets of patches are those of their images, whatever the patches' logits."""
    return lambda _: targets


def _index(values: Sequence[int], images: Tensor) -> Tensor:
    return torch.tensor(values, device=images.device)


def _chunks(total: int, most: int) -> list[slice]:
    """Slices of 0 to total, at most `most` long and as equal as can be."""
    each = math.ceil(total / math.ceil(total / most))
    return [slice(start, min(start + each, total)) for start in range(0, total, each)]


def _batch_size(grid: Grid, device: torch.device) -> int:
    return max(_PIXELS.get(device.type, _PIXELS["cuda"]) // (grid.size[0] * grid.size[1]), 1)


def _side(length: int) -> int:
    return max(round(_CROP * length), 1)


def _check_patches(patches: object) -> int:
    if type(patches) is not int or patches < 1:
        raise ValueError(f"patches: {patches!r} given, a positive integer, the patches along each axis, is valid")
    return patches


def _check_crop(crop: object) -> tuple[int, int] | None:
    if crop is None:
        return None
    sides = tuple(crop) if isinstance(crop, tuple | list) else (crop, crop)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"crop: {crop!r} given, None, a positive integer (pixels of the image) or (height, width) of these is valid"
        )
    return sides


def _check_scale(scale: object) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= sys.float_info.max:
        raise ValueError(f"scale: {scale!r} given, a positive number is valid")
    return float(scale)
