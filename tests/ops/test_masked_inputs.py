import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam.ops import masked_inputs, reference
from tests.ops import dense

SIZES = {
    "up": ((3, 4), (13, 10)),
    "same": ((6, 5), (6, 5)),
    "down": ((9, 8), (4, 5)),
    "one": ((1, 1), (3, 2)),
}


def tensors(
    source: tuple[int, int], size: tuple[int, int], *, batch: int = 3, colours: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, colours, *size, generator=generator, dtype=torch.float64)
    activations = torch.randn(batch, 5, *source, generator=generator, dtype=torch.float64)
    image_index = torch.tensor([2, 0, 0, 1, 2, 2]) % batch
    channel_index = torch.tensor([4, 0, 3, 3, 4, 1])
    baseline = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    return images, activations, image_index, channel_index, baseline


def is_channels_last(batch: Tensor) -> bool:
    return batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("with_baseline", [False, True], ids=["zeros", "baseline"])
@pytest.mark.parametrize("batch", [1, 3], ids=["one-image", "images"])
@pytest.mark.parametrize(("source", "size"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("colours", [1, 3, 5])
def test_reference_equals_the_formula(
    source: tuple[int, int], size: tuple[int, int], batch: int, colours: int, with_baseline: bool
) -> None:
    *arguments, baseline = tensors(source, size, batch=batch, colours=colours)
    arguments.append(baseline if with_baseline else None)
    actual = reference.masked_inputs(*arguments)
    assert is_channels_last(actual)
    torch.testing.assert_close(actual, dense.masked_inputs(*arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_baseline", [False, True], ids=["zeros", "baseline"])
@pytest.mark.parametrize("batch", [1, 3], ids=["one-image", "images"])
@pytest.mark.parametrize(
    ("images_dtype", "activations_dtype", "tolerance"),
    # The mask and the product are rounded to the images' dtype, once each: 2^-8 in bfloat16, 2^-11 in float16.
    [
        (torch.float32, torch.float32, 1e-5),
        (torch.float32, torch.bfloat16, 1e-5),
        (torch.float16, torch.float16, 2**-10),
        (torch.bfloat16, torch.bfloat16, 2**-7),
        (torch.bfloat16, torch.float32, 2**-7),
    ],
    ids=str,
)
def test_operator_equals_the_formula_in_every_dtype(
    images_dtype: torch.dtype,
    activations_dtype: torch.dtype,
    tolerance: float,
    batch: int,
    with_baseline: bool,
) -> None:
    images, activations, image_index, channel_index, baseline = tensors((4, 4), (15, 14), batch=batch)
    images, baseline = images.to(images_dtype), baseline.to(images_dtype)
    activations = activations.to(activations_dtype)
    arguments = (images, activations, image_index, channel_index, baseline if with_baseline else None)
    actual = masked_inputs(*arguments)
    assert actual.dtype == images_dtype
    assert is_channels_last(actual)
    # Errors of the mask are multiplied by what it blends, so the scale is the inputs', not the result's.
    scale = images.double().abs().max() + baseline.double().abs().max()
    difference = (actual.double() - dense.masked_inputs(*arguments)).abs().max()
    assert difference <= tolerance * scale


LAYOUTS = {
    "nchw": lambda tensor: tensor.contiguous(),
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_layouts_and_index_types_make_no_difference(layout: object, index_dtype: torch.dtype) -> None:
    images, activations, image_index, channel_index, baseline = tensors((4, 3), (9, 11))
    expected = masked_inputs(images, activations, image_index, channel_index, baseline)
    actual = masked_inputs(
        layout(images),
        layout(activations),
        image_index.to(index_dtype),
        channel_index.to(index_dtype),
        layout(baseline),
    )
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("value", [0.1, 6.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_flat_channel_masks_everything(value: float, dtype: torch.dtype) -> None:
    images, baseline = torch.randn(1, 3, 61, 43).to(dtype), torch.randn(1, 3, 61, 43).to(dtype)
    activations = torch.full((1, 1, 7, 5), value)
    index = torch.zeros(1, dtype=torch.int64)
    assert masked_inputs(images, activations, index, index, None).abs().max() == 0
    assert torch.equal(masked_inputs(images, activations, index, index, baseline), baseline)


@pytest.mark.parametrize("batch", [1, 3], ids=["one-image", "images"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_inputs_are_left_alone(batch: int, dtype: torch.dtype) -> None:
    images, activations, image_index, channel_index, baseline = tensors((6, 5), (6, 5), batch=batch)
    arguments = (images.to(dtype), activations, image_index, channel_index, baseline.to(dtype))
    before = [argument.clone() for argument in arguments]
    masked_inputs(*arguments)
    assert all(torch.equal(now, then) for now, then in zip(arguments, before, strict=True))


def test_no_pairs() -> None:
    images, activations, image_index, channel_index, baseline = tensors((3, 3), (6, 6))
    batch = masked_inputs(images, activations, image_index[:0], channel_index[:0], baseline)
    assert batch.shape == (0, 3, 6, 6)


@pytest.mark.parametrize("batch", [1, 3], ids=["one-image", "images"])
@pytest.mark.parametrize("with_baseline", [False, True], ids=["zeros", "baseline"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(batch: int, with_baseline: bool, dtype: torch.dtype) -> None:
    images, *rest, baseline = tensors((3, 4), (8, 9), batch=batch)
    torch.library.opcheck(masked_inputs, (images.to(dtype), *rest, baseline.to(dtype) if with_baseline else None))


def test_fake_tensors_carry_shape_dtype_and_format() -> None:
    with FakeTensorMode():
        index = torch.empty(32, dtype=torch.int64, device="cuda")
        batch = masked_inputs(
            torch.empty(2, 3, 224, 224, dtype=torch.bfloat16, device="cuda"),
            torch.empty(2, 64, 7, 7, device="cuda"),
            index,
            index,
            None,
        )
        assert batch.shape == (32, 3, 224, 224)
        assert (batch.dtype, batch.device.type) == (torch.bfloat16, "cuda")
        assert is_channels_last(batch)


X, A, INDEX = torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4), torch.zeros(6, dtype=torch.int64)
BAD = {
    "images-3d": ((X[0], A, INDEX, INDEX, None), ValueError, r"images has shape \(3, 8, 8\)"),
    "other-batch": ((X, A[:1], INDEX, INDEX, None), ValueError, r"activations has shape \(1, 5, 4, 4\) and images"),
    "float-index": ((X, A, INDEX.float(), INDEX, None), TypeError, "image_index is torch.float32; int64 or int32"),
    "lengths": ((X, A, INDEX, INDEX[:3], None), ValueError, r"channel_index has shape \(3,\) and image_index \(6,\)"),
    "index-2d": ((X, A, INDEX[None], INDEX[None], None), ValueError, r"image_index has shape \(1, 6\)"),
    "integer-images": ((X.byte(), A, INDEX, INDEX, None), TypeError, "images is torch.uint8; a floating-point"),
    "baseline-shape": ((X, A, INDEX, INDEX, X[..., :4]), ValueError, r"baseline is torch.float32 \(2, 3, 8, 4\)"),
    "baseline-dtype": ((X, A, INDEX, INDEX, X.half()), ValueError, "baseline is torch.float16"),
    "devices": ((X, A.to("meta"), INDEX, INDEX, None), ValueError, "activations is on meta and images on cpu"),
    "image-out-of-range": ((X, A, INDEX + 2, INDEX, None), IndexError, "out of bounds"),
    "one-image-out-of-range": ((X[:1], A[:1], INDEX + 1, INDEX, None), IndexError, "out of bounds"),
    "channel-out-of-range": ((X, A, INDEX, INDEX + 5, None), IndexError, "out of bounds"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.masked_inputs(*arguments)
