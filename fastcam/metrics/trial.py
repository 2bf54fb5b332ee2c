"""Maps on trial: what several metrics need of the same maps, computed once."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from fastcam.metrics.batch import Batch
from fastcam.metrics.given import check_float, finite
from fastcam.metrics.once import Once
from fastcam.network.arguments import Targets, resolve_targets
from fastcam.ops.maps import min_max_
from fastcam.ops.perturbed_inputs import pixel_rank

# From images (M, C, H, W) and targets (M,) to maps (M, H, W): a `fastcam.Explainer`, for one.
Explain = Callable[[Tensor, Tensor], Tensor]
# Where the class is, per map: (M, H, W) booleans, or a list of M tensors (h, w) at sizes of their own.
Regions = Tensor | Sequence[Tensor]


class Trial(Once):
    """Maps that explain a batch of images, one class each.

    batch: the images, with the model that scores them.
    maps: (N, H, W), or (N, T, H, W) where targets are (N, T): at the images' size, raw or normalised.
    targets: the classes explained, as in `fastcam.explain`; None: the predicted class.
    explain: makes maps of further images by the same method, for metrics that compare maps.
    regions: where the class is; booleans of the maps' shape, or a list with one tensor (h, w) per map.

    Inside, images and classes are spread out: M = N or N T maps (M, H, W), targets (M,), image `owner[m]` for map m.
    """

    def __init__(
        self,
        batch: Batch,
        maps: Tensor,
        targets: Targets = None,
        *,
        explain: Explain | None = None,
        regions: Regions | None = None,
    ) -> None:
        super().__init__()
        if explain is not None and not callable(explain):
            raise TypeError(
                f"explain: {type(explain).__name__} given, None or a function from images (M, C, H, W) and targets "
                "(M,) to maps (M, H, W) is valid"
            )
        self.batch, self.explain = batch, explain
        # Outside inference mode, so that a user's `explain` may record gradients through what it is given.
        with torch.inference_mode(False), torch.no_grad():
            resolved, self.several = self._resolve(targets)
            count, per_image = resolved.shape
            shape = (count, *([per_image] if self.several else []), *batch.images.shape[2:])
            self.maps = check_maps(maps, shape, batch).flatten(0, -3)
            self.targets = resolved.flatten()
            self.owner = torch.arange(count, device=maps.device).repeat_interleave(per_image)
            self.regions = None if regions is None else check_regions(regions, self.maps)

    @cached_property
    def images(self) -> Tensor:
        """The image of each map, (M, C, H, W)."""
        return self.each(self.batch.images)

    @cached_property
    def score(self) -> Tensor:
        """y = p_c(image), (M,)."""
        return self.batch.probabilities[self.owner, self.targets]

    @cached_property
    def normalized(self) -> Tensor:
        """The maps' positive part, min-max scaled to [0, 1]; a map without a positive part stays zero."""
        return min_max_(self.maps.clamp(min=0))

    @cached_property
    def rank(self) -> Tensor:
        """Each pixel's position in the descending order of its map, (M, H, W); of equals the first comes first."""
        return pixel_rank(self.maps)

    def each(self, of_images: Tensor, maps: slice = slice(None)) -> Tensor:
        """Of values (N, ...) of the images those that belong to some of the maps, (m, ...)."""
        return of_images[self.owner[maps]] if self.several else of_images[maps]

    def shaped(self, values: Tensor) -> Tensor:
        """Values (M, ...) as the caller gave the maps: (N, ...) or (N, T, ...)."""
        return values.reshape(len(self.batch.images), -1, *values.shape[1:]) if self.several else values

    def _resolve(self, targets: Targets) -> tuple[Tensor, bool]:
        batch = self.batch
        # Classes that are given need no forward pass: what is asked of the logits is their shape.
        shape = (len(batch.images), batch.classes)
        logits = batch.probabilities if targets is None else batch.images.new_empty(()).expand(shape)
        return resolve_targets(targets, logits, batch.checks)


def check_maps(maps: object, shape: tuple[int, ...], batch: Batch, *, name: str = "maps") -> Tensor:
    """Maps in at least float32. Raises TypeError or ValueError for what does not fit the images."""
    given = check_float(name, maps, f"a float tensor of shape {shape}")
    if tuple(given.shape) != shape:
        raise ValueError(
            f"{name}: shape {tuple(given.shape)} given, {shape} is valid: one map per image and target, at the images' "
            'size (explain with size="input")'
        )
    if given.device != batch.images.device:
        raise ValueError(f"{name}: on {given.device}, but the images are on {batch.images.device}; move one of them")
    return finite(name, given, batch.checks)


def check_regions(regions: object, maps: Tensor) -> Regions:
    """Regions for M maps. Raises TypeError or ValueError for what does not fit them."""
    if isinstance(regions, Tensor) and regions.dtype == torch.bool and regions.dim() >= 3:
        flat = regions.flatten(0, -3)
        if flat.shape == maps.shape and flat.device == maps.device:
            return flat
    elif isinstance(regions, list | tuple) and len(regions) == len(maps):
        planes = [r for r in regions if isinstance(r, Tensor) and r.dtype == torch.bool and r.dim() == 2]
        if len(planes) == len(maps) and all(plane.device == maps.device for plane in planes):
            return planes
    given = f"{regions.dtype} {tuple(regions.shape)}" if isinstance(regions, Tensor) else type(regions).__name__
    raise ValueError(
        f"regions: {given} given, booleans of shape {tuple(maps.shape)} on {maps.device}, or a list of {len(maps)} "
        "boolean tensors (h, w) are valid"
    )
