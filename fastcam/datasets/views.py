"""What the network sees of each sample: the photo, resized and cropped, and the class's region likewise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastcam.models.placement import Placement
from fastcam.models.preprocessing import Preprocessing
from fastcam.photos import PhotoError

from .decode import decode, decode_on_gpu, read_bytes
from .regions import boxes_in_photo, boxes_in_view, mask_in_photo, mask_in_view
from .sample import DataSet, Sample


@dataclass(frozen=True, kw_only=True)
class View:
    """A sample as the network sees it.

    index: of the sample in the data set.
    image: uint8 (3, H, W), not yet scaled (`Preprocessing.scaled`).
    region: booleans (H, W) where the class is; nowhere, if the crop cut it off; None where the data set does not tell.
    photo_region: the same at the photo's own resolution, (h, w) of the part of the photo that the view shows (all of
        it without a crop); None unless asked for. For the pointing game's VOC and COCO protocol: a map resized to
        (h, w) lies on it.
    """

    index: int
    image: Tensor
    region: Tensor | None = None
    photo_region: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class BadView:
    """A sample that cannot be shown, and why."""

    index: int
    name: str
    reason: str


class Views(Dataset[View | BadView]):
    """The views of a data set's samples, by index.

    device: where photos are decoded and resized; a CUDA device does it by nvJPEG, in the main process.
    photo_regions: make `View.photo_region`.

    Raises:
        ValueError: views would differ in size from photo to photo.
    """

    def __init__(
        self,
        dataset: DataSet,
        preprocessing: Preprocessing,
        *,
        device: torch.device | str = "cpu",
        photo_regions: bool = False,
    ) -> None:
        if preprocessing.size is None:
            raise ValueError(
                "the photos of a batch need one size, and resizing the short side alone gives each its own: add a crop "
                "(--crop 224) or give height and width (--resize 224x224)"
            )
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.device = torch.device(device)
        self.photo_regions = photo_regions

    def __len__(self) -> int:
        return len(self.dataset.samples)

    def __getitem__(self, index: int) -> View | BadView:
        """The view of a sample; whatever is wrong with its photo or its mask comes as a BadView."""
        return self.views([index])[0]

    def views(
        self, indices: Sequence[int], contents: Sequence[bytes | Tensor | None] | None = None
    ) -> list[View | BadView]:
        """Several views. contents: files' bytes or stored pixels that have been read already; used on a CUDA device."""
        photos = self._on_gpu(indices, contents) if self.device.type == "cuda" else [self._on_cpu(i) for i in indices]
        return [self._view(index, photo) for index, photo in zip(indices, photos, strict=True)]

    def _on_cpu(self, index: int) -> Tensor | Exception:
        sample = self.dataset.samples[index]
        try:
            stored = self.dataset.pixels(sample)
            return decode(sample.path, upright=sample.upright) if stored is None else stored
        # One damaged file among 50,000 must not end a run, and decoders raise all sorts of exceptions.
        except Exception as error:
            return error

    def _on_gpu(
        self, indices: Sequence[int], contents: Sequence[bytes | Tensor | None] | None
    ) -> list[Tensor | Exception]:
        photos: dict[int, Tensor | Exception] = {}
        files = []
        for place, index in enumerate(indices):
            sample = self.dataset.samples[index]
            try:
                content = None if contents is None else contents[place]
                if content is None:
                    content = self.dataset.pixels(sample)
                if isinstance(content, Tensor):
                    photos[place] = content.to(self.device)
                    continue
                files.append((place, (sample.path, content or read_bytes(sample.path), sample.upright)))
            except Exception as error:
                photos[place] = error
        photos.update(zip((p for p, _ in files), decode_on_gpu([f for _, f in files], self.device), strict=True))
        return [photos[place] for place in range(len(indices))]

    def _view(self, index: int, photo: Tensor | Exception) -> View | BadView:
        sample = self.dataset.samples[index]
        try:
            if isinstance(photo, Exception):
                raise photo
            placement = self.preprocessing.placement(*photo.shape[-2:])
            image = self.preprocessing.view_pixels(photo)
            region, photo_region = self._regions(sample, photo, placement)
            return View(index=index, image=image, region=region, photo_region=photo_region)
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            about = "" if isinstance(error, PhotoError) else f"photo {sample.path}: "
            return BadView(index=index, name=sample.name, reason=f"{about}{reason}")

    def _regions(self, sample: Sample, photo: Tensor, placement: Placement) -> tuple[Tensor | None, Tensor | None]:
        if not self.dataset.has_regions:
            return None, None
        mask = self.dataset.mask(sample)
        height, width = photo.shape[-2:]
        drawn = sample.annotated or ((width, height) if mask is None else (mask.shape[1], mask.shape[0]))
        _check_proportions(drawn, (width, height))
        if mask is not None:
            _check_proportions((mask.shape[1], mask.shape[0]), drawn)
            drawn = mask.shape[1], mask.shape[0]
        scale = width / drawn[0], height / drawn[1]
        if mask is None:
            region = boxes_in_view(sample.boxes, placement, scale)
            whole = boxes_in_photo(sample.boxes, placement.window, scale) if self.photo_regions else None
        else:
            region = mask_in_view(mask, placement, scale)
            whole = mask_in_photo(mask, placement.window, scale) if self.photo_regions else None
        return region, whole


def _check_proportions(drawn: tuple[int, int], photo: tuple[int, int]) -> None:
    """An annotation's (width, height) against the photo's: one is the other scaled, each side to within a pixel."""
    difference = abs(photo[0] * drawn[1] - photo[1] * drawn[0])
    if min(drawn) < 1 or difference > max(sum(drawn), sum(photo)):
        raise ValueError(
            f"its annotation is of a photo of {drawn[0]}x{drawn[1]}, the file has {photo[0]}x{photo[1]} "
            "(width x height)"
        )
