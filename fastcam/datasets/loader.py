"""Batches of views, decoded ahead by worker processes."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .decode import read_bytes
from .views import BadView, View, Views

_BATCHES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class ViewBatch:
    """The views of one batch, in its order; N of its samples could be read.

    indices: of those N in the data set.
    images: uint8 (N, 3, H, W).
    regions: booleans (N, H, W); None where the data set does not tell where classes are.
    photo_regions: N tensors (h, w), where they were asked for.
    bad: the samples that could not be read.
    """

    indices: tuple[int, ...]
    images: Tensor
    regions: Tensor | None
    photo_regions: tuple[Tensor, ...] | None
    bad: tuple[BadView, ...]


@dataclass(frozen=True)
class _Packed:
    """A batch on its way from a worker: few tensors, since each costs a file descriptor."""

    indices: tuple[int, ...]
    images: Tensor
    regions: Tensor | None
    photo_pixels: Tensor | None
    photo_sizes: tuple[tuple[int, int], ...]
    bad: tuple[BadView, ...]


def loader(views: Views, batches: Sequence[Sequence[int]], workers: int = 0) -> Iterator[ViewBatch]:
    """The batches, each a list of indices, in their order; the same to the bit whatever the number of workers.

    workers: processes that decode and resize on the CPU; 0 does it in this process. Where the views are made on a CUDA
        device, that many threads read files ahead.

    Raises:
        ValueError: a batch is empty or has an index that the data set has not.
    """
    for batch in batches:
        if not batch or min(batch) < 0 or max(batch) >= len(views):
            raise ValueError(f"batches: {list(batch)!r} given, lists of indices from 0 to {len(views) - 1} are valid")
    if workers < 0:
        raise ValueError(f"workers: {workers} given, 0 or a positive integer is valid")
    return _on_gpu(views, batches, workers) if views.device.type == "cuda" else _on_cpu(views, batches, workers)


def _on_cpu(views: Views, batches: Sequence[Sequence[int]], workers: int) -> Iterator[ViewBatch]:
    packed: DataLoader[View | BadView] = DataLoader(
        views,
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        collate_fn=_pack,
        prefetch_factor=_BATCHES_AHEAD if workers else None,
        # Its own, or the loader would draw a number from the generator that belongs to the user.
        generator=torch.Generator(),
    )
    for batch in packed:
        yield _unpack(batch)


def _on_gpu(views: Views, batches: Sequence[Sequence[int]], workers: int) -> Iterator[ViewBatch]:
    def read(index: int) -> bytes | Tensor | None:
        sample = views.dataset.samples[index]
        try:
            # One file may hold all photos of a data set.
            stored = views.dataset.pixels(sample)
            return read_bytes(sample.path) if stored is None else stored
        except Exception:
            # Read again, and told, where views are made.
            return None

    with ThreadPoolExecutor(max(workers, 1)) as threads:
        ahead: deque[list[Future[bytes | Tensor | None]]] = deque()
        upcoming = iter(batches)
        for batch in batches:
            while len(ahead) <= _BATCHES_AHEAD and (following := next(upcoming, None)) is not None:
                ahead.append([threads.submit(read, index) for index in following])
            contents = [future.result() for future in ahead.popleft()]
            yield _unpack(_pack(views.views(batch, contents)))


def _pack(views: Sequence[View | BadView]) -> _Packed:
    good = [view for view in views if isinstance(view, View)]
    images = [view.image for view in good]
    regions = [view.region for view in good if view.region is not None]
    photo_regions = [view.photo_region for view in good if view.photo_region is not None]
    return _Packed(
        indices=tuple(view.index for view in good),
        images=torch.stack(images) if images else torch.empty((0, 3, 0, 0), dtype=torch.uint8),
        regions=torch.stack(regions) if regions else None,
        photo_pixels=torch.cat([region.flatten() for region in photo_regions]) if photo_regions else None,
        photo_sizes=tuple((region.shape[0], region.shape[1]) for region in photo_regions),
        bad=tuple(view for view in views if isinstance(view, BadView)),
    )


def _unpack(packed: _Packed) -> ViewBatch:
    photo_regions = None
    if packed.photo_pixels is not None:
        parts = torch.split(packed.photo_pixels, [height * width for height, width in packed.photo_sizes])
        photo_regions = tuple(part.view(size) for part, size in zip(parts, packed.photo_sizes, strict=True))
    return ViewBatch(
        indices=packed.indices,
        images=packed.images,
        regions=packed.regions,
        photo_regions=photo_regions,
        bad=packed.bad,
    )
