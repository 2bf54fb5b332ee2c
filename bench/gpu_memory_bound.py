"""The operators that memory bounds, on a GPU: kernel, eager reference, compiled reference, and the bytes to be moved.

The bytes bound all of these at small batches; a linear layer's products take longer than its bytes at large ones.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.gpu_machine import measurable, watched
from bench.gpu_results import Job
from fastcam import ops
from fastcam.ops import reference
from fastcam.ops.backend import use_backend
from fastcam.ops.perturbed_inputs import pixel_rank
from fastcam.ops.unfold_patches import patch_offsets
from fastcam_kernels.timing import Call, copies_past_cache, l2_bytes, measure

BATCHES = (256, 32, 1)
SIDE = 224
PATCHES, CROP, RESIZED = 6, 124, 322
STEPS = 32


@dataclass(frozen=True)
class Case:
    """One operator on one kind of input.

    make: a fresh set of arguments. read: the bytes that must be read, once, of such a set; written: of the results.
    tolerance: largest difference of each result from what the reference gives in float64, as a share of the largest
        number there.
    """

    operator: str
    setting: dict[str, Any]
    make: Callable[[], tuple[Any, ...]]
    read: int
    written: int
    tolerance: tuple[float, ...]

    @property
    def name(self) -> str:
        return " ".join([self.operator, *map(str, self.setting.values())])


def cases(device: str = "cuda") -> Iterator[Case]:
    """Yield what is measured, in the sizes of the networks that the operators serve."""
    for batch in BATCHES:
        for dtype in (torch.float32, torch.bfloat16):
            yield from _cam_maps(batch, dtype, device)
            yield _masked_inputs(batch, dtype, device)
            yield _perturbed_inputs(batch, dtype, device)
            yield _unfold_patches(batch, dtype, device)
        yield _fold_patches(batch, device)
        yield from _linear_layers(batch, device)
        yield _channel_sums(batch, device)


def _cam_maps(batch: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    for layer, shape in {"resnet50 layer2": (512, 28, 28), "resnet50 layer4": (2048, 7, 7)}.items():
        for layout in (torch.contiguous_format, torch.channels_last):

            def make(shape: tuple[int, ...] = shape, layout: torch.memory_format = layout) -> tuple[Any, ...]:
                activations = torch.randn(batch, *shape, device=device).to(dtype).contiguous(memory_format=layout)
                return activations, torch.randn(batch, 1, shape[0], device=device), [SIDE, SIDE], True, True

            yield Case(
                "cam_map",
                {"layer": layer, "layout": str(layout), "dtype": str(dtype), "batch": batch},
                make,
                read=batch * (math.prod(shape) * dtype.itemsize + shape[0] * 4),
                written=batch * SIDE * SIDE * 4,
                tolerance=(1e-4,),
            )


def _masked_inputs(batch: int, dtype: torch.dtype, device: str) -> Case:
    """One photo, channels of efficientnet_lite0's last layer: read once however many masks it gets."""

    def make() -> tuple[Any, ...]:
        image = torch.randn(1, 3, SIDE, SIDE, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
        activations = torch.rand(1, 1280, 7, 7, device=device).to(dtype)
        channel = torch.randperm(1280, device=device)[:batch]
        return image, activations, torch.zeros_like(channel), channel, None

    return Case(
        "masked_inputs",
        {"layer": "efficientnet_lite0 head", "dtype": str(dtype), "batch": batch},
        make,
        read=(3 * SIDE * SIDE + batch * 49) * dtype.itemsize,
        written=batch * 3 * SIDE * SIDE * dtype.itemsize,
        tolerance=(4 * torch.finfo(dtype).eps,),
    )


def _perturbed_inputs(batch: int, dtype: torch.dtype, device: str) -> Case:
    """Several steps of each image at once, as a caller bounded by memory would ask."""
    steps = min(STEPS, batch)
    images = batch // steps

    def make() -> tuple[Any, ...]:
        shape = (images, 3, SIDE, SIDE)
        photo, base = (
            torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(2)
        )
        rank = pixel_rank(torch.rand(images, SIDE, SIDE, device=device))
        return photo, base, rank, torch.arange(steps, device=device) * SIDE

    pixels = images * SIDE * SIDE
    return Case(
        "perturbed_inputs",
        {"images": images, "steps": steps, "dtype": str(dtype), "batch": batch},
        make,
        read=pixels * (2 * 3 * dtype.itemsize + 4),
        written=pixels * steps * 3 * dtype.itemsize,
        tolerance=(0.0,),
    )


def _offsets(device: str) -> tuple[Tensor, Tensor]:
    along = torch.tensor(patch_offsets(SIDE, CROP, PATCHES), device=device)
    tops, lefts = torch.meshgrid(along, along, indexing="ij")
    return tops.flatten(), lefts.flatten()


def _unfold_patches(batch: int, dtype: torch.dtype, device: str) -> Case:
    """As many photos as give about a batch of patches, at least one."""
    images = max(1, batch // PATCHES**2)

    def make() -> tuple[Any, ...]:
        photos = torch.randn(images, 3, SIDE, SIDE, device=device).to(dtype)
        photos = photos.contiguous(memory_format=torch.channels_last)
        return photos, *_offsets(device), [CROP, CROP], [RESIZED, RESIZED], "bicubic"

    return Case(
        "unfold_patches",
        {"images": images, "patches": PATCHES**2, "dtype": str(dtype), "batch": batch},
        make,
        read=images * 3 * SIDE * SIDE * dtype.itemsize,
        written=images * PATCHES**2 * 3 * RESIZED * RESIZED * dtype.itemsize,
        tolerance=(8 * torch.finfo(dtype).eps,),
    )


def _fold_patches(batch: int, device: str) -> Case:
    def make() -> tuple[Any, ...]:
        maps = torch.randn(batch, PATCHES**2, 1, 10, 10, device=device)
        confidences = torch.rand(batch, PATCHES**2, 1, device=device)
        return maps, confidences, *_offsets(device), [CROP, CROP], [SIDE, SIDE]

    return Case(
        "fold_patches",
        {"images": batch, "patches": PATCHES**2, "dtype": "torch.float32", "batch": batch},
        make,
        read=batch * PATCHES**2 * 101 * 4,
        written=batch * SIDE * SIDE * 4,
        tolerance=(1e-5,),
    )


def _linear_layers(batch: int, device: str) -> Iterator[Case]:
    """The last layer of resnet50, whose way back forms the seed, and a layer in the midst of vgg16's classifier."""
    item, wide = 2, 4

    def make(inputs: int, outputs: int) -> tuple[Tensor, ...]:
        x = torch.randn(batch, inputs, device=device).abs().bfloat16()
        weight = torch.randn(outputs, inputs, device=device) / inputs**0.5
        bias = torch.randn(outputs, device=device).bfloat16()
        return x, weight.bfloat16(), bias, weight.clamp(min=0)

    def forward(inputs: int, outputs: int, *, last: bool) -> tuple[Any, ...]:
        return *make(inputs, outputs), None, "none" if last else "relu", last

    def back(inputs: int, outputs: int, *, last: bool) -> tuple[Any, ...]:
        gate = torch.rand(batch, outputs, device=device)
        positive = make(inputs, outputs)[3]
        if not last:
            return torch.randn_like(gate), gate, None, positive, None
        targets = torch.arange(batch, device=device)[:, None] % outputs
        return torch.randn_like(gate).bfloat16(), targets, gate, None, positive, None, "clrp"

    # The second: float32 sums over thousands of numbers, as the GPU tests allow them.
    rounded, summed = 2 * torch.finfo(torch.bfloat16).eps, 6e-5
    for layer, inputs, outputs in (("resnet50 fc", 2048, 1000), ("vgg16 classifier.3", 4096, 4096)):
        last = outputs == 1000
        setting = {"layer": layer, "dtype": str(torch.bfloat16), "batch": batch}
        weights = inputs * outputs
        yield Case(
            "relevance_linear",
            setting,
            partial(forward, inputs, outputs, last=last),
            read=batch * inputs * item + weights * (item + wide) + outputs * item,
            written=batch * outputs * (item + wide),
            tolerance=(rounded, summed if last else rounded),  # with y, its gate is rounded
        )
        yield Case(
            "relevance_linear_seeded" if last else "relevance_linear_backward",
            setting,
            partial(back, inputs, outputs, last=last),
            read=batch * outputs * ((item if last else wide) + wide) + weights * wide,
            written=batch * inputs * wide,
            tolerance=(summed,),
        )


def _channel_sums(batch: int, device: str) -> Case:
    """relevance_cam's weights at resnet50's layer2: through the first convolution behind it, with the shortcut's G."""
    channels, outputs, side, dtype = 512, 256, 28, torch.bfloat16

    def make() -> tuple[Any, ...]:
        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

        signal, gate = (draw(batch, outputs, side, side) for _ in range(2))
        x, residual = (draw(batch, channels, side, side) for _ in range(2))
        return signal, gate, x, draw(outputs, channels, 1, 1), None, residual, [1, 1], [0, 0], [1, 1], 1

    return Case(
        "relevance_conv_weights",
        {"layer": "resnet50 layer3.0.conv1", "dtype": str(dtype), "batch": batch},
        make,
        read=(batch * side**2 * 2 * (outputs + channels) + outputs * channels) * dtype.itemsize,
        written=batch * channels * 4,
        tolerance=(2 * torch.finfo(dtype).eps,),
    )


def differs(case: Case, arguments: tuple[Any, ...], found: Any) -> str | None:
    """What is wrong with the results of a case; None where nothing is.

    They are held against the reference in float64: in float32, for one, it rounds positions between pixels.
    """
    wide = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
    expected = getattr(reference, case.operator)(*wide)
    pairs = zip(_several(found), _several(expected), case.tolerance, strict=True)
    for number, (result, exact, tolerance) in enumerate(pairs):
        share = ((result.double() - exact.to(result.dtype)).abs().max() / exact.abs().max()).item()
        if not share <= tolerance:
            return f"result {number} differs from the reference by {share:.1e} of the largest, {tolerance:.1e} allowed"
    return None


def _several(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def jobs(copy_bytes_per_s: float) -> Iterator[Job]:
    """Every case, to be checked and measured."""
    for case in cases():
        yield Job(case.name, partial(_row, case, copy_bytes_per_s))


def _row(case: Case, copy_bytes_per_s: float) -> dict[str, Any]:
    moved = case.read + case.written
    copies = copies_past_cache(moved, l2_bytes())
    inputs = [case.make() for _ in range(copies)]
    operator, eager = getattr(ops, case.operator), getattr(reference, case.operator)
    # Afresh for each shape: after eight of them torch.compile would quietly run eagerly.
    torch.compiler.reset()
    compiled = torch.compile(eager, dynamic=False)
    with use_backend("triton"):
        wrong = differs(case, inputs[0], operator(*inputs[0]))
        if wrong is not None:
            raise ValueError(f"the kernel's {wrong}")
        variants: dict[str, Call] = {
            "kernel": lambda i: operator(*inputs[i]),
            "eager": lambda i: eager(*inputs[i]),
            "compiled": lambda i: compiled(*inputs[i]),
        }
        variants, failed = measurable(variants)
        with watched() as conditions:
            microseconds = measure(variants, copies)
    least = moved / copy_bytes_per_s * 1e6
    return {
        "operator": case.operator,
        **case.setting,
        "bytes": moved,
        "roofline_us": least,
        "kernel_of_roofline": least / microseconds["kernel"]["p50"],
        "us": microseconds,
        "failed": failed,
        "conditions": conditions,
    }
