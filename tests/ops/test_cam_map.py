import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam.ops import cam_map, reference
from fastcam.ops.maps import min_max_, upsample
from tests.ops import dense

SIZES = {
    "same": ((5, 4), (5, 4)),
    "up": ((7, 7), (32, 32)),
    "up-odd": ((5, 3), (19, 23)),
    "down": ((9, 8), (4, 3)),
    "up-and-down": ((3, 9), (10, 2)),
    "one-source-position": ((1, 1), (4, 5)),
    "one-row": ((1, 6), (3, 11)),
    "one-pixel": ((4, 4), (1, 1)),
}


def tensors(
    source: tuple[int, int], *, targets: int, per_position: bool, batch: int = 2, channels: int = 6
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(batch, channels, *source, generator=generator, dtype=torch.float64)
    positions = source if per_position else ()
    weights = torch.randn(batch, targets, channels, *positions, generator=generator, dtype=torch.float64)
    return activations, weights


def strided(tensor: Tensor) -> Tensor:
    """Return the same values in memory where no axis is contiguous."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), torch.nan, dtype=tensor.dtype)
    view = wide[..., 1::2]
    view.copy_(tensor)
    return view


LAYOUTS = {
    "nchw": lambda tensor: tensor.contiguous(),
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "strided": strided,
}


@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "min-max"])
@pytest.mark.parametrize(("source", "size"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(("targets", "per_position"), [(1, False), (3, False), (2, True)], ids=str)
def test_reference_equals_the_formula(
    source: tuple[int, int],
    size: tuple[int, int],
    targets: int,
    per_position: bool,
    relu: bool,
    normalize: bool,
) -> None:
    activations, weights = tensors(source, targets=targets, per_position=per_position)
    expected = dense.cam_map(activations, weights, size, relu, normalize)
    actual = reference.cam_map(activations, weights, size, relu, normalize)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("per_position", [False, True], ids=["per-channel", "per-position"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The sum is of 24 products of rounded inputs; the inputs themselves are compared as rounded.
    [(torch.float32, 1e-5), (torch.float16, 1e-5), (torch.bfloat16, 1e-5), (torch.float64, 1e-12)],
    ids=str,
)
def test_operator_equals_the_formula_in_every_layout_and_dtype(
    layout: object, per_position: bool, dtype: torch.dtype, tolerance: float
) -> None:
    activations, weights = tensors((6, 5), targets=2, per_position=per_position, channels=24)
    activations, weights = activations.to(dtype), weights.to(dtype)
    expected = dense.cam_map(activations, weights, (13, 17), False, False)
    actual = cam_map(layout(activations), weights, [13, 17], False, False)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=10 * tolerance)


def test_mixed_dtypes_give_the_wider() -> None:
    activations, weights = tensors((4, 4), targets=1, per_position=False)
    assert cam_map(activations.bfloat16(), weights.float(), [4, 4], True, True).dtype == torch.float32
    assert cam_map(activations.bfloat16(), weights, [4, 4], True, True).dtype == torch.float64


@pytest.mark.parametrize("value", [0.1, -0.7, 0.0, 1e-30, 12345.678])
def test_a_flat_map_gives_zeros(value: float) -> None:
    # 0.1 and 12345.678 come out of the interpolation's weights with roundings that min-max must not blow up.
    activations = torch.full((1, 3, 7, 5), value)
    maps = cam_map(activations, torch.tensor([[[0.3, 0.1, 0.7]]]), [61, 43], False, True)
    assert torch.equal(maps, torch.zeros(1, 1, 61, 43))


def test_a_map_that_relu_empties_gives_zeros() -> None:
    activations = torch.rand(1, 3, 4, 4) + 0.1
    maps = cam_map(activations, -torch.ones(1, 1, 3), [8, 8], True, True)
    assert torch.equal(maps, torch.zeros(1, 1, 8, 8))


def test_flatness_is_decided_per_map() -> None:
    activations = torch.stack([torch.ones(4, 4), torch.arange(16.0).view(4, 4)])[None]
    maps = cam_map(activations, torch.eye(2)[None], [9, 9], True, True)
    assert maps[0, 0].abs().max() == 0
    assert (maps[0, 1].min(), maps[0, 1].max()) == (0, 1)


def test_nan_is_not_hidden() -> None:
    activations = torch.rand(2, 3, 4, 4)
    activations[1, 2, 0, 3] = torch.nan
    maps = cam_map(activations, torch.ones(2, 1, 3), [8, 8], True, True)
    assert maps[1].isnan().all()
    assert not maps[0].isnan().any()


def test_no_images() -> None:
    maps = cam_map(torch.empty(0, 3, 4, 4), torch.empty(0, 2, 3), [8, 9], True, True)
    assert maps.shape == (0, 2, 8, 9)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    out_height=st.integers(1, 24),
    out_width=st.integers(1, 24),
    seed=st.integers(0, 2**16),
)
def test_normalised_maps_span_zero_to_one_or_are_zero(
    height: int, width: int, out_height: int, out_width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    activations, weights, size = torch.randn(1, 3, height, width), torch.randn(1, 2, 3), [out_height, out_width]
    maps = cam_map(activations, weights, size, False, True)
    # A map can be flat in truth and not in float32: one source row, say, with values that cancel in one column.
    flat = dense.cam_map(activations, weights, (out_height, out_width), False, True).amax(dim=(2, 3)) == 0
    largest = maps.amax(dim=(2, 3))
    assert maps.amin(dim=(2, 3)).eq(0).all()
    assert largest[~flat].eq(1).all()
    assert (largest.eq(0) | largest.eq(1)).all()


def test_autocast_does_not_reach_the_sum() -> None:
    activations, weights = (tensor.float() for tensor in tensors((4, 4), targets=2, per_position=False))
    outside = cam_map(activations, weights, [9, 9], False, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cam_map(activations, weights, [9, 9], False, False)
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("size", [(4, 4), (9, 7)], ids=str)
def test_inputs_are_left_alone(size: tuple[int, int]) -> None:
    # One channel of weight one at its own size: the sum equals the activations, but is no view of them.
    activations, weights = torch.randn(1, 1, 4, 4), torch.ones(1, 1, 1)
    before = activations.clone()
    maps = cam_map(activations, weights, list(size), True, True)
    assert torch.equal(activations, before)
    assert maps.data_ptr() != activations.data_ptr()


def test_upsample_and_min_max_equal_the_formula() -> None:
    maps = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = dense.upsampled(maps, (11, 4))
    torch.testing.assert_close(upsample(maps, (11, 4)), expected, rtol=1e-12, atol=1e-12)
    scaled = torch.stack([dense.min_max(one) for one in maps.flatten(0, 1)]).view_as(maps)
    torch.testing.assert_close(min_max_(maps.clone()), scaled, rtol=1e-14, atol=1e-14)


CHECKED = {
    "per-channel": (lambda a, w: (a, w[..., 0, 0], [9, 10], True, True)),
    "per-position": (lambda a, w: (a, w, [3, 2], False, True)),
    "channels-last": (lambda a, w: (a.contiguous(memory_format=torch.channels_last), w, [5, 4], True, False)),
    "own-size-one-target": (lambda a, w: (a, w[:, :1, :, 0, 0], [5, 4], False, False)),
}


@pytest.mark.parametrize("arguments", CHECKED.values(), ids=CHECKED.keys())
def test_opcheck(arguments: object) -> None:
    activations, weights = tensors((5, 4), targets=3, per_position=True)
    torch.library.opcheck(cam_map, arguments(activations, weights))


def test_fake_tensors_carry_shape_dtype_and_device() -> None:
    with FakeTensorMode():
        maps = cam_map(
            torch.empty(2, 8, 7, 7, dtype=torch.float16, device="cuda"),
            torch.empty(2, 5, 8, device="cuda"),
            [224, 200],
            True,
            True,
        )
        assert maps.shape == (2, 5, 224, 200)
        assert (maps.dtype, maps.device.type) == (torch.float32, "cuda")
        with pytest.raises(ValueError, match="weights has shape"):
            cam_map(torch.empty(2, 8, 7, 7), torch.empty(2, 5, 9), [8, 8], True, True)


A, W = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 3)
BAD = {
    "activations-3d": ((A[0], W, [8, 8]), ValueError, r"activations has shape \(3, 4, 4\)"),
    "no-channels": ((A[:, :0], W[..., :0], [8, 8]), ValueError, r"activations has shape \(2, 0, 4, 4\)"),
    "weights-2d": ((A, W[0], [8, 8]), ValueError, r"weights has shape \(1, 3\).*must be \(2, T, 3\) or"),
    "other-batch": ((A, W[:1], [8, 8]), ValueError, r"weights has shape \(1, 1, 3\)"),
    "other-channels": ((A, W[..., :2], [8, 8]), ValueError, r"weights has shape \(2, 1, 2\)"),
    "other-positions": ((A, torch.zeros(2, 1, 3, 4, 5), [8, 8]), ValueError, r"\(2, T, 3, 4, 4\)"),
    "size-of-one": ((A, W, [8]), ValueError, r"size is \(8,\); two positive numbers"),
    "size-zero": ((A, W, [0, 8]), ValueError, r"size is \(0, 8\)"),
    "integers": ((A.long(), W, [8, 8]), TypeError, "activations is torch.int64; a floating-point"),
    "complex": ((A, W.cfloat(), [8, 8]), TypeError, "weights is torch.complex64; a floating-point"),
    "devices": ((A, W.to("meta"), [8, 8]), ValueError, "activations is on cpu and weights on meta"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.cam_map(*arguments, True, True)


def test_a_cpu_tensor_in_the_launcher_is_refused_with_the_way_out() -> None:
    program = """
import pytest, torch
from fastcam_kernels.cam_map import cam_map
with pytest.raises(ValueError, match="set TRITON_INTERPRET=1 before"):
    cam_map(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 2), (4, 4), True, True, flat_tolerance=0.0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
