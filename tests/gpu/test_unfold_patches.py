"""The compiled kernel on a device, against the reference in float64."""

import pytest
import torch
from torch import Tensor

from fastcam.ops import patch_offsets, reference, unfold_patches
from fastcam.ops.backend import use_backend

SHAPES = {
    # batch, channels, image, crop, size
    "paper": (2, 3, (224, 224), (124, 124), (322, 322)),
    "one-image": (1, 3, (224, 224), (124, 124), (322, 322)),
    "aligned-rows": (3, 3, (224, 224), (124, 124), (224, 224)),
    "odd": (2, 3, (61, 43), (37, 29), (75, 91)),
    "down": (2, 3, (96, 100), (80, 90), (31, 20)),
    "far-down": (1, 3, (200, 200), (190, 180), (7, 9)),
    "one-channel": (2, 1, (50, 60), (20, 30), (64, 64)),
    "many-channels": (1, 37, (20, 20), (11, 12), (23, 21)),
    "own-size": (2, 3, (64, 64), (32, 48), (32, 48)),
    "one-pixel": (2, 3, (9, 9), (1, 1), (5, 7)),
}
LAYOUTS = {
    "nchw": Tensor.contiguous,
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 1],
    "misaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MODES = ["bilinear", "bicubic"]


def tensors(shape: tuple, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, list[int], list[int]]:
    batch, channels, image, crop, size = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    images = torch.randn(batch, channels, *image, generator=generator, device="cuda", dtype=torch.float64).to(dtype)
    tops = torch.tensor(patch_offsets(image[0], crop[0], 3), device="cuda").repeat_interleave(3)
    lefts = torch.tensor(patch_offsets(image[1], crop[1], 3), device="cuda").repeat(3)
    return images, tops, lefts, list(crop), list(size)


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare by two tolerances, in roundings of the result: the largest error and the root mean square."""
    assert not actual.isnan().any()
    error = (actual.double() - expected).abs()
    scale = expected.abs().max()
    if dtype in (torch.float16, torch.bfloat16):
        # Rounded once: half a unit of the last place, and float32's own errors.
        unit = torch.finfo(dtype).eps
        assert (error <= 0.501 * unit * expected.abs() + 1e-5 * scale + torch.finfo(dtype).tiny).all()
        assert error.square().mean().sqrt() <= 0.3 * unit * expected.square().mean().sqrt() + 1e-6 * scale
    else:
        unit = torch.finfo(dtype).eps
        assert error.max() <= 16 * unit * scale
        assert error.square().mean().sqrt() <= 2 * unit * scale


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_crops(shape: tuple, dtype: torch.dtype, layout: object, mode: str) -> None:
    images, *arguments = tensors(shape, dtype)
    expected = reference.unfold_patches(images.double(), *arguments, mode)
    actual = unfold_patches(layout(images), *arguments, mode)
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert_near(actual, expected, dtype)


@pytest.mark.parametrize("mode", MODES)
def test_int32_offsets_in_a_tensor_of_both(mode: str) -> None:
    images, tops, lefts, crop, size = tensors(SHAPES["odd"], torch.float32)
    offsets = torch.stack([tops, lefts], dim=1).int()
    actual = unfold_patches(images, offsets[:, 0], offsets[:, 1], crop, size, mode)
    assert torch.equal(actual, unfold_patches(images, tops, lefts, crop, size, mode))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_agree_bit_for_bit(dtype: torch.dtype) -> None:
    arguments = tensors(SHAPES["paper"], dtype)
    first = unfold_patches(*arguments, "bicubic")
    for _ in range(20):
        assert torch.equal(unfold_patches(*arguments, "bicubic"), first)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_is_written(dtype: torch.dtype) -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for shape in SHAPES.values():
            assert not unfold_patches(*tensors(shape, dtype), "bicubic").isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_lies_around_a_crop_does_not_reach_it() -> None:
    images, offset = torch.full((1, 3, 30, 30), torch.nan, device="cuda"), torch.tensor([7], device="cuda")
    images[:, :, 7:20, 7:20] = torch.randn(1, 3, 13, 13, device="cuda")
    assert not unfold_patches(images, offset, offset, [13, 13], [40, 40], "bicubic").isnan().any()


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_image_offsets_beyond_32_bits(axis: int) -> None:
    strides = [48, 16, 4, 1]
    strides[axis] = 2**30
    images = torch.empty(3 * 2**30 + 256, dtype=torch.float16, device="cuda").as_strided((4, 3, 4, 4), strides)
    small = torch.randn(4, 3, 4, 4, device="cuda").half()
    images.copy_(small)
    offset = torch.tensor([0, 1], device="cuda")
    arguments = (offset, offset, [3, 3], [8, 8], "bicubic")
    assert torch.equal(unfold_patches(images, *arguments), unfold_patches(small, *arguments))


def test_batches_beyond_32_bits() -> None:
    images = torch.randn(256, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
    offsets = torch.tensor(patch_offsets(224, 124, 6), device="cuda")
    tops, lefts = offsets.repeat_interleave(6), offsets.repeat(6)
    batch = unfold_patches(images, tops, lefts, [124, 124], [322, 322], "bicubic")
    assert batch.numel() > 2**31
    last = unfold_patches(images[-1:], tops, lefts, [124, 124], [322, 322], "bicubic")
    assert torch.equal(batch[-36:], last)


def test_opcheck() -> None:
    torch.library.opcheck(unfold_patches, (*tensors(SHAPES["odd"], torch.float32), "bicubic"))


def test_in_a_cuda_graph() -> None:
    images, *arguments = tensors(SHAPES["paper"], torch.bfloat16)
    unfold_patches(images, *arguments, "bicubic")  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = unfold_patches(images, *arguments, "bicubic")
    images.copy_(torch.randn_like(images))
    graph.replay()
    assert torch.equal(batch, unfold_patches(images, *arguments, "bicubic"))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcam_kernels import unfold_patches as kernel

    calls = []
    monkeypatch.setattr(kernel, "unfold_patches", lambda *args: calls.append(1) or args[0].new_zeros(1))
    arguments = tensors(SHAPES["odd"], torch.float32)
    unfold_patches(*arguments, "bicubic")
    with use_backend("reference"):
        unfold_patches(*arguments, "bicubic")
    assert calls == [1]
