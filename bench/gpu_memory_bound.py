"""The memory-bound operators on a GPU: kernel, eager reference, compiled reference, and the bytes they must move."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.gpu_machine import watched
from fastcam import ops
from fastcam.ops import reference
from fastcam.ops.backend import use_backend
from fastcam.ops.perturbed_inputs import pixel_rank
from fastcam.ops.unfold_patches import patch_offsets
from fastcam_kernels.timing import Call, copies_past_cache, l2_bytes, measure

BATCHES = (1, 32, 256)
SIDE = 224
PATCHES, CROP, RESIZED = 6, 124, 322
STEPS = 32


@dataclass(frozen=True)
class Case:
    """One operator on one kind of input.

    make: a fresh set of arguments. read: the bytes that must be read, once, of such a set; written: of the result.
    tolerance: largest difference of the kernel's result from the eager reference's.
    """

    operator: str
    setting: dict[str, Any]
    make: Callable[[], tuple[Any, ...]]
    read: int
    written: int
    tolerance: float


def cases(device: str = "cuda") -> Iterator[Case]:
    """Yield what is measured, in the sizes of the networks that the operators serve."""
    for batch in BATCHES:
        for dtype in (torch.float32, torch.bfloat16):
            yield from _cam_maps(batch, dtype, device)
            yield _masked_inputs(batch, dtype, device)
            yield _perturbed_inputs(batch, dtype, device)
            yield _unfold_patches(batch, dtype, device)
        yield _fold_patches(batch, device)


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
                tolerance=1e-4,
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
        tolerance=4 * torch.finfo(dtype).eps * 5,
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
        tolerance=0.0,
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
        tolerance=8 * torch.finfo(dtype).eps * 5,
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
        tolerance=1e-4,
    )


def rows(copy_bytes_per_s: float) -> Iterator[dict[str, Any]]:
    """Check and measure every case; a wrong kernel stops the run."""
    for case in cases():
        moved = case.read + case.written
        copies = copies_past_cache(moved, l2_bytes())
        inputs = [case.make() for _ in range(copies)]
        operator, eager = getattr(ops, case.operator), getattr(reference, case.operator)
        # Afresh for each shape: after eight of them torch.compile would quietly run eagerly.
        torch.compiler.reset()
        compiled = torch.compile(eager, dynamic=False)
        variants: dict[str, Call] = {
            "kernel": lambda i, f=operator, x=inputs: f(*x[i]),  # type: ignore[misc]
            "eager": lambda i, f=eager, x=inputs: f(*x[i]),  # type: ignore[misc]
            "compiled": lambda i, f=compiled, x=inputs: f(*x[i]),  # type: ignore[misc]
        }
        with use_backend("triton"):
            difference = (variants["kernel"](0).float() - variants["eager"](0).float()).abs().max()  # type: ignore[attr-defined]
            if not difference <= case.tolerance:
                raise SystemExit(f"{case.operator} {case.setting}: differs by {difference:.1e} from the reference")
            with watched() as conditions:
                microseconds = measure(variants, copies)
        least = moved / copy_bytes_per_s * 1e6
        yield {
            "operator": case.operator,
            **case.setting,
            "bytes": moved,
            "roofline_us": least,
            "kernel_of_roofline": least / microseconds["kernel"]["p50"],
            "us": microseconds,
            "conditions": conditions,
        }
        del inputs, variants
        torch.cuda.empty_cache()
