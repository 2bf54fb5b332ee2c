"""The Triton kernel in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import mmap

import pytest
import torch

from fastcam.ops import reference
from fastcam_kernels import perturbed_inputs as kernel
from fastcam_kernels.perturbed_inputs import PerturbedInputsConfig
from tests.ops.test_perturbed_inputs import BAD, LAYOUTS, STEPS, is_channels_last, tensors

BIG = PerturbedInputsConfig(elements=128, steps=8, parts=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("colours", [1, 3, 4])
def test_kernel_equals_the_reference(colours: int, batch: int, dtype: torch.dtype) -> None:
    images, base, rank = tensors(colours=colours, batch=batch, dtype=dtype)
    actual = kernel.perturbed_inputs(images, base, rank, STEPS, config=BIG)
    assert actual.dtype == dtype
    assert is_channels_last(actual)
    assert torch.equal(actual, reference.perturbed_inputs(images, base, rank, STEPS))


# Every layout once for the images, and beside it another one for the base.
PAIRED = list(zip(LAYOUTS, [*LAYOUTS][1:] + [*LAYOUTS][:1], strict=True))


@pytest.mark.parametrize(("of_images", "of_base"), PAIRED, ids=str)
def test_layouts(of_images: str, of_base: str) -> None:
    layout, base_layout = LAYOUTS[of_images], LAYOUTS[of_base]
    images, base, rank = tensors()
    images, base = layout(images), base_layout(base)
    expected = reference.perturbed_inputs(images, base, rank, STEPS)
    assert torch.equal(kernel.perturbed_inputs(images, base, rank, STEPS, config=BIG), expected)


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_index_types_and_strides(index_dtype: torch.dtype) -> None:
    images, base, rank = tensors()
    expected = reference.perturbed_inputs(images, base, rank, STEPS)
    rank, steps = rank.to(index_dtype), STEPS.to(index_dtype)
    every_other = torch.stack([steps, steps + 1], dim=1)[:, 0]
    for ranks in (
        rank.flatten(1),
        rank.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack([rank] * 2, -1)[..., 0],
    ):
        assert torch.equal(kernel.perturbed_inputs(images, base, ranks, every_other, config=BIG), expected)
    beyond = torch.tensor([2**40, -(2**40)]) if index_dtype == torch.int64 else torch.tensor([2**31 - 1, -(2**31)])
    both = kernel.perturbed_inputs(images[:1], base[:1], rank[:1], beyond.to(index_dtype), config=BIG)
    assert torch.equal(both, torch.cat([base[:1], images[:1]]))


CONFIGS = {
    "default": None,
    "parts": PerturbedInputsConfig(elements=64, steps=2, parts=2),
    "uneven-parts": PerturbedInputsConfig(elements=64, steps=2, parts=3),
    "more-parts-than-steps": PerturbedInputsConfig(elements=128, steps=4, parts=11),
    "one-step-at-a-time": PerturbedInputsConfig(elements=32, steps=1, parts=1),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_how_the_work_is_cut_makes_no_difference(config: PerturbedInputsConfig | None) -> None:
    images, base, rank = tensors((5, 7))
    expected = reference.perturbed_inputs(images, base, rank, STEPS)
    assert torch.equal(kernel.perturbed_inputs(images, base, rank, STEPS, config=config), expected)


def test_no_images_or_no_steps() -> None:
    images, base, rank = tensors()
    assert kernel.perturbed_inputs(images, base, rank, STEPS[:0]).shape == (0, 3, 5, 6)
    assert kernel.perturbed_inputs(images[:0], base[:0], rank[:0], STEPS).shape == (0, 3, 5, 6)


def test_offsets_beyond_32_bits() -> None:
    # Address space alone, of which a few pages are touched. Strides that fit 32 bits, offsets that do not.
    reserved = mmap.mmap(
        -1, 4 * (2**31 + 1024), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    memory = torch.frombuffer(reserved, dtype=torch.float32)
    images, base, rank = tensors((3, 3), batch=3)
    far_rank = memory.view(torch.int32).as_strided((3, 9), (2**30, 1))
    far_rank.copy_(rank.flatten(1))
    expected = reference.perturbed_inputs(images, base, rank, STEPS)
    assert torch.equal(kernel.perturbed_inputs(images, base, far_rank, STEPS, config=BIG), expected)
    for strides in ((2**30, 9, 3, 1), (27, 2**30, 3, 1), (27, 9, 2**30, 1), (27, 9, 3, 2**30)):
        far = memory.as_strided(images.shape, strides)
        far.copy_(images)
        assert torch.equal(
            kernel.perturbed_inputs(far, base, rank, STEPS, config=BIG),
            (reference.perturbed_inputs(far.clone(), base, rank, STEPS)),
        )
        replaced = reference.perturbed_inputs(images, far.clone(), rank, STEPS)
        assert torch.equal(kernel.perturbed_inputs(images, far, rank, STEPS, config=BIG), replaced)


X, RANK = torch.zeros(2, 3, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int32)
KERNEL_BAD = {
    **BAD,
    "too-large": (
        (X[:1, :1, :1, :1].expand(1, 3, 2**15, 2**15), X[:1, :1, :1, :1].expand(1, 3, 2**15, 2**15), RANK, STEPS),
        ValueError,
        "no image of more than 2147418112 numbers",
    ),
    "meta": (tuple(tensor.to("meta") for tensor in (X, X, RANK, STEPS)), ValueError, "the tensors are on meta"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), KERNEL_BAD.values(), ids=KERNEL_BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.perturbed_inputs(*arguments)
