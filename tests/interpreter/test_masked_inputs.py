"""The Triton kernels in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import mmap
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam.ops.maps import flat_tolerance
from fastcam_kernels import masked_inputs as kernel
from tests.ops import dense
from tests.ops.test_masked_inputs import BAD, SIZES, is_channels_last, tensors


def run(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
    **changes: object,
) -> Tensor:
    number = torch.promote_types(torch.promote_types(images.dtype, activations.dtype), torch.float32)
    config = replace(
        kernel.default_config(
            pairs=len(image_index),
            source=tuple(activations.shape[2:]),
            size=tuple(images.shape[2:]),
            colours=images.shape[1],
            item_size=images.element_size(),
            multiprocessors=132,
        ),
        **changes,
    )
    return kernel.masked_inputs(
        images,
        activations,
        image_index,
        channel_index,
        baseline,
        flat_tolerance=flat_tolerance(number),
        config=config,
    )


# Few programs: the interpreter's time goes by steps, not by elements.
BIG = {"pairs": 8, "columns": 64, "parts": 1, "search_rows": 16, "search_columns": 16}
APART = {**BIG, "search_apart": True}
INSIDE = {**BIG, "search_apart": False}
SEARCHES = {"search-inside": INSIDE, "search-apart": APART}


@pytest.mark.parametrize(("colours", "with_baseline"), [(1, False), (3, True)], ids=["grey-zeros", "colour-baseline"])
@pytest.mark.parametrize("config", SEARCHES.values(), ids=SEARCHES.keys())
@pytest.mark.parametrize(("source", "size"), SIZES.values(), ids=SIZES.keys())
def test_kernel_equals_the_reference(
    source: tuple[int, int], size: tuple[int, int], colours: int, config: dict, with_baseline: bool
) -> None:
    *arguments, baseline = tensors(source, size, colours=colours)
    arguments.append(baseline if with_baseline else None)
    actual = run(*arguments, **config)
    assert actual.dtype == torch.float64
    assert is_channels_last(actual)
    torch.testing.assert_close(actual, reference.masked_inputs(*arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("source", "size"), [((n, 2), (m, 5)) for n in (1, 3, 5) for m in (1, 6, 7, 16)], ids=str)
def test_every_ratio_of_sizes(source: tuple[int, int], size: tuple[int, int]) -> None:
    # Each cuts the rows into cells in its own way; a row in the wrong cell is interpolated from the wrong rows.
    *arguments, _ = tensors(source, size, colours=2)
    actual = run(*arguments, None, **INSIDE)
    torch.testing.assert_close(actual, reference.masked_inputs(*arguments, None), rtol=1e-11, atol=1e-11)


CONFIGS = {
    "default": {},
    "parts-inside-cells": {"parts": 4, "columns": 32},
    "more-parts-than-rows": {"parts": 9, "pairs": 8, "columns": 32},
    "one-pair": {"pairs": 1, "parts": 1, "columns": 32},
    "small-blocks": {"pairs": 2, "parts": 2, "columns": 16, "search_rows": 4, "search_columns": 4},
    "small-search-apart": {**APART, "search_rows": 4, "search_columns": 4},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_how_the_work_is_cut_makes_no_difference(config: dict) -> None:
    *arguments, baseline = tensors((2, 3), (7, 8))
    expected = reference.masked_inputs(*arguments, baseline)
    torch.testing.assert_close(run(*arguments, baseline, **config), expected, rtol=1e-12, atol=1e-12)


LAYOUTS = {
    "nchw": lambda tensor: tensor.contiguous(),
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
    "sliced-nhwc": lambda tensor: torch.cat([tensor, tensor], dim=3).contiguous(memory_format=torch.channels_last)[
        ..., 1 : 1 + tensor.shape[3]
    ],
    "strided": lambda tensor: torch.stack([tensor, tensor + 1], dim=-1)[..., 0],
}


# Every layout once for the images, and beside it another one for the baseline.
PAIRED = list(zip(LAYOUTS, [*LAYOUTS][1:] + [*LAYOUTS][:1], strict=True))


@pytest.mark.parametrize(("of_images", "of_baseline"), PAIRED, ids=str)
def test_layouts(of_images: str, of_baseline: str) -> None:
    layout, baseline_layout = LAYOUTS[of_images], LAYOUTS[of_baseline]
    images, activations, *indices, baseline = tensors((2, 3), (6, 8))
    inputs = layout(images), layout(activations), *indices, baseline_layout(baseline)
    expected = reference.masked_inputs(*inputs)
    torch.testing.assert_close(run(*inputs, **INSIDE), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(*inputs, **APART), expected, rtol=1e-12, atol=1e-12)


def test_an_expanded_baseline_and_one_image_for_all() -> None:
    images, activations, image_index, channel_index, _ = tensors((3, 3), (7, 8), batch=1)
    baseline = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64).expand_as(images)
    expected = reference.masked_inputs(images, activations, image_index, channel_index, baseline)
    actual = run(images, activations, image_index, channel_index, baseline, **INSIDE)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("images_dtype", "activations_dtype", "tolerance", "index_dtype"),
    # Rounding to the images' dtype once, at the end. The interpreter cuts float32 off to bfloat16.
    [
        (torch.float32, torch.float32, 1e-6, torch.int64),
        (torch.float32, torch.bfloat16, 1e-6, torch.int64),
        (torch.float32, torch.float64, 1e-7, torch.int64),
        (torch.float16, torch.float16, 2**-11, torch.int64),
        (torch.float16, torch.float32, 2**-11, torch.int32),
        (torch.bfloat16, torch.bfloat16, 2**-7, torch.int32),
    ],
    ids=str,
)
def test_dtypes(
    images_dtype: torch.dtype, activations_dtype: torch.dtype, tolerance: float, index_dtype: torch.dtype
) -> None:
    images, activations, image_index, channel_index, baseline = tensors((4, 4), (9, 10))
    images, baseline, activations = (
        images.to(images_dtype),
        baseline.to(images_dtype),
        activations.to(activations_dtype),
    )
    indices = image_index.to(index_dtype), channel_index.to(index_dtype)
    actual = run(images, activations, *indices, baseline, **INSIDE)
    assert actual.dtype == images_dtype
    expected = dense.masked_inputs(images, activations, *indices, baseline)
    scale = images.double().abs() + baseline.double().abs()
    assert ((actual.double() - expected).abs() <= tolerance * scale[image_index]).all()


@pytest.mark.parametrize("config", SEARCHES.values(), ids=SEARCHES.keys())
@pytest.mark.parametrize("value", [0.1, 12345.678])
def test_a_flat_channel_masks_everything(value: float, config: dict) -> None:
    images, baseline = torch.randn(1, 3, 15, 9), torch.randn(1, 3, 15, 9)
    activations = torch.full((1, 1, 7, 5), value)
    index = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(run(images, activations, index, index, None, **config), torch.zeros_like(images))
    assert torch.equal(run(images, activations, index, index, baseline, **config), baseline)


@pytest.mark.parametrize("config", SEARCHES.values(), ids=SEARCHES.keys())
def test_nan_and_unknown_indices_fill_their_image_and_no_other(config: dict) -> None:
    images, activations = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 3, 3)
    activations[1, 2, 0, 1] = torch.nan
    image_index = torch.tensor([0, 1, 1, 2, -1, 0, 0, 1, 0])
    channel_index = torch.tensor([2, 2, 3, 0, 0, 4, -1, 2**40, 1])
    broken = [1, 3, 4, 5, 6, 7]
    batch = run(images, activations, image_index, channel_index, None, **config)
    whole = [pair for pair in range(9) if pair not in broken]
    assert batch[broken].isnan().all()
    expected = reference.masked_inputs(images, activations, image_index[whole], channel_index[whole], None)
    torch.testing.assert_close(batch[whole], expected)


def test_masks_stay_within_zero_and_one() -> None:
    images = torch.ones(1, 1, 37, 41)
    activations = torch.randn(1, 30, 3, 3) * 1000
    channels = torch.arange(30)
    masks = run(images, activations, channels * 0, channels, None, **{**INSIDE, "pairs": 32})
    assert masks.min() >= 0
    assert masks.max() <= 1
    torch.testing.assert_close(masks.amax(dim=(2, 3)), torch.ones(30, 1), rtol=1e-5, atol=0)
    assert masks.amin(dim=(2, 3)).max() < 1e-5


def test_no_pairs() -> None:
    images, activations, image_index, channel_index, baseline = tensors((3, 3), (6, 6))
    assert run(images, activations, image_index[:0], channel_index[:0], baseline).shape == (0, 3, 6, 6)
    none = run(images[:0], activations[:0], image_index[:0], channel_index[:0], None)
    assert none.shape == (0, 3, 6, 6)


def test_offsets_beyond_32_bits() -> None:
    # Address space alone, of which a few pages are touched. Strides that fit 32 bits, offsets that do not.
    reserved = mmap.mmap(
        -1, 4 * (2**31 + 1024), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    memory = torch.frombuffer(reserved, dtype=torch.float32)
    images, activations, _, _, baseline = (tensor.float() for tensor in tensors((3, 3), (4, 4)))
    indices = torch.tensor([2, 0]), torch.tensor([2, 1])
    expected = reference.masked_inputs(images, activations[:, :3], *indices, baseline)

    def far(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
        view = memory.as_strided(tensor.shape, strides)
        view.copy_(tensor)
        return view

    far_images = far(images, (2**30, 16, 4, 1))
    actual = run(far_images, activations[:, :3], *indices, baseline, **INSIDE)
    torch.testing.assert_close(actual, expected)
    far_colours = far(images, (16, 2**30, 4, 1))
    torch.testing.assert_close(
        run(images, activations[:, :3], *indices, far_colours, **INSIDE)[1:],
        (reference.masked_inputs(images, activations[:, :3], *indices, far_colours)[1:]),
    )
    for strides in ((2**30, 9, 3, 1), (9, 2**30, 3, 1), (9, 27, 2**30, 1), (9, 27, 3, 2**30)):
        far_activations = far(activations[:, :3], strides)
        expected = reference.masked_inputs(images, far_activations, *indices, None)
        for config in SEARCHES.values():
            torch.testing.assert_close(run(images, far_activations, *indices, None, **config), expected)


X, A, INDEX = torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4), torch.zeros(6, dtype=torch.int64)
KERNEL_BAD = {
    **{name: case for name, case in BAD.items() if case[1] is not IndexError and name != "integer-images"},
    "integer-images": ((X.byte(), A, INDEX, INDEX, None), TypeError, "images is torch.uint8; the kernel takes"),
    "no-images": ((X[:0], A[:0], INDEX, INDEX, None), ValueError, "image_index has 6 entries, but images has no"),
    "side-too-large": (
        (X[..., :1].expand(2, 3, 8, 32_768), A, INDEX, INDEX, None),
        ValueError,
        "sides of 1 to 32767",
    ),
    "row-too-long": (
        (X[:, :1, :1, :1].expand(2, 2**17, 1, 16_384), A, INDEX, INDEX, None),
        ValueError,
        r"C \* W up to 2\^30",
    ),
    "meta": ((*(t.to("meta") for t in (X, A, INDEX, INDEX)), None), ValueError, "the tensors are on meta"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), KERNEL_BAD.values(), ids=KERNEL_BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.masked_inputs(*arguments, flat_tolerance=0.0)
