"""The compiled kernel on a device, against the reference in float64."""

import pytest
import torch
from torch import Tensor

from fastcam.ops import fold_patches, patch_offsets, reference
from fastcam.ops.backend import use_backend

SHAPES = {
    # batch, patches per axis, targets, maps, crop, size
    "relevance": (2, 6, 1, (322, 322), (124, 124), (224, 224)),
    "layer": (33, 6, 1, (10, 10), (124, 124), (224, 224)),
    "five-targets": (3, 6, 5, (11, 10), (124, 124), (224, 224)),
    "odd": (2, 3, 3, (5, 9), (31, 20), (61, 43)),
    "holes": (2, 2, 2, (4, 4), (10, 12), (40, 50)),
    "one-position": (2, 2, 2, (1, 1), (9, 9), (12, 12)),
    "own-size": (1, 4, 2, (20, 24), (20, 24), (50, 50)),
    "whole-image": (2, 1, 1, (7, 7), (64, 48), (64, 48)),
}
LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "patches-outermost": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 1],
    "misaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def tensors(shape: tuple, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int], list[int]]:
    batch, side, targets, source, crop, size = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda", "dtype": torch.float64}
    maps = torch.randn(batch, side**2, targets, *source, **options)
    confidences = torch.rand(batch, side**2, targets, **options).exp()
    tops = torch.tensor(patch_offsets(size[0], crop[0], side), device="cuda").repeat_interleave(side)
    lefts = torch.tensor(patch_offsets(size[1], crop[1], side), device="cuda").repeat(side)
    return maps.to(dtype), confidences.to(dtype), tops, lefts, list(crop), list(size)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Compare by two tolerances, in roundings of the largest value: the largest error and the root mean square."""
    assert not actual.isnan().any()
    error = (actual.double() - expected).abs()
    unit = torch.finfo(actual.dtype).eps * expected.abs().max()
    assert error.max() <= 32 * unit
    assert error.square().mean().sqrt() <= 4 * unit


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_maps(shape: tuple, dtype: torch.dtype, layout: object) -> None:
    maps, confidences, *arguments = tensors(shape, dtype)
    expected = reference.fold_patches(maps.double(), confidences.double(), *arguments)
    actual = fold_patches(layout(maps), layout(confidences), *arguments)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual.is_contiguous()
    assert_near(actual, expected)


def test_ones_fold_to_ones_and_zeros() -> None:
    maps, confidences, tops, lefts, crop, size = tensors(SHAPES["holes"], torch.float32)
    folded = fold_patches(torch.ones_like(maps), torch.ones_like(confidences), tops, lefts, crop, size)
    expected = torch.zeros_like(folded)
    for top, left in zip(tops.tolist(), lefts.tolist(), strict=True):
        expected[..., top : top + crop[0], left : left + crop[1]] = 1
    assert torch.equal(folded, expected)


def test_nan_stays_in_its_patch() -> None:
    maps, confidences, tops, lefts, crop, size = tensors(SHAPES["holes"], torch.float32)
    maps[1, 2, 0] = torch.nan
    folded = fold_patches(maps, confidences, tops, lefts, crop, size)
    where = torch.zeros_like(folded, dtype=torch.bool)
    where[1, 0, tops[2] : tops[2] + crop[0], lefts[2] : lefts[2] + crop[1]] = True
    assert torch.equal(folded.isnan(), where)


def test_int32_offsets_in_a_tensor_of_both() -> None:
    maps, confidences, tops, lefts, crop, size = tensors(SHAPES["odd"], torch.float32)
    offsets = torch.stack([tops, lefts], dim=1).int()
    actual = fold_patches(maps, confidences, offsets[:, 0], offsets[:, 1], crop, size)
    assert torch.equal(actual, fold_patches(maps, confidences, tops, lefts, crop, size))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_agree_bit_for_bit(dtype: torch.dtype) -> None:
    arguments = tensors(SHAPES["five-targets"], dtype)
    first = fold_patches(*arguments)
    for _ in range(20):
        assert torch.equal(fold_patches(*arguments), first)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_is_written(dtype: torch.dtype) -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for shape in SHAPES.values():
            assert not fold_patches(*tensors(shape, dtype)).isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4])
def test_offsets_beyond_32_bits(axis: int) -> None:
    strides = [256, 64, 16, 4, 1]
    strides[axis] = 2**30
    maps = torch.empty(3 * 2**30 + 1024, dtype=torch.float16, device="cuda").as_strided((4, 4, 4, 4, 4), strides)
    small = torch.randn(4, 4, 4, 4, 4, device="cuda").half()
    maps.copy_(small)
    confidences = torch.rand(4, 4, 4, device="cuda")
    tops, lefts = torch.tensor([[0, 3, 5, 2], [4, 0, 1, 5]], device="cuda")
    arguments = (confidences, tops, lefts, [9, 9], [14, 14])
    assert torch.equal(fold_patches(maps, *arguments), fold_patches(small, *arguments))


def test_outputs_beyond_32_bits() -> None:
    maps = torch.randn(1, 1, 1, 3, 3, device="cuda").expand(2, 1, 17, 3, 3)
    confidences, offset = torch.ones(2, 1, 17, device="cuda"), torch.zeros(1, dtype=torch.int64, device="cuda")
    folded = fold_patches(maps, confidences, offset, offset, [8192, 8192], [8192, 8192])
    assert folded.numel() > 2**31
    assert torch.equal(folded[1, 16], folded[0, 0])


def test_opcheck() -> None:
    torch.library.opcheck(fold_patches, tensors(SHAPES["odd"], torch.float32))


def test_in_a_cuda_graph() -> None:
    maps, *arguments = tensors(SHAPES["layer"], torch.bfloat16)
    fold_patches(maps, *arguments)  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        folded = fold_patches(maps, *arguments)
    maps.copy_(torch.randn_like(maps))
    graph.replay()
    assert torch.equal(folded, fold_patches(maps, *arguments))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcam_kernels import fold_patches as kernel

    calls = []
    monkeypatch.setattr(kernel, "fold_patches", lambda *args: calls.append(1) or args[0].new_zeros(1))
    arguments = tensors(SHAPES["odd"], torch.float32)
    fold_patches(*arguments)
    with use_backend("reference"):
        fold_patches(*arguments)
    assert calls == [1]
