"""From a photo to the network's input, in two steps: the crop that people look at, and its scaled tensor."""

import re
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.v2.functional import resize

from .placement import Placement

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Which part of a photo the network sees, at which size, and how its pixels are scaled.

    In this order: centre crop to a square of `crop_share` of the short side, resize, centre crop, grey if the network
    takes one channel, then (pixel / 255 - mean) / std per channel.

    Attributes:
        crop_share: share of the short side kept before resizing; None keeps the whole photo.
        resize: an int for the short side, keeping proportions; (height, width) for exactly that; or None.
        crop: (height, width) of the centre crop after resizing, or None.
        mean: per channel, on the scale of 0 to 1: three, or one for a network that takes grey photos.
        std: per channel, on the scale of 0 to 1.
        interpolation: of the resize; photos are always resized with antialiasing.
    """

    resize: int | tuple[int, int] | None = 256
    crop: tuple[int, int] | None = (224, 224)
    crop_share: float | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def placement(self, height: int, width: int) -> Placement:
        """Where the view lies in a photo of height x width.

        Raises:
            ValueError: the resized photo is smaller than the crop.
        """
        first = (0, 0, width, height)
        if self.crop_share is not None:
            side = max(1, round(self.crop_share * min(height, width)))
            left, top = (width - side) // 2, (height - side) // 2
            first = (left, top, left + side, top + side)
            height = width = side
        if isinstance(self.resize, int):
            # torchvision's rule: the short side exactly, the long one rounded down.
            size, short = self.resize, min(height, width)
            height, width = (int(size * side / short) if side != short else size for side in (height, width))
        elif self.resize is not None:
            height, width = self.resize
        resized, second = (height, width), (0, 0, width, height)
        if self.crop is not None:
            down, across = self.crop
            if down > height or across > width:
                raise ValueError(
                    f"a crop of {down}x{across} does not fit into a photo of {height}x{width} "
                    "(height x width, after resizing): enlarge --resize or reduce --crop"
                )
            # torchvision's rule again, with Python's rounding of halves to even.
            left, top = round((width - across) / 2), round((height - down) / 2)
            second = (left, top, left + across, top + down)
        return Placement(first=first, resized=resized, second=second)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every view; None where it depends on the photo."""
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize, int):
            return None if self.crop_share is None else (self.resize, self.resize)
        return self.resize

    @property
    def black(self) -> tuple[float, ...]:
        """The scaled value of a black pixel, per channel."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    def view(self, photo: Image.Image) -> Image.Image:
        """The part of an RGB photo that the network sees, at the network's input size.

        Raises:
            ValueError: the resized photo is smaller than the crop.
        """
        placement = self.placement(photo.height, photo.width)
        photo = photo.crop(placement.first)
        photo = F.resize(photo, list(placement.resized), interpolation=self.interpolation)
        return photo.crop(placement.second)

    def view_pixels(self, pixels: Tensor) -> Tensor:
        """The same for a photo of uint8 (3, h, w), on its device: (3, H, W).

        Within a grey level or two of `view`: Pillow and torch round their filters' weights each in its own way.

        Raises:
            ValueError: the resized photo is smaller than the crop.
        """
        placement = self.placement(*pixels.shape[-2:])
        left, top, right, bottom = placement.first
        pixels = pixels[..., top:bottom, left:right]
        # Pillow resizes across, rounds and clips to 0 ... 255, then down: bicubic overshoots are cut off twice.
        height, width = placement.resized
        for size in ([pixels.shape[-2], width], [height, width]):
            pixels = resize(pixels, size, interpolation=self.interpolation, antialias=True)
        left, top, right, bottom = placement.second
        return pixels[..., top:bottom, left:right].contiguous()

    def tensor(self, view: Image.Image) -> Tensor:
        """The scaled tensor (1, C, H, W), float32, of what `view` returned."""
        return self.scaled(F.pil_to_tensor(view)[None])

    def scaled(self, views: Tensor) -> Tensor:
        """(pixel / 255 - mean) / std of uint8 views (N, 3, H, W), on their device, float32: (N, C, H, W)."""
        pixels = F.convert_image_dtype(views, torch.float32)
        if len(self.mean) == 1:
            pixels = F.rgb_to_grayscale(pixels)
        scaled: Tensor = F.normalize(pixels, mean=list(self.mean), std=list(self.std))
        return scaled

    def changed(
        self, *, resize: int | tuple[int, int] | None = None, crop: int | tuple[int, int] | str | None = None
    ) -> "Preprocessing":
        """The same scaling with another geometry; None leaves a part as it is.

        An exact `resize` (height, width) without a `crop` crops nothing; so does `crop="none"`. `crop_share`
        gives way to its equivalent first, a short side of size / crop_share, cropped to the size.
        """
        if resize is None and crop is None:
            return self
        base = self
        if self.crop_share is not None and self.crop is None and isinstance(self.resize, tuple):
            short = round(min(self.resize) / self.crop_share)
            base = replace(self, crop_share=None, resize=short, crop=self.resize)
        new_resize = base.resize if resize is None else resize
        if crop is None:
            new_crop = None if isinstance(resize, tuple) else base.crop
        elif isinstance(crop, str):
            if crop != "none":
                raise ValueError(f"crop is {crop!r}; valid are a size, (height, width) and 'none'")
            new_crop = None
        else:
            new_crop = (crop, crop) if isinstance(crop, int) else crop
        return replace(base, resize=new_resize, crop=new_crop)


def parse_size(text: str) -> int | tuple[int, int]:
    """A size as the command line takes it: "224" or "224x320" (height x width).

    Raises:
        ValueError: the text is neither, or a number is 0 or above 9999.
    """
    match = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", text.strip().lower())
    if not match:
        raise ValueError(f"size {text!r} is not understood: write a number such as 224, or HEIGHTxWIDTH")
    first, second = match.groups()
    return int(first) if second is None else (int(first), int(second))


def from_transforms(transforms: object) -> Preprocessing:
    """The geometry and scaling of torchvision's `weights.transforms()` for a classifier."""
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size  # type: ignore[attr-defined]
    return Preprocessing(
        resize=resize,
        crop=(crop, crop),
        mean=tuple(transforms.mean),  # type: ignore[attr-defined]
        std=tuple(transforms.std),  # type: ignore[attr-defined]
        interpolation=transforms.interpolation,  # type: ignore[attr-defined]
    )
