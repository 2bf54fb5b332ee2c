"""The compiled kernel on a device, against the reference: the operator copies numbers, so that all are equal."""

import pytest
import torch
from torch import Tensor

from fastcam.ops import perturbed_inputs, pixel_rank, reference
from fastcam.ops.backend import use_backend

SHAPES = {
    # images, steps, colours, size
    "one-image": (1, 225, 3, (224, 224)),
    "batch": (8, 29, 3, (224, 224)),
    "one-step": (64, 1, 3, (224, 224)),
    "inception": (3, 7, 3, (299, 299)),
    "odd": (2, 5, 3, (61, 43)),
    "grey": (2, 9, 1, (50, 64)),
    "one-pixel": (2, 3, 3, (1, 1)),
}
LAYOUTS = {
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "nchw": Tensor.contiguous,
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
    "expanded": lambda tensor: tensor[:1, :1, :1, :1].expand_as(tensor),
    "misaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def tensors(shape: tuple, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, count, colours, size = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    images, base = (torch.randn(batch, colours, *size, generator=generator, device="cuda").to(dtype) for _ in range(2))
    rank = pixel_rank(torch.randn(batch, *size, generator=generator, device="cuda"))
    steps = torch.linspace(0, size[0] * size[1], count, device="cuda").long()
    return images, base, rank, steps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_the_reference(shape: tuple, dtype: torch.dtype) -> None:
    images, base, rank, steps = tensors(shape, dtype)
    images, base = LAYOUTS["nhwc"](images), LAYOUTS["nhwc"](base)
    actual = perturbed_inputs(images, base, rank, steps)
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(actual, reference.perturbed_inputs(images, base, rank, steps))


@pytest.mark.parametrize("base_layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", ["batch", "odd"])
def test_layouts_and_index_types(name: str, layout: object, base_layout: object) -> None:
    images, base, rank, steps = tensors(SHAPES[name], torch.bfloat16)
    images, base = layout(images), base_layout(base)
    expected = reference.perturbed_inputs(images, base, rank, steps)
    for ranks in (rank, rank.long().flatten(1), rank.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(perturbed_inputs(images, base, ranks, steps.to(ranks.dtype)), expected)


def test_a_batch_of_256() -> None:
    images, base, rank, steps = tensors((256, 8, 3, (224, 224)), torch.bfloat16)
    images, base = LAYOUTS["nhwc"](images), LAYOUTS["nhwc"](base)
    expected = reference.perturbed_inputs(images, base, rank, steps)
    assert torch.equal(perturbed_inputs(images, base, rank, steps), expected)


def test_more_than_2_to_the_31_numbers() -> None:
    images, base, rank, _ = tensors((1, 1, 3, (224, 224)), torch.bfloat16)
    steps = torch.arange(2**31 // images.numel() + 3, device="cuda") * 3
    batch = perturbed_inputs(images, base, rank, steps)
    assert batch.numel() > 2**31
    for start in range(0, len(steps), 512):
        part = slice(start, start + 512)
        assert torch.equal(batch[part], reference.perturbed_inputs(images, base, rank, steps[part]))


def test_offsets_beyond_32_bits() -> None:
    images, base, rank, steps = tensors((3, 4, 3, (16, 16)), torch.float16)
    memory = torch.empty(2**31 + 2**14, dtype=torch.float16, device="cuda")
    expected = reference.perturbed_inputs(images, base, rank, steps)
    for strides in ((2**30, 256, 16, 1), (256, 2**30, 16, 1)):
        far = memory.as_strided(images.shape, strides)
        if strides[0] == 256:  # one colour of one image after the other would overlap
            images, base, rank = images[:1], base[:1], rank[:1]
            far = far[:1]
            expected = reference.perturbed_inputs(images, base, rank, steps)
        far.copy_(images)
        assert torch.equal(perturbed_inputs(far, base, rank, steps), expected)
        assert torch.equal(
            perturbed_inputs(base, far, rank, steps), reference.perturbed_inputs(base, images, rank, steps)
        )


def test_steps_beyond_both_ends() -> None:
    images, base, rank, _ = tensors((2, 1, 3, (20, 30)), torch.float32)
    steps = torch.tensor([2**40, -(2**40), 600, 0], device="cuda")
    batch = perturbed_inputs(images, base, rank, steps).unflatten(0, (2, 4))
    assert torch.equal(batch, torch.stack([base, images, base, images], dim=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_agree_bit_for_bit(dtype: torch.dtype) -> None:
    inputs = tensors(SHAPES["batch"], dtype)
    first = perturbed_inputs(*inputs)
    for _ in range(20):
        assert torch.equal(perturbed_inputs(*inputs), first)


def test_every_element_is_written() -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for shape in SHAPES.values():
            assert not perturbed_inputs(*tensors(shape, torch.float32)).isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


def test_opcheck() -> None:
    torch.library.opcheck(perturbed_inputs, tensors(SHAPES["odd"], torch.float32))


def test_in_a_cuda_graph() -> None:
    images, base, rank, steps = tensors(SHAPES["batch"], torch.bfloat16)
    perturbed_inputs(images, base, rank, steps)  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = perturbed_inputs(images, base, rank, steps)
    images.copy_(torch.randn_like(images))
    steps.add_(100)
    graph.replay()
    assert torch.equal(batch, perturbed_inputs(images, base, rank, steps))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_ranks_on_the_device_break_ties_by_pixel_index(batch: int) -> None:
    maps = torch.randint(-3, 4, (batch, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    maps[:, ::2] *= 0.0  # zeros of both signs are equal
    assert torch.equal(pixel_rank(maps.cuda()).cpu(), pixel_rank(maps))
    values = torch.randn(batch, 224, 224, dtype=torch.bfloat16)
    values[0, 3, 5:9] = torch.nan
    assert torch.equal(pixel_rank(values.cuda()).cpu(), pixel_rank(values))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcam_kernels import perturbed_inputs as kernel

    calls = []
    monkeypatch.setattr(kernel, "perturbed_inputs", lambda *args, **keywords: calls.append(1) or args[0].new_zeros(1))
    inputs = tensors(SHAPES["odd"], torch.float32)
    perturbed_inputs(*inputs)
    with use_backend("reference"):
        perturbed_inputs(*inputs)
    assert calls == [1]
