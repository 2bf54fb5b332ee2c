import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam.ops import perturbed_inputs, pixel_rank, reference
from tests.ops import dense

STEPS = torch.tensor([0, 3, 1, 20, 29, 30, 100, -5])


def tensors(
    size: tuple[int, int] = (5, 6), *, batch: int = 2, colours: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, colours, *size, generator=generator, dtype=torch.float64).to(dtype)
    base = torch.randn(batch, colours, *size, generator=generator, dtype=torch.float64).to(dtype)
    return images, base, pixel_rank(torch.randn(batch, *size, generator=generator))


def is_channels_last(batch: Tensor) -> bool:
    return batch.is_contiguous(memory_format=torch.channels_last)


LAYOUTS = {
    "nchw": lambda tensor: tensor.contiguous(),
    "nhwc": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
    "expanded": lambda tensor: tensor[:1, :1, :1, :1].expand_as(tensor),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("colours", [1, 3, 4])
def test_operator_equals_the_formula(colours: int, batch: int, dtype: torch.dtype) -> None:
    images, base, rank = tensors(colours=colours, batch=batch, dtype=dtype)
    actual = perturbed_inputs(images, base, rank, STEPS)
    assert actual.dtype == dtype
    assert is_channels_last(actual)
    assert torch.equal(actual, dense.perturbed_inputs(images, base, rank, STEPS))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_layouts_and_index_types_make_no_difference(layout: object, index_dtype: torch.dtype) -> None:
    images, base, rank = tensors()
    images, base = layout(images), layout(base)
    expected = dense.perturbed_inputs(images, base, rank, STEPS)
    assert torch.equal(perturbed_inputs(images, base, rank.to(index_dtype).flatten(1), STEPS), expected)
    across = rank.to(index_dtype).transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(perturbed_inputs(images, base, across, STEPS.to(index_dtype)), expected)


def test_deletion_goes_from_the_image_to_the_base_one_pixel_at_a_time() -> None:
    images, base, rank = tensors()
    steps = torch.arange(31)
    batch = perturbed_inputs(images, base, rank, steps).unflatten(0, (2, 31))
    assert torch.equal(batch[:, 0], images)
    assert torch.equal(batch[:, -1], base)
    changed = (batch[:, 1:] != batch[:, :-1]).all(dim=2).flatten(2)
    assert changed.sum(dim=2).eq(1).all()
    assert torch.equal(changed.int().argmax(dim=2), rank.flatten(1).argsort(dim=1))


def test_insertion_is_deletion_from_the_other_end() -> None:
    images, base, rank = tensors()
    forward = perturbed_inputs(images, base, rank, torch.tensor([4, 11]))
    last_first = 29 - rank
    backward = perturbed_inputs(base, images, last_first, torch.tensor([26, 19]))
    assert torch.equal(forward, backward)


def test_rank_is_descending() -> None:
    maps = torch.tensor([[[0.5, 2.0], [-1.0, 3.0]], [[4.0, 3.0], [2.0, 1.0]]])
    rank = pixel_rank(maps)
    assert rank.dtype == torch.int32
    assert rank.tolist() == [[[2, 1], [3, 0]], [[0, 1], [2, 3]]]


def test_ties_are_broken_by_pixel_index() -> None:
    maps = torch.randint(3, (4, 31, 17), generator=torch.Generator().manual_seed(0)).float()
    maps[1] = 0.25
    maps[2, ::2] = -0.0
    for one, ranks in zip(maps.flatten(1).tolist(), pixel_rank(maps).flatten(1).tolist(), strict=True):
        order = sorted(range(len(one)), key=lambda pixel: (-one[pixel], pixel))
        assert [ranks[pixel] for pixel in order] == list(range(len(one)))


def test_nan_ranks_before_every_number() -> None:
    maps = torch.tensor([[[1.0, torch.nan, torch.inf, torch.nan, -torch.inf]]])
    assert pixel_rank(maps).tolist() == [[[3, 0, 2, 1, 4]]]


def test_rank_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"maps has shape \(2, 3\)"):
        pixel_rank(torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_inputs_are_left_alone(dtype: torch.dtype) -> None:
    images, base, rank = tensors(batch=1, dtype=dtype)
    before = [tensor.clone() for tensor in (images, base, rank)]
    batch = perturbed_inputs(images, base, rank, torch.tensor([0]))
    batch.zero_()
    assert all(torch.equal(now, then) for now, then in zip((images, base, rank), before, strict=True))


def test_no_images_or_no_steps() -> None:
    images, base, rank = tensors()
    assert perturbed_inputs(images, base, rank, STEPS[:0]).shape == (0, 3, 5, 6)
    assert perturbed_inputs(images[:0], base[:0], rank[:0], STEPS).shape == (0, 3, 5, 6)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_opcheck(layout: object, batch: int) -> None:
    images, base, rank = tensors(batch=batch)
    torch.library.opcheck(perturbed_inputs, (layout(images), layout(base), rank, STEPS))


def test_fake_tensors_carry_shape_dtype_and_format() -> None:
    with FakeTensorMode():
        images = torch.empty(2, 3, 224, 224, dtype=torch.bfloat16, device="cuda")
        rank = torch.empty(2, 224, 224, dtype=torch.int32, device="cuda")
        batch = perturbed_inputs(images, images, rank, torch.empty(7, dtype=torch.int64, device="cuda"))
        assert batch.shape == (14, 3, 224, 224)
        assert (batch.dtype, batch.device.type) == (torch.bfloat16, "cuda")
        assert is_channels_last(batch)


X, RANK = torch.zeros(2, 3, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int32)
BAD = {
    "images-3d": ((X[0], X[0], RANK, STEPS), ValueError, r"images has shape \(3, 5, 6\)"),
    "no-pixels": ((X[..., :0], X[..., :0], RANK, STEPS), ValueError, r"images has shape \(2, 3, 5, 0\)"),
    "integer-images": ((X.byte(), X.byte(), RANK, STEPS), TypeError, "images is torch.uint8"),
    "base-shape": ((X, X[:1], RANK, STEPS), ValueError, r"base is torch.float32 \(1, 3, 5, 6\) and images"),
    "base-dtype": ((X, X.half(), RANK, STEPS), ValueError, "base is torch.float16"),
    "rank-shape": ((X, X, RANK[:, :4], STEPS), ValueError, r"rank has shape \(2, 4, 6\); .* \(2, 5, 6\) or \(2, 30\)"),
    "float-rank": ((X, X, RANK.float(), STEPS), TypeError, "rank is torch.float32; int64 or int32"),
    "float-steps": ((X, X, RANK, STEPS.float()), TypeError, "steps is torch.float32; int64 or int32"),
    "steps-2d": ((X, X, RANK, STEPS[None]), ValueError, r"steps has shape \(1, 8\)"),
    "devices": ((X, X, RANK.to("meta"), STEPS), ValueError, "rank is on meta and images on cpu"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reference.perturbed_inputs(*arguments)
