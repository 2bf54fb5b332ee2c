"""The compiled kernels on a device, against the reference in float64."""

import pytest
import torch
from torch import Tensor

from fastcam.ops import masked_inputs, reference
from fastcam.ops.backend import use_backend

SHAPES = {
    # images, pairs, channels, source, colours, size
    "score-cam": (1, 128, 256, (7, 7), 3, (224, 224)),
    "many-images": (16, 70, 64, (7, 7), 3, (224, 224)),
    "layer2": (4, 33, 64, (28, 28), 3, (224, 224)),
    "layer1": (2, 20, 32, (56, 56), 3, (224, 224)),
    "inception": (3, 9, 16, (8, 8), 3, (299, 299)),
    "odd": (2, 7, 5, (5, 9), 3, (61, 43)),
    "grey": (2, 5, 6, (4, 4), 1, (50, 64)),
    "down": (2, 6, 4, (56, 40), 3, (20, 31)),
    "own-size": (2, 6, 4, (32, 32), 4, (32, 32)),
    "one-position": (2, 3, 7, (1, 1), 3, (9, 9)),
    "one-pair": (1, 1, 8, (14, 14), 3, (224, 224)),
}
LAYOUTS = {
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "nchw": Tensor.contiguous,
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
    "misaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def tensors(shape: tuple, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, pairs, channels, source, colours, size = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda"}
    images, baseline = (torch.randn(batch, colours, *size, **options).to(dtype) for _ in range(2))
    activations = torch.randn(batch, channels, *source, **options).to(dtype)
    image_index = torch.randint(batch, (pairs,), **options)
    channel_index = torch.randint(channels, (pairs,), **options)
    return images, activations, image_index, channel_index, baseline


def assert_near(actual: Tensor, images: Tensor, activations: Tensor, *rest: Tensor | None) -> None:
    """Compare with the reference in float64 by two tolerances: the largest error and the root mean square."""
    image_index, channel_index, baseline = rest
    inputs = images.double(), activations.double(), image_index, channel_index
    expected = reference.masked_inputs(*inputs, None if baseline is None else baseline.double())
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert actual.dtype == images.dtype
    assert not actual.isnan().any()
    # One rounding of the result, and those of the mask, in float32 at least, whose scale is the inputs'.
    scale = 1 if baseline is None else 2
    mask = torch.finfo(torch.promote_types(images.dtype, torch.float32)).eps * 64 * scale
    result = torch.finfo(images.dtype).eps
    error = (actual.double() - expected).abs()
    assert (error <= result * expected.abs() + mask * 6).all()
    assert error.square().mean().sqrt() <= (result / 2 + mask / 4) * scale


@pytest.mark.parametrize("with_baseline", [False, True], ids=["zeros", "baseline"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_masked_images(shape: tuple, dtype: torch.dtype, with_baseline: bool) -> None:
    *inputs, baseline = tensors(shape, dtype)
    inputs.append(baseline if with_baseline else None)
    inputs[0] = LAYOUTS["nhwc"](inputs[0])
    assert_near(masked_inputs(*inputs), *inputs)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["many-images", "odd", "grey"])
def test_layouts(name: str, dtype: torch.dtype, layout: object) -> None:
    images, activations, image_index, channel_index, baseline = tensors(SHAPES[name], dtype)
    for inputs in (
        (layout(images), activations, image_index, channel_index, baseline),
        (images, layout(activations), image_index.int(), channel_index.int(), layout(baseline)),
    ):
        assert_near(masked_inputs(*inputs), *inputs)


@pytest.mark.parametrize(
    ("images_dtype", "activations_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float64)],
    ids=str,
)
def test_mixed_dtypes(images_dtype: torch.dtype, activations_dtype: torch.dtype) -> None:
    images, activations, *indices, baseline = tensors(SHAPES["many-images"], torch.float32)
    inputs = images.to(images_dtype), activations.to(activations_dtype), *indices, baseline.to(images_dtype)
    assert_near(masked_inputs(*inputs), *inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("source", [7, 28])
def test_a_batch_of_256(source: int, dtype: torch.dtype) -> None:
    inputs = *tensors((8, 256, 300, (source, source), 3, (224, 224)), dtype)[:4], None
    assert_near(masked_inputs(*inputs), *inputs)


def test_more_than_2_to_the_31_numbers() -> None:
    images, activations, _, _, _ = tensors((2, 1, 64, (7, 7), 3, (224, 224)), torch.bfloat16)
    pairs = 2**31 // images[0].numel() + 3
    image_index = torch.arange(pairs, device="cuda") % 2
    channel_index = torch.arange(pairs, device="cuda") % 64
    batch = masked_inputs(images, activations, image_index, channel_index, None)
    assert batch.numel() > 2**31
    few = masked_inputs(images, activations, image_index[:128], channel_index[:128], None)
    assert_near(few, images, activations, image_index[:128], channel_index[:128], None)
    # The pairs repeat after 64: every one of them is compared, the last ones beyond 2^31 included.
    for start in range(0, pairs, 128):
        part = batch[start : start + 128]
        torch.testing.assert_close(part, few[: len(part)])


def test_offsets_beyond_32_bits() -> None:
    images, activations, _, _, _ = tensors((3, 1, 3, (4, 4), 3, (32, 32)), torch.float16)
    indices = torch.tensor([2, 0], device="cuda"), torch.tensor([1, 2], device="cuda")
    memory = torch.empty(3 * 2**30 + 2**14, dtype=torch.float16, device="cuda")
    for strides in ((2**30, 1024, 32, 1), (1024, 2**30, 32, 1)):
        far = memory.as_strided(images.shape, strides).copy_(images)
        assert_near(masked_inputs(far, activations, *indices, None), far, activations, *indices, None)
        assert_near(masked_inputs(images, activations, *indices, far), images, activations, *indices, far)
    for strides in ((2**30, 16, 4, 1), (16, 2**30, 4, 1), (16, 48, 2**30, 1)):
        far = memory.as_strided(activations.shape, strides).copy_(activations)
        assert_near(masked_inputs(images, far, *indices, None), images, far, *indices, None)


def test_flat_channels_nan_and_unknown_indices() -> None:
    images, activations, _, _, baseline = tensors((2, 1, 4, (7, 7), 3, (224, 224)), torch.float32)
    activations[0, 0] = 0.1
    activations[1, 2, 3, 3] = torch.nan
    image_index = torch.tensor([0, 1, 1, 2, -1, 0, 0], device="cuda")
    channel_index = torch.tensor([0, 2, 3, 0, 0, 4, 2**40], device="cuda")
    batch = masked_inputs(images, activations, image_index, channel_index, baseline)
    assert torch.equal(batch[0], baseline[0])
    assert batch[[1, 3, 4, 5, 6]].isnan().all()
    assert_near(batch[2:3], images, activations, image_index[2:3], channel_index[2:3], baseline)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["many-images", "layer2"])
def test_repeated_runs_agree_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    inputs = tensors(SHAPES[name], dtype)
    first = masked_inputs(*inputs)
    for _ in range(20):
        assert torch.equal(masked_inputs(*inputs), first)


def test_every_element_is_written() -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for shape in SHAPES.values():
            assert not masked_inputs(*tensors(shape, torch.float32)).isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


def test_opcheck() -> None:
    torch.library.opcheck(masked_inputs, tensors(SHAPES["odd"], torch.float32))


@pytest.mark.parametrize("name", ["score-cam", "layer2"])
def test_in_a_cuda_graph(name: str) -> None:
    inputs = tensors(SHAPES[name], torch.bfloat16)
    masked_inputs(*inputs)  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = masked_inputs(*inputs)
    inputs[0].copy_(torch.randn_like(inputs[0]))
    inputs[1].copy_(torch.randn_like(inputs[1]))
    inputs[3].copy_(inputs[3].flip(0))
    graph.replay()
    assert torch.equal(batch, masked_inputs(*inputs))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcam_kernels import masked_inputs as kernel

    calls = []
    monkeypatch.setattr(kernel, "masked_inputs", lambda *args, **keywords: calls.append(1) or args[0].new_zeros(1))
    inputs = tensors(SHAPES["odd"], torch.float32)
    masked_inputs(*inputs)
    with use_backend("reference"):
        masked_inputs(*inputs)
    assert calls == [1]
