"""The Triton kernels in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import mmap
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam.ops.maps import flat_tolerance
from fastcam_kernels import cam_map as kernel
from tests.ops.test_cam_map import SIZES, strided, tensors


def run(activations: Tensor, weights: Tensor, size: tuple[int, int], relu: bool, normalize: bool, **changes) -> Tensor:
    number = torch.promote_types(torch.promote_types(activations.dtype, weights.dtype), torch.float32)
    config = None
    if changes:
        config = replace(
            kernel.default_config(
                batch=activations.shape[0],
                targets=weights.shape[1],
                channels=activations.shape[1],
                source=tuple(activations.shape[2:]),
                size=size,
                channels_last=False,
                item_size=activations.element_size(),
                double=number == torch.float64,
                per_position=weights.ndim == 5,
                multiprocessors=132,
            ),
            **changes,
        )
    return kernel.cam_map(
        activations, weights, size, relu, normalize, flat_tolerance=flat_tolerance(number), config=config
    )


# Big blocks: the interpreter's time goes by steps, not by elements.
BIG = {"targets": 4, "channels": 16, "positions": 64, "rows": 32, "columns": 32, "programs_per_map": 1}


@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "min-max"])
@pytest.mark.parametrize(("source", "size"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(("targets", "per_position"), [(1, False), (3, False), (2, True)], ids=str)
def test_kernel_equals_the_reference(
    source: tuple[int, int],
    size: tuple[int, int],
    targets: int,
    per_position: bool,
    relu: bool,
    normalize: bool,
) -> None:
    activations, weights = tensors(source, targets=targets, per_position=per_position)
    actual = run(activations, weights, size, relu, normalize, **BIG)
    expected = reference.cam_map(activations, weights, size, relu, normalize)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def nhwc(tensor: Tensor) -> Tensor:
    """Return the same values with the channels innermost, whatever stands in front of (K, h, w)."""
    return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)


def between(tensor: Tensor) -> Tensor:
    """Return the same values with rows that do not follow each other, each row contiguous."""
    wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), torch.nan, dtype=tensor.dtype)
    view = wide[..., 2 : 2 + tensor.shape[-1]]
    view.copy_(tensor)
    return view


LAYOUTS = {"nchw": Tensor.contiguous, "nhwc": nhwc, "strided": strided, "rows-apart": between}


@pytest.mark.parametrize("weights_layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("channels", [3, 16])
def test_layouts_of_weights_per_position(layout: object, weights_layout: object, channels: int) -> None:
    activations, weights = tensors((4, 4), targets=2, per_position=True, batch=1, channels=channels)
    expected = reference.cam_map(activations, weights, (4, 4), False, False)
    actual = run(layout(activations), weights_layout(weights), (4, 4), False, False, **BIG)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts_of_weights_per_channel(layout: object) -> None:
    activations, weights = tensors((4, 4), targets=2, per_position=True, channels=16)
    flat_weights = weights[..., 0, 0]
    for one in (flat_weights, strided(flat_weights), flat_weights[:, :1].expand(-1, 2, -1)):
        expected = reference.cam_map(activations, one, (4, 4), False, False)
        actual = run(layout(activations), one, (4, 4), False, False, **BIG)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.float16, 2e-6), (torch.bfloat16, 2e-6), (torch.float64, 1e-13)],
    ids=str,
)
def test_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    activations, weights = tensors((5, 6), targets=2, per_position=False, channels=20)
    activations, weights = activations.to(dtype), weights.to(dtype)
    expected = reference.cam_map(activations.double(), weights.double(), (12, 15), True, True)
    actual = run(activations, weights, (12, 15), True, True, **BIG)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * 20)
    mixed = run(activations, weights.float(), (12, 15), True, True, **BIG)
    torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=2e-6 * 20)


CONFIGS = {
    "one-of-each": {"targets": 1, "channels": 4, "positions": 8, "rows": 4, "columns": 8, "programs_per_map": 1},
    "spread": {"targets": 2, "channels": 16, "positions": 8, "rows": 4, "columns": 8, "programs_per_map": 2},
    "more-programs-than-tiles": {"rows": 16, "columns": 32, "programs_per_map": 3},
    "default": {},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("targets", [1, 3])
def test_how_the_work_is_cut_makes_no_difference(config: dict[str, int], targets: int) -> None:
    activations, weights = tensors((3, 5), targets=targets, per_position=False, batch=1, channels=7)
    expected = reference.cam_map(activations, weights, (9, 11), False, True)
    actual = run(activations, weights, (9, 11), False, True, **config)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("source", "size"), [((n, 2), (m, 3)) for n in (1, 2, 3, 5, 8) for m in (1, 2, 3, 5, 7, 10, 16, 19)], ids=str
)
def test_the_corners_of_the_cells_hold_the_extremes(source: tuple[int, int], size: tuple[int, int]) -> None:
    # Every ratio of sizes cuts the pixels into cells in its own way; a missed corner moves the scale.
    activations, weights = tensors(source, targets=1, per_position=False, batch=1, channels=2)
    expected = reference.cam_map(activations, weights, size, False, True)
    actual = run(activations, weights, size, False, True, **BIG)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("value", [0.1, -0.7, 0.0, 12345.678])
def test_a_flat_map_gives_zeros(value: float) -> None:
    weights = torch.tensor([[[0.3, 0.1, 0.7]]])
    maps = run(torch.full((1, 3, 7, 5), value), weights, (31, 21), False, True, **BIG)
    assert torch.equal(maps, torch.zeros(1, 1, 31, 21))


def test_normalised_maps_span_zero_to_one() -> None:
    activations, weights = tensors((6, 6), targets=2, per_position=False)
    maps = run(activations.float(), weights.float(), (32, 29), True, True, **BIG)
    assert maps.amin(dim=(2, 3)).eq(0).all()
    assert maps.amax(dim=(2, 3)).eq(1).all()


@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
def test_nan_is_not_hidden(relu: bool) -> None:
    activations = torch.rand(2, 3, 4, 4)
    activations[1, 2, 0, 3] = torch.nan
    maps = run(activations, torch.ones(2, 1, 3), (8, 8), relu, True, **BIG)
    assert maps[1].isnan().all()
    assert not maps[0].isnan().any()


def test_no_images() -> None:
    assert run(torch.empty(0, 3, 4, 4), torch.empty(0, 2, 3), (8, 9), True, True).shape == (0, 2, 8, 9)


def test_offsets_beyond_32_bits() -> None:
    # Address space alone, of which a few pages are touched. Strides that fit 32 bits, offsets that do not.
    reserved = mmap.mmap(
        -1, 2 * (2**31 + 64), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    memory = torch.frombuffer(reserved, dtype=torch.float16)
    small, weights = tensors((4, 4), targets=1, per_position=True, batch=1, channels=3)
    activations = memory.as_strided((1, 3, 4, 4), (0, 2**30, 4, 1))
    activations.copy_(small)
    expected = reference.cam_map(activations.clone(), weights, (4, 4), False, False)
    actual = run(activations, weights, (4, 4), False, False, **BIG)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    images = memory.as_strided((3, 1, 4, 4), (2**30, 0, 4, 1))
    actual = run(images, torch.ones(3, 1, 1), (4, 4), False, False, **BIG)
    torch.testing.assert_close(actual, images.float().contiguous())


A, W = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 3)
BAD = {
    "activations-3d": ((A[0], W, (8, 8)), ValueError, r"activations has shape \(3, 4, 4\)"),
    "no-channels": ((A[:, :0], W[..., :0], (8, 8)), ValueError, "no axis but the first may be empty"),
    "weights-2d": ((A, W[0], (8, 8)), ValueError, r"weights has shape \(1, 3\)"),
    "other-channels": ((A, W[..., :2], (8, 8)), ValueError, r"weights has shape \(2, 1, 2\)"),
    "size-zero": ((A, W, (0, 8)), ValueError, r"size is \(0, 8\)"),
    "size-too-large": ((A, W, (8, 32_768)), ValueError, "sides of 1 to 32767"),
    "integers": ((A.int(), W, (8, 8)), TypeError, "activations is torch.int32; the kernel takes float16"),
    "meta": (
        (A.to("meta"), W.to("meta"), (8, 8)),
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
    "devices": ((A, W.to("meta"), (8, 8)), ValueError, "activations is on cpu and weights on meta"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.cam_map(*arguments, True, True, flat_tolerance=0.0)
