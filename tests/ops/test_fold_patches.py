import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam.ops import fold_patches, patch_offsets, reference
from tests.ops import dense
from tests.ops.test_cam_map import strided

SIZES = {
    # maps, crop, size
    "up": ((3, 4), (8, 7), (13, 12)),
    "same": ((6, 5), (6, 5), (9, 8)),
    "down": ((16, 15), (6, 5), (9, 11)),
    "up-and-down": ((3, 12), (10, 5), (11, 14)),
    "whole-image": ((4, 3), (9, 8), (9, 8)),
    "one-position": ((1, 1), (4, 3), (6, 6)),
    "one-pixel-crop": ((3, 3), (1, 1), (4, 5)),
}


def tensors(
    source: tuple[int, int],
    crop: tuple[int, int],
    size: tuple[int, int],
    *,
    batch: int = 2,
    patches: int = 4,
    targets: int = 2,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return signed maps, confidences and corners of crops that overlap and leave holes."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, patches, targets, *source, generator=generator, dtype=torch.float64)
    confidences = torch.rand(batch, patches, targets, generator=generator, dtype=torch.float64).exp()
    tops, lefts = (
        torch.randint(0, a - b + 1, (patches,), generator=generator) for a, b in zip(size, crop, strict=True)
    )
    return maps, confidences, tops, lefts


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize(("source", "crop", "size"), SIZES.values(), ids=SIZES.keys())
def test_reference_equals_the_formula(
    source: tuple[int, int], crop: tuple[int, int], size: tuple[int, int], targets: int
) -> None:
    arguments = (*tensors(source, crop, size, targets=targets), crop, size)
    actual = reference.fold_patches(*arguments)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, dense.fold_patches(*arguments), rtol=1e-12, atol=1e-12)


def grid() -> tuple[Tensor, Tensor]:
    offsets = torch.tensor(patch_offsets(23, 12, 3))
    return offsets.repeat_interleave(3), offsets.repeat(3)


@pytest.mark.parametrize(
    ("maps_dtype", "confidences_dtype", "expected_dtype", "tolerance"),
    [
        (torch.float32, torch.float32, torch.float32, 1e-5),
        (torch.float16, torch.float16, torch.float32, 1e-5),
        (torch.bfloat16, torch.float32, torch.float32, 1e-5),
        (torch.float32, torch.float64, torch.float64, 1e-12),
        (torch.float64, torch.float32, torch.float64, 1e-12),
    ],
    ids=str,
)
def test_operator_equals_the_formula_in_every_dtype(
    maps_dtype: torch.dtype, confidences_dtype: torch.dtype, expected_dtype: torch.dtype, tolerance: float
) -> None:
    maps, confidences, *_ = tensors((5, 4), (12, 12), (23, 23), patches=9)
    arguments = (maps.to(maps_dtype), confidences.to(confidences_dtype), *grid(), [12, 12], [23, 23])
    actual = fold_patches(*arguments)
    assert actual.dtype == expected_dtype
    assert actual.is_contiguous()
    torch.testing.assert_close(actual.double(), dense.fold_patches(*arguments), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "layout", [Tensor.contiguous, strided, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_layouts_and_offset_types_make_no_difference(layout: object, dtype: torch.dtype) -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12))
    expected = fold_patches(maps, confidences, tops, lefts, [8, 7], [13, 12])
    actual = fold_patches(layout(maps), layout(confidences), tops.to(dtype), lefts.to(dtype), [8, 7], [13, 12])
    assert torch.equal(actual, expected)


def test_where_no_crop_lies_there_is_zero() -> None:
    maps, offset = torch.full((1, 1, 1, 2, 2), -3.0), torch.tensor([1])
    folded = fold_patches(maps, torch.full((1, 1, 1), 2.0), offset, offset + 1, [3, 2], [5, 6])
    expected = torch.zeros(1, 1, 5, 6)
    expected[..., 1:4, 2:4] = -6
    assert torch.equal(folded, expected)


def test_duplicates_share_and_keep_their_sign() -> None:
    # Two crops at one place and a third beside them: D is 2, 3 and 1. The public code's D + 1 would show.
    maps = torch.tensor([1.0, -5.0, 8.0]).view(1, 3, 1, 1, 1)
    folded = fold_patches(maps, torch.ones(1, 3, 1), torch.tensor([0, 0, 0]), torch.tensor([0, 0, 2]), [1, 3], [1, 5])
    torch.testing.assert_close(folded, torch.tensor([-2, -2, 4 / 3, 8, 8]).view(1, 1, 1, 5))


def test_nan_stays_where_it_is() -> None:
    maps, confidences, *_ = tensors((12, 12), (12, 12), (23, 23), patches=9)
    maps[1, 4, 0, 2, 3] = torch.nan
    tops, lefts = grid()
    folded = fold_patches(maps, confidences, tops, lefts, [12, 12], [23, 23])
    where = torch.zeros(2, 2, 23, 23, dtype=torch.bool)
    where[1, 0, tops[4] + 2, lefts[4] + 3] = True
    assert torch.equal(folded.isnan(), where)


@pytest.mark.parametrize(("batch", "patches"), [(0, 4), (2, 0)])
def test_no_images_and_no_patches(batch: int, patches: int) -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12), batch=batch, patches=patches)
    folded = fold_patches(maps, confidences, tops, lefts, [8, 7], [13, 12])
    assert torch.equal(folded, torch.zeros(batch, 2, 13, 12, dtype=torch.float64))


corners = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(corners=corners, source=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_ones_fold_to_ones_wherever_a_crop_lies(corners: list[tuple[int, int]], source: tuple[int, int]) -> None:
    tops, lefts = torch.tensor(corners).T
    ones = torch.ones(1, len(corners), 1, *source)
    folded = fold_patches(ones, torch.ones(1, len(corners), 1), tops, lefts, [4, 5], [10, 10])
    covered = torch.zeros(10, 10)
    for top, left in corners:
        covered[top : top + 4, left : left + 5] = 1
    torch.testing.assert_close(folded[0, 0], covered, rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None)
@given(corners=corners, seed=st.integers(0, 2**16), factor=st.floats(-3, 3))
def test_linear_in_maps_and_in_confidences(corners: list[tuple[int, int]], seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tops, lefts = torch.tensor(corners).T
    shape = (1, len(corners), 2)
    first, second = torch.randn(2, *shape, 3, 4, generator=generator, dtype=torch.float64)
    confidences, others = torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    def fold(maps: Tensor, weights: Tensor) -> Tensor:
        return fold_patches(maps, weights, tops, lefts, [4, 5], [10, 10])

    torch.testing.assert_close(
        fold(first + factor * second, confidences), fold(first, confidences) + factor * fold(second, confidences)
    )
    torch.testing.assert_close(
        fold(first, confidences + factor * others), fold(first, confidences) + factor * fold(first, others)
    )


def test_inputs_are_left_alone() -> None:
    maps, confidences, tops, lefts = tensors((6, 5), (6, 5), (6, 5), batch=1, patches=1, targets=1)
    before = maps.clone()
    folded = fold_patches(maps, torch.ones_like(confidences), tops, lefts, [6, 5], [6, 5]).add_(1)
    assert torch.equal(maps, before)
    assert folded.data_ptr() != maps.data_ptr()


def test_autocast_does_not_reach_the_sum() -> None:
    maps, confidences, tops, lefts = tensors((3, 4), (8, 7), (13, 12))
    arguments = (maps.float(), confidences.float(), tops, lefts, [8, 7], [13, 12])
    expected = fold_patches(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fold_patches(*arguments), expected)


@pytest.mark.parametrize("source", [(3, 4), (8, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_opcheck(source: tuple[int, int], dtype: torch.dtype) -> None:
    maps, confidences, tops, lefts = tensors(source, (8, 7), (13, 12))
    torch.library.opcheck(fold_patches, (maps.to(dtype), confidences.to(dtype), tops, lefts, [8, 7], [13, 12]))


def test_fake_tensors_carry_shape_dtype_and_device() -> None:
    with FakeTensorMode():
        offsets = torch.empty(36, dtype=torch.int64, device="cuda")
        maps = torch.empty(2, 36, 5, 10, 10, dtype=torch.bfloat16, device="cuda")
        folded = fold_patches(maps, maps[..., 0, 0], offsets, offsets, [124, 124], [224, 200])
        assert folded.shape == (2, 5, 224, 200)
        assert (folded.dtype, folded.device.type) == (torch.float32, "cuda")


M, S, ZEROS = torch.zeros(2, 4, 3, 5, 5), torch.zeros(2, 4, 3), torch.zeros(4, dtype=torch.int64)
BAD = {
    "maps-4d": (
        (M[0], S, ZEROS, ZEROS, [4, 4], [9, 9]),
        ValueError,
        r"maps has shape \(4, 3, 5, 5\); \(N, P, T, h, w\)",
    ),
    "no-targets": (
        (M[:, :, :0], S[..., :0], ZEROS, ZEROS, [4, 4], [9, 9]),
        ValueError,
        r"maps has shape \(2, 4, 0, 5, 5\)",
    ),
    "confidences": (
        (M, S[..., :1], ZEROS, ZEROS, [4, 4], [9, 9]),
        ValueError,
        r"confidences \(2, 4, 1\) and tops \(4,\)",
    ),
    "patches": ((M, S, ZEROS[:3], ZEROS[:3], [4, 4], [9, 9]), ValueError, r"tops \(3,\)"),
    "lengths": ((M, S, ZEROS, ZEROS[:3], [4, 4], [9, 9]), ValueError, r"lefts has shape \(3,\) and tops \(4,\)"),
    "crop-too-large": ((M, S, ZEROS, ZEROS, [4, 10], [9, 9]), ValueError, r"crop is \(4, 10\); .* image's \(9, 9\)"),
    "size-zero": ((M, S, ZEROS, ZEROS, [4, 4], [0, 9]), ValueError, r"size is \(0, 9\); two positive"),
    "size-of-one": ((M, S, ZEROS, ZEROS, [4, 4], [9]), ValueError, r"size is \(9,\)"),
    "integer-maps": ((M.int(), S, ZEROS, ZEROS, [4, 4], [9, 9]), TypeError, "maps is torch.int32; a floating-point"),
    "integer-confidences": ((M, S.int(), ZEROS, ZEROS, [4, 4], [9, 9]), TypeError, "confidences is torch.int32"),
    "float-offsets": ((M, S, ZEROS.float(), ZEROS, [4, 4], [9, 9]), TypeError, "tops is torch.float32; int64 or int32"),
    "devices": ((M, S.to("meta"), ZEROS, ZEROS, [4, 4], [9, 9]), ValueError, "confidences is on meta and maps on cpu"),
    "too-low": ((M, S, ZEROS + 6, ZEROS, [4, 4], [9, 9]), IndexError, "tops has values from 6 to 6; .* 0 to 5"),
    "negative": ((M, S, ZEROS, ZEROS - 2, [4, 4], [9, 9]), IndexError, "lefts has values from -2 to -2"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.fold_patches(*arguments)
