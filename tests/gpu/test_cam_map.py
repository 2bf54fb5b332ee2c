"""The compiled kernels on a device, against the reference in float64."""

import pytest
import torch
from torch import Tensor

import fastcam.ops.backend
from fastcam.ops import cam_map, reference
from fastcam.ops.backend import use_backend

SHAPES = {
    # batch, targets, channels, source, size
    "layer2": (3, 1, 512, (28, 28), (224, 224)),
    "layer4": (33, 1, 2048, (7, 7), (224, 224)),
    "layer4-five-targets": (4, 5, 2048, (7, 7), (224, 224)),
    "odd": (2, 3, 37, (5, 9), (61, 43)),
    "down": (2, 2, 48, (56, 56), (20, 31)),
    "one-position": (2, 2, 7, (1, 1), (9, 9)),
    "own-size": (2, 9, 24, (14, 14), (14, 14)),
    "nine-targets-large": (1, 9, 40, (112, 96), (448, 500)),
}
LAYOUTS = {
    "nchw": Tensor.contiguous,
    "nhwc": lambda tensor: tensor.movedim(-3, -1).contiguous().movedim(-1, -3),
    "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 1],
    "misaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def tensors(shape: tuple, per_position: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[int, int]]:
    batch, targets, channels, source, size = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda", "dtype": torch.float64}
    activations = torch.randn(batch, channels, *source, **options)
    weights = torch.randn(batch, targets, channels, *(source if per_position else ()), **options)
    return activations.to(dtype), weights.to(dtype), size


def assert_near(actual: Tensor, expected: Tensor, unit: float) -> None:
    """Compare by two tolerances, in units of rounding: the largest error and the root mean square."""
    error = (actual.double() - expected).abs()
    assert not actual.isnan().any()
    assert error.max() <= 8 * unit
    assert error.square().mean().sqrt() <= 2 * unit


@pytest.mark.parametrize("per_position", [False, True], ids=["per-channel", "per-position"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_raw_maps(shape: tuple, dtype: torch.dtype, layout: object, per_position: bool) -> None:
    activations, weights, size = tensors(shape, per_position, dtype)
    expected = reference.cam_map(activations.double(), weights.double(), size, False, False)
    actual = cam_map(layout(activations), weights, list(size), False, False)
    # Products of unit variance, summed over K in the accumulator's precision; K^(1/2) is the sum's own scale.
    assert_near(actual, expected, torch.finfo(actual.dtype).eps * shape[2] ** 0.5 * 4)


@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_normalised_maps(shape: tuple, dtype: torch.dtype, relu: bool) -> None:
    activations, weights, size = tensors(shape, False, dtype)
    expected = reference.cam_map(activations.double(), weights.double(), size, relu, True)
    actual = cam_map(activations, weights, list(size), relu, True)
    if shape[3] != (1, 1):
        assert actual.amin(dim=(2, 3)).eq(0).all()
        assert actual.amax(dim=(2, 3)).eq(1).all()
    assert_near(actual, expected, torch.finfo(actual.dtype).eps * 32)


def test_flat_maps_and_nan() -> None:
    activations = torch.rand(3, 4, 7, 7, device="cuda")
    activations[0] = 0.1
    activations[2, 1, 3, 3] = torch.nan
    maps = cam_map(activations, torch.ones(3, 1, 4, device="cuda"), [50, 61], True, True)
    assert maps[0].abs().max() == 0
    assert not maps[1].isnan().any()
    assert maps[2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_agree_bit_for_bit(dtype: torch.dtype) -> None:
    activations, weights, size = tensors(SHAPES["layer4-five-targets"], False, dtype)
    first = cam_map(activations, weights, list(size), True, True)
    for _ in range(20):
        assert torch.equal(cam_map(activations, weights, list(size), True, True), first)


def test_every_element_is_written() -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for shape in SHAPES.values():
            activations, weights, size = tensors(shape, False, torch.float32)
            assert not cam_map(activations, weights, list(size), False, True).isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


def test_offsets_beyond_32_bits() -> None:
    memory = torch.empty(2**31 + 64, dtype=torch.float16, device="cuda")
    activations = memory.as_strided((1, 3, 4, 4), (0, 2**30, 4, 1))
    activations.copy_(torch.randn(3, 4, 4))
    maps = cam_map(activations, torch.ones(1, 1, 3, device="cuda"), [4, 4], False, False)
    torch.testing.assert_close(maps[0, 0], activations[0].float().sum(dim=0))


def test_opcheck() -> None:
    activations, weights, size = tensors(SHAPES["odd"], False, torch.float32)
    torch.library.opcheck(cam_map, (activations, weights, list(size), True, True))


def test_in_a_cuda_graph() -> None:
    activations, weights, size = tensors(SHAPES["layer4"], False, torch.bfloat16)
    cam_map(activations, weights, list(size), True, True)  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        maps = cam_map(activations, weights, list(size), True, True)
    activations.copy_(torch.randn_like(activations))
    graph.replay()
    assert torch.equal(maps, cam_map(activations, weights, list(size), True, True))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcam_kernels import cam_map as kernel

    calls = []
    monkeypatch.setattr(kernel, "cam_map", lambda *args, **keywords: calls.append(1) or args[0].new_zeros(1))
    activations, weights, size = tensors(SHAPES["odd"], False, torch.float32)
    cam_map(activations, weights, list(size), True, True)
    with use_backend("reference"):
        cam_map(activations, weights, list(size), True, True)
    assert fastcam.ops.backend.current_backend() == "triton"
    assert calls == [1]
