"""The Triton kernel in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam_kernels import fold_patches as kernel
from tests.interpreter.test_unfold_patches import reserved
from tests.ops.test_cam_map import strided
from tests.ops.test_fold_patches import SIZES, tensors

# Big blocks: the interpreter's time goes by steps, not by elements.
BIG = kernel.FoldPatchesConfig(rows=32, columns=32)


@pytest.mark.parametrize(("source", "crop", "size"), SIZES.values(), ids=SIZES.keys())
def test_kernel_equals_the_reference(source: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> None:
    arguments = (*tensors(source, crop, size, patches=3), crop, size)
    actual = kernel.fold_patches(*arguments, config=BIG)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, reference.fold_patches(*arguments), rtol=1e-12, atol=1e-12)


CONFIGS = {
    "small-tiles": kernel.FoldPatchesConfig(rows=4, columns=8),
    "two-rows-each": kernel.FoldPatchesConfig(rows=2, columns=16),
    "default": None,
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_how_the_work_is_cut_makes_no_difference(config: kernel.FoldPatchesConfig | None) -> None:
    # Tiles that some crops do not touch, touch by one row or column, or cover.
    maps, confidences, *_ = tensors((3, 4), (5, 6), (9, 14), batch=1, targets=1, patches=5)
    tops, lefts = torch.tensor([0, 4, 4, 3, 0]), torch.tensor([0, 8, 2, 3, 8])
    arguments = (maps, confidences, tops, lefts, (5, 6), (9, 14))
    actual = kernel.fold_patches(*arguments, config=config)
    torch.testing.assert_close(actual, reference.fold_patches(*arguments), rtol=1e-12, atol=1e-12)


LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "strided": strided,
    "patches-outermost": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda tensor: tensor[:, :, :1].expand_as(tensor),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(layout: object) -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12), patches=2)
    maps, confidences = layout(maps), layout(confidences)
    expected = reference.fold_patches(maps, confidences, tops, lefts, (8, 7), (13, 12))
    actual = kernel.fold_patches(maps, confidences, tops, lefts, (8, 7), (13, 12), config=BIG)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_offsets_with_gaps_in_memory(dtype: torch.dtype) -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12), batch=1, targets=1)
    expected = reference.fold_patches(maps, confidences, tops, lefts, (8, 7), (13, 12))
    offsets = torch.stack([tops, lefts], dim=1).to(dtype)
    actual = kernel.fold_patches(maps, confidences, offsets[:, 0], offsets[:, 1], (8, 7), (13, 12), config=BIG)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("maps_dtype", "confidences_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.float16, torch.float64),
    ],
    ids=str,
)
def test_dtypes(maps_dtype: torch.dtype, confidences_dtype: torch.dtype) -> None:
    maps, confidences, *places = tensors((5, 4), (12, 12), (23, 23), batch=1, targets=1, patches=3)
    maps, confidences = maps.to(maps_dtype), confidences.to(confidences_dtype)
    expected = reference.fold_patches(maps.double(), confidences.double(), *places, (12, 12), (23, 23))
    actual = kernel.fold_patches(maps, confidences, *places, (12, 12), (23, 23), config=BIG)
    double = torch.float64 in (maps_dtype, confidences_dtype)
    assert actual.dtype == (torch.float64 if double else torch.float32)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-12 if double else 1e-5)


def test_flat_maps_of_ones_fold_to_ones_and_zeros() -> None:
    ones, offsets = torch.ones(1, 3, 1, 2, 3), torch.tensor([0, 1, 1])
    folded = kernel.fold_patches(ones, ones[..., 0, 0], offsets, offsets, (4, 3), (7, 6), config=BIG)
    expected = torch.zeros(1, 1, 7, 6)
    expected[..., :4, :3] = 1
    expected[..., 1:5, 1:4] = 1
    assert torch.equal(folded, expected)


def test_nan_stays_in_its_patch() -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12), patches=2)
    tops, lefts = torch.tensor([0, 4]), torch.tensor([0, 5])
    maps[1, 1, 0] = torch.nan
    folded = kernel.fold_patches(maps, confidences, tops, lefts, (8, 7), (13, 12), config=BIG)
    where = torch.zeros(2, 2, 13, 12, dtype=torch.bool)
    where[1, 0, 4:12, 5:12] = True
    assert torch.equal(folded.isnan(), where)


@pytest.mark.parametrize(("batch", "patches"), [(0, 4), (1, 0)])
def test_no_images_and_no_patches(batch: int, patches: int) -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12), batch=batch, patches=patches, targets=1)
    folded = kernel.fold_patches(maps, confidences, tops, lefts, (8, 7), (13, 12), config=BIG)
    assert torch.equal(folded, torch.zeros(batch, 1, 13, 12, dtype=torch.float64))


FAR = {
    # Strides that fit 32 bits, offsets that do not.
    "image": (2**30, 64, 16, 4, 1),
    "patch": (64, 2**30, 16, 4, 1),
    "target": (64, 16, 2**30, 4, 1),
    "row": (64, 16, 4, 2**30, 1),
    "column": (64, 16, 4, 1, 2**30),
}


@pytest.mark.parametrize("strides", FAR.values(), ids=FAR.keys())
def test_offsets_beyond_32_bits(strides: tuple[int, ...]) -> None:
    shape = tuple(3 if stride == 2**30 else 2 for stride in strides)
    small, confidences, tops, lefts = tensors(shape[3:], (4, 4), (6, 6), batch=shape[0], patches=shape[1])
    small = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).half()
    confidences = confidences[:, :, :1].expand(shape[:3])
    memory = reserved(sum(stride * (length - 1) for stride, length in zip(strides, shape, strict=True)) + 1)
    assert len(memory) > 2**31
    maps = memory.as_strided(shape, strides)
    maps.copy_(small)
    actual = kernel.fold_patches(maps, confidences, tops, lefts, (4, 4), (6, 6), config=BIG)
    expected = reference.fold_patches(small, confidences, tops, lefts, (4, 4), (6, 6))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


M, S, OFFSETS = torch.zeros(2, 4, 3, 5, 5), torch.zeros(2, 4, 3), torch.zeros(4, dtype=torch.int64)
HUGE = torch.zeros(1).expand(2, 4, 3, 32_768, 5)
BAD = {
    "maps-4d": ((M[0], S, OFFSETS, OFFSETS, (4, 4), (9, 9)), ValueError, r"maps has shape \(4, 3, 5, 5\)"),
    "no-rows": ((M[..., :0, :], S, OFFSETS, OFFSETS, (4, 4), (9, 9)), ValueError, "no axis empty but the first two"),
    "confidences": ((M, S[:1], OFFSETS, OFFSETS, (4, 4), (9, 9)), ValueError, r"confidences \(1, 4, 3\)"),
    "patches": ((M, S, OFFSETS[:3], OFFSETS[:3], (4, 4), (9, 9)), ValueError, r"tops \(3,\)"),
    "lengths": ((M, S, OFFSETS, OFFSETS[:3], (4, 4), (9, 9)), ValueError, r"lefts has shape \(3,\) and tops \(4,\)"),
    "crop-too-large": ((M, S, OFFSETS, OFFSETS, (10, 4), (9, 9)), ValueError, r"crop is \(10, 4\)"),
    "size-zero": ((M, S, OFFSETS, OFFSETS, (4, 4), (0, 9)), ValueError, r"size is \(0, 9\)"),
    "size-too-large": ((M, S, OFFSETS, OFFSETS, (4, 4), (32_768, 9)), ValueError, "sides of 1 to 32767"),
    "maps-too-large": ((HUGE, S, OFFSETS, OFFSETS, (4, 4), (9, 9)), ValueError, r"the maps' is \(32768, 5\)"),
    "integers": ((M.int(), S, OFFSETS, OFFSETS, (4, 4), (9, 9)), TypeError, "maps is torch.int32; the kernel takes"),
    "float-offsets": ((M, S, OFFSETS, OFFSETS.half(), (4, 4), (9, 9)), TypeError, "lefts is torch.float16; the kernel"),
    "devices": ((M, S, OFFSETS, OFFSETS.to("meta"), (4, 4), (9, 9)), ValueError, "lefts is on meta and maps on cpu"),
    "meta": (
        (M.to("meta"), S.to("meta"), OFFSETS.to("meta"), OFFSETS.to("meta"), (4, 4), (9, 9)),
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.fold_patches(*arguments)
