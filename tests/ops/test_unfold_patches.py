from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam.ops import patch_offsets, reference, unfold_patches
from tests.ops import dense
from tests.ops.test_masked_inputs import is_channels_last

MODES = ["bilinear", "bicubic"]
SIZES = {
    # image, crop, size
    "up": ((9, 8), (5, 4), (13, 11)),
    "same": ((9, 8), (5, 6), (5, 6)),
    "down": ((14, 13), (11, 10), (4, 3)),
    "up-and-down": ((7, 12), (3, 11), (10, 5)),
    "whole-image": ((6, 5), (6, 5), (15, 13)),
    "one-pixel": ((4, 4), (1, 1), (3, 2)),
    "to-one-pixel": ((7, 7), (6, 5), (1, 1)),
    "two-rows": ((5, 5), (2, 3), (9, 9)),
}


def tensors(
    image: tuple[int, int], crop: tuple[int, int], *, batch: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and the corners of four crops, none of them in line with another."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, *image, generator=generator, dtype=torch.float64)
    room = [a - b for a, b in zip(image, crop, strict=True)]
    tops = torch.tensor([0, 6, 15, 1]) % (room[0] + 1)
    lefts = torch.tensor([1, 7, 16, 0]) % (room[1] + 1)
    tops[-1], lefts[-1] = room
    return images, tops, lefts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("image", "crop", "size"), SIZES.values(), ids=SIZES.keys())
def test_reference_equals_the_formula(
    image: tuple[int, int], crop: tuple[int, int], size: tuple[int, int], channels: int, mode: str
) -> None:
    images, tops, lefts = tensors(image, crop, channels=channels)
    actual = reference.unfold_patches(images, tops, lefts, crop, size, mode)
    assert is_channels_last(actual)
    expected = dense.unfold_patches(images, tops, lefts, crop, size, mode)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_crop_is_resized_on_its_own() -> None:
    # A crop in the middle and the same pixels as an image of their own: nothing around it shows.
    images, *_ = tensors((12, 12), (5, 5))
    inner = images[:, :, 4:9, 3:8].clone()
    offset = torch.tensor([0])
    alone = unfold_patches(inner, offset, offset, [5, 5], [13, 13], "bicubic")
    actual = unfold_patches(images, offset + 4, offset + 3, [5, 5], [13, 13], "bicubic")
    assert torch.equal(actual, alone)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # float16 and bfloat16 are rounded once, half a unit of the last place at 4 and more; float32 positions are
    # computed in float32 by PyTorch.
    [(torch.float32, 1e-5), (torch.float16, 2**-10 * 4), (torch.bfloat16, 2**-7 * 4), (torch.float64, 1e-12)],
    ids=str,
)
def test_operator_equals_the_formula_in_every_dtype(dtype: torch.dtype, tolerance: float, mode: str) -> None:
    images, tops, lefts = tensors((9, 11), (6, 7))
    images = images.to(dtype)
    actual = unfold_patches(images, tops, lefts, [6, 7], [16, 18], mode)
    assert actual.dtype == dtype
    assert is_channels_last(actual)
    exact = dense.unfold_patches(images, tops, lefts, (6, 7), (16, 18), mode)
    assert (actual.double() - exact).abs().max() <= tolerance
    if dtype in (torch.float16, torch.bfloat16):
        # Rounded once: nearly every element is the float32 result's rounding.
        once = reference.unfold_patches(images.double(), tops, lefts, (6, 7), (16, 18), mode).to(dtype)
        assert (actual != once).double().mean() < 0.01


LAYOUTS = {
    "nchw": lambda tensor: tensor.contiguous(),
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
    "expanded": lambda tensor: tensor[:1].expand_as(tensor),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_layouts_and_offset_types_make_no_difference(layout: object, dtype: torch.dtype) -> None:
    images, tops, lefts = tensors((9, 11), (6, 7))
    images[1] = images[0]
    expected = unfold_patches(images, tops, lefts, [6, 7], [16, 18], "bicubic")
    actual = unfold_patches(layout(images), tops.to(dtype), lefts.to(dtype), [6, 7], [16, 18], "bicubic")
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("patches", [0, 4])
def test_no_images_and_no_patches(batch: int, patches: int) -> None:
    images, tops, lefts = tensors((6, 6), (3, 3), batch=batch)
    actual = unfold_patches(images, tops[:patches], lefts[:patches], [3, 3], [8, 7], "bicubic")
    assert actual.shape == (batch * patches, 3, 8, 7)
    assert is_channels_last(actual)


@pytest.mark.parametrize("size", [(5, 5), (9, 8)], ids=str)
def test_inputs_are_left_alone(size: tuple[int, int]) -> None:
    # One crop of one image, of the whole of it and at its own size: equal to the image, but no view of it.
    images, offset = torch.randn(1, 3, 5, 5), torch.tensor([0])
    before = images.clone()
    actual = unfold_patches(images, offset, offset, [5, 5], list(size), "bicubic").add_(1)
    assert torch.equal(images, before)
    assert actual.data_ptr() != images.data_ptr()


def test_autocast_does_not_reach_it() -> None:
    images, tops, lefts = tensors((9, 11), (6, 7))
    expected = unfold_patches(images.float(), tops, lefts, [6, 7], [16, 18], "bicubic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(unfold_patches(images.float(), tops, lefts, [6, 7], [16, 18], "bicubic"), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(mode: str, channels: int, dtype: torch.dtype) -> None:
    images, tops, lefts = tensors((6, 6), (4, 3), channels=channels)
    torch.library.opcheck(unfold_patches, (images.to(dtype), tops, lefts, [4, 3], [7, 8], mode))


def test_fake_tensors_carry_shape_dtype_and_format() -> None:
    with FakeTensorMode():
        offsets = torch.empty(36, dtype=torch.int64, device="cuda")
        images = torch.empty(2, 3, 224, 224, dtype=torch.bfloat16, device="cuda")
        batch = unfold_patches(images, offsets, offsets, [124, 124], [322, 322], "bicubic")
        assert batch.shape == (72, 3, 322, 322)
        assert (batch.dtype, batch.device.type) == (torch.bfloat16, "cuda")
        assert is_channels_last(batch)


X, ZEROS = torch.zeros(2, 3, 8, 9), torch.zeros(4, dtype=torch.int64)
BAD = {
    "images-3d": ((X[0], ZEROS, ZEROS, [4, 4], [9, 9], "bicubic"), ValueError, r"images has shape \(3, 8, 9\)"),
    "no-channels": (
        (X[:, :0], ZEROS, ZEROS, [4, 4], [9, 9], "bicubic"),
        ValueError,
        r"images has shape \(2, 0, 8, 9\)",
    ),
    "integer-images": (
        (X.byte(), ZEROS, ZEROS, [4, 4], [9, 9], "bicubic"),
        TypeError,
        "images is torch.uint8; a floating",
    ),
    "float-offsets": (
        (X, ZEROS, ZEROS.float(), [4, 4], [9, 9], "bicubic"),
        TypeError,
        "lefts is torch.float32; int64 or",
    ),
    "lengths": (
        (X, ZEROS, ZEROS[:3], [4, 4], [9, 9], "bicubic"),
        ValueError,
        r"lefts has shape \(3,\) and tops \(4,\)",
    ),
    "offsets-2d": ((X, ZEROS[None], ZEROS[None], [4, 4], [9, 9], "bicubic"), ValueError, r"tops has shape \(1, 4\)"),
    "crop-too-tall": (
        (X, ZEROS, ZEROS, [9, 4], [9, 9], "bicubic"),
        ValueError,
        r"crop is \(9, 4\); .* image's \(8, 9\)",
    ),
    "crop-too-wide": ((X, ZEROS, ZEROS, [4, 10], [9, 9], "bicubic"), ValueError, r"crop is \(4, 10\)"),
    "crop-zero": ((X, ZEROS, ZEROS, [0, 4], [9, 9], "bicubic"), ValueError, r"crop is \(0, 4\)"),
    "crop-of-one": ((X, ZEROS, ZEROS, [4], [9, 9], "bicubic"), ValueError, r"crop is \(4,\)"),
    "size-zero": ((X, ZEROS, ZEROS, [4, 4], [9, 0], "bicubic"), ValueError, r"size is \(9, 0\); two positive"),
    "mode": ((X, ZEROS, ZEROS, [4, 4], [9, 9], "cubic"), ValueError, "mode is 'cubic'; valid: 'bilinear', 'bicubic'"),
    "devices": (
        (X, ZEROS.to("meta"), ZEROS, [4, 4], [9, 9], "bicubic"),
        ValueError,
        "tops is on meta and images on cpu",
    ),
    "too-low": ((X, ZEROS + 5, ZEROS, [4, 4], [9, 9], "bicubic"), IndexError, "tops has values from 5 to 5; .* 0 to 4"),
    "too-far": (
        (X, ZEROS, ZEROS + 6, [4, 4], [9, 9], "bicubic"),
        IndexError,
        "lefts has values from 6 to 6; .* 0 to 5",
    ),
    "negative": ((X, ZEROS, ZEROS - 1, [4, 4], [9, 9], "bicubic"), IndexError, "lefts has values from -1 to -1"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.unfold_patches(*arguments)


def test_offsets_of_the_paper() -> None:
    assert patch_offsets(224, 124, 6) == [0, 20, 40, 60, 80, 100]


def test_halves_go_to_the_even_neighbour() -> None:
    # Halves up would give 1, 3 and 13.
    assert patch_offsets(11, 10, 3) == [0, 0, 1]
    assert patch_offsets(15, 10, 3) == [0, 2, 5]
    assert patch_offsets(35, 10, 3) == [0, 12, 25]
    assert patch_offsets(13, 10, 3) == [0, 2, 3]


def test_few_patches_and_little_room() -> None:
    assert patch_offsets(224, 124, 1) == [0]
    assert patch_offsets(224, 124, 2) == [0, 100]
    assert patch_offsets(7, 7, 4) == [0, 0, 0, 0]
    assert patch_offsets(5, 4, 5) == [0, 0, 0, 1, 1]


@settings(max_examples=100, deadline=None)
@given(crop=st.integers(1, 400), room=st.integers(0, 400), patches=st.integers(2, 40))
def test_offsets_span_the_room_evenly(crop: int, room: int, patches: int) -> None:
    offsets = patch_offsets(crop + room, crop, patches)
    assert (len(offsets), offsets[0], offsets[-1]) == (patches, 0, room)
    assert all(abs(offset - Fraction(i * room, patches - 1)) <= Fraction(1, 2) for i, offset in enumerate(offsets))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((123, 124, 6), "crop is 124; along an axis of length 123 it must be 1 to 123"),
        ((224, 0, 6), "crop is 0; along an axis of length 224 it must be 1 to 224"),
        ((224, 124, 0), "patches is 0; at least 1 is needed"),
    ],
)
def test_impossible_patches_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patch_offsets(*arguments)
