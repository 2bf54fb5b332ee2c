"""The Triton kernel in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import mmap

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam_kernels import unfold_patches as kernel
from tests.ops.test_cam_map import strided
from tests.ops.test_masked_inputs import is_channels_last
from tests.ops.test_unfold_patches import MODES, SIZES, tensors

# Big blocks: the interpreter's time goes by steps, not by elements.
BIG = kernel.UnfoldPatchesConfig(elements=64, rows=64, num_warps=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("image", "crop", "size"), SIZES.values(), ids=SIZES.keys())
def test_kernel_equals_the_reference(
    image: tuple[int, int], crop: tuple[int, int], size: tuple[int, int], mode: str
) -> None:
    images, tops, lefts = tensors(image, crop)
    tops, lefts = tops[2:], lefts[2:]
    actual = kernel.unfold_patches(images, tops, lefts, crop, size, mode, config=BIG)
    expected = reference.unfold_patches(images, tops, lefts, crop, size, mode)
    assert actual.dtype == torch.float64
    assert is_channels_last(actual)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "size"), [(n, m) for n in (1, 2, 3, 5) for m in (1, 2, 3, 7, 10)], ids=str)
def test_every_ratio_of_sides(source: int, size: int, mode: str) -> None:
    # Each cuts the pixels into cells in its own way: cells with none, pixels in front of the first one.
    images, tops, lefts = tensors((source, 4), (source, 2), batch=1)
    arguments = (images, tops[:1], lefts[:1], (source, 2), (size, 3), mode)
    torch.testing.assert_close(
        kernel.unfold_patches(*arguments, config=BIG), reference.unfold_patches(*arguments), rtol=1e-12, atol=1e-12
    )


CONFIGS = {
    "many-strips": kernel.UnfoldPatchesConfig(elements=8, rows=16, num_warps=1),
    "many-bands": kernel.UnfoldPatchesConfig(elements=64, rows=3, num_warps=1),
    "one-row-each": kernel.UnfoldPatchesConfig(elements=32, rows=1, num_warps=1),
    "default": None,
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(("channels", "size"), [(4, (9, 8)), (1, (7, 40)), (4, (3, 5))], ids=str)
def test_how_the_work_is_cut_makes_no_difference(
    channels: int, size: tuple[int, int], config: kernel.UnfoldPatchesConfig | None
) -> None:
    images, tops, lefts = tensors((6, 5), (4, 3), batch=1, channels=channels)
    arguments = (images, tops[2:3], lefts[2:3], (4, 3), size, "bicubic")
    expected = reference.unfold_patches(*arguments)
    actual = kernel.unfold_patches(*arguments, config=config)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


LAYOUTS = {
    "nchw": Tensor.contiguous,
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "strided": strided,
    "expanded": lambda tensor: tensor[:1].expand_as(tensor),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(layout: object) -> None:
    images, tops, lefts = tensors((7, 6), (4, 3))
    images[1] = images[0]
    arguments = (tops[1:2], lefts[1:2], (4, 3), (6, 7), "bicubic")
    actual = kernel.unfold_patches(layout(images), *arguments, config=BIG)
    torch.testing.assert_close(actual, reference.unfold_patches(images, *arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_offsets_with_gaps_in_memory(dtype: torch.dtype) -> None:
    images, tops, lefts = tensors((7, 6), (4, 3), batch=1)
    offsets = torch.stack([tops, lefts], dim=1).to(dtype)
    expected = reference.unfold_patches(images, tops, lefts, (4, 3), (5, 7), "bilinear")
    actual = kernel.unfold_patches(images, offsets[:, 0], offsets[:, 1], (4, 3), (5, 7), "bilinear", config=BIG)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The interpreter cuts float32 to bfloat16 instead of rounding: a whole unit of the last place at 4 and more.
    [(torch.float32, 1e-5), (torch.float16, 2**-9 * 4), (torch.bfloat16, 2**-7 * 4), (torch.float64, 1e-12)],
    ids=str,
)
def test_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    images, tops, lefts = tensors((9, 8), (5, 4), batch=1)
    arguments = (tops[1:3], lefts[1:3], (5, 4), (8, 10), "bicubic")
    images = images.to(dtype)
    actual = kernel.unfold_patches(images, *arguments, config=BIG)
    assert actual.dtype == dtype
    expected = reference.unfold_patches(images.double(), *arguments)
    assert (actual.double() - expected).abs().max() <= tolerance


def test_a_flat_image_stays_flat() -> None:
    images, offsets = torch.full((1, 3, 6, 6), 0.1), torch.tensor([1])
    batch = kernel.unfold_patches(images, offsets, offsets, (4, 4), (11, 9), "bilinear", config=BIG)
    assert torch.equal(batch, torch.full((1, 3, 11, 9), 0.1))
    batch = kernel.unfold_patches(images, offsets, offsets, (4, 4), (11, 9), "bicubic", config=BIG)
    torch.testing.assert_close(batch, torch.full((1, 3, 11, 9), 0.1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_what_lies_around_a_crop_does_not_reach_it(mode: str) -> None:
    images, offsets = torch.full((1, 2, 7, 7), torch.nan), torch.tensor([2])
    images[:, :, 2:5, 2:5] = torch.randn(1, 2, 3, 3)
    batch = kernel.unfold_patches(images, offsets, offsets, (3, 3), (8, 8), mode, config=BIG)
    assert not batch.isnan().any()


@pytest.mark.parametrize(("batch", "patches"), [(0, 4), (2, 0)])
def test_no_images_and_no_patches(batch: int, patches: int) -> None:
    images, tops, lefts = tensors((6, 6), (3, 3), batch=batch)
    actual = kernel.unfold_patches(images, tops[:patches], lefts[:patches], (3, 3), (8, 7), "bicubic")
    assert actual.shape == (0, 3, 8, 7)


def reserved(elements: int) -> Tensor:
    """Return float16 memory of which only the pages that are touched exist."""
    pages = mmap.mmap(-1, 2 * elements, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    return torch.frombuffer(pages, dtype=torch.float16)


FAR = {
    # Strides that fit 32 bits, offsets that do not.
    "image": (2**30, 16, 4, 1),
    "channel": (48, 2**30, 4, 1),
    "row": (1, 64, 2**30, 4),
    "column": (16, 4, 1, 2**30),
}


@pytest.mark.parametrize("strides", FAR.values(), ids=FAR.keys())
def test_offsets_beyond_32_bits(strides: tuple[int, ...]) -> None:
    small, tops, lefts = tensors((4, 4), (3, 3), batch=3)
    memory = reserved(sum(stride * (length - 1) for stride, length in zip(strides, small.shape, strict=True)) + 1)
    images = memory.as_strided(small.shape, strides)
    images.copy_(small)
    assert len(memory) > 2**31
    arguments = (tops[:1] + 1, lefts[:1], (3, 3), (4, 4), "bicubic")
    actual = kernel.unfold_patches(images, *arguments, config=BIG)
    expected = reference.unfold_patches(small.half(), *arguments)
    assert (actual.float() - expected.float()).abs().max() <= 2**-9 * 4


def test_batches_beyond_32_bits() -> None:
    # The plan alone: more than 2^31 numbers, and every size that enters it.
    images = torch.empty(256, 3, 224, 224, dtype=torch.bfloat16, device="meta")
    offsets = torch.empty(36, dtype=torch.int64, device="meta")
    launch, output = kernel.plan(images, offsets, offsets, (124, 124), (322, 322), "bicubic")
    assert output.numel() > 2**31
    assert launch.programs * launch.constants["BLOCK"] * launch.arguments["rows"] >= output.numel()


X, OFFSETS = torch.zeros(2, 3, 8, 9), torch.zeros(4, dtype=torch.int64)
BAD = {
    "images-3d": ((X[0], OFFSETS, OFFSETS, (4, 4), (9, 9)), ValueError, r"images has shape \(3, 8, 9\)"),
    "no-channels": ((X[:, :0], OFFSETS, OFFSETS, (4, 4), (9, 9)), ValueError, "no axis empty but the first"),
    "integers": ((X.int(), OFFSETS, OFFSETS, (4, 4), (9, 9)), TypeError, "images is torch.int32; the kernel takes"),
    "float-offsets": ((X, OFFSETS.float(), OFFSETS, (4, 4), (9, 9)), TypeError, "tops is torch.float32; the kernel"),
    "lengths": ((X, OFFSETS, OFFSETS[:2], (4, 4), (9, 9)), ValueError, r"lefts has shape \(2,\) and tops \(4,\)"),
    "crop-too-large": ((X, OFFSETS, OFFSETS, (9, 4), (9, 9)), ValueError, r"crop is \(9, 4\)"),
    "size-zero": ((X, OFFSETS, OFFSETS, (4, 4), (0, 9)), ValueError, r"size is \(0, 9\)"),
    "size-too-large": ((X, OFFSETS, OFFSETS, (4, 4), (9, 32_768)), ValueError, "sides of 1 to 32767"),
    "devices": ((X, OFFSETS.to("meta"), OFFSETS, (4, 4), (9, 9)), ValueError, "tops is on meta and images on cpu"),
    "meta": (
        (X.to("meta"), OFFSETS.to("meta"), OFFSETS.to("meta"), (4, 4), (9, 9)),
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.unfold_patches(*arguments, "bicubic")


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is 'nearest'; valid: 'bilinear', 'bicubic'"):
        kernel.unfold_patches(X, OFFSETS, OFFSETS, (4, 4), (9, 9), "nearest")


def test_rows_beyond_32_bits_are_refused() -> None:
    image = torch.empty(1).expand(1, 70_000, 4, 4)
    with pytest.raises(ValueError, match=r"with 70000 channels; the kernel takes rows of less than 2\^31"):
        kernel.unfold_patches(image, OFFSETS, OFFSETS, (4, 4), (4, 32_767), "bicubic")
