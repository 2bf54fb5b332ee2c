"""Checks of what a user passes, before and, where values matter, after the work."""

import contextlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Targets = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None
Size = str | tuple[int, int]

_INDEX = "targets.argmax(1)"


class NotFiniteError(ValueError):
    """Images, logits, maps or scores with NaN or infinite values."""


@dataclass
class DeferredChecks:
    """Checks of values that lie on the device: their outcomes are read together, once, at the end of a call."""

    failed: list[Tensor] = field(default_factory=list)
    explain: list[Callable[[], str]] = field(default_factory=list)
    errors: list[type[ValueError]] = field(default_factory=list)

    def add(self, failed: Tensor, explain: Callable[[], str], error: type[ValueError] = ValueError) -> None:
        """Note a check; `failed` is a boolean on the device."""
        self.failed.append(failed)
        self.explain.append(explain)
        self.errors.append(error)

    def add_finite(self, tensor: Tensor, explain: Callable[[], str]) -> None:
        """Note that a tensor of at least one value may hold no NaN and no infinity."""
        # Both show in its extremes, which take one pass over memory; to look at each value takes five.
        self.add(~torch.stack(tensor.detach().aminmax()).isfinite().all(), explain, NotFiniteError)

    def settle(self) -> None:
        """Raise ValueError, or the kind of it that was noted, for the first check that failed."""
        failures = torch.stack(self.failed).tolist()
        for failed, explain, error in zip(failures, self.explain, self.errors, strict=True):
            if failed:
                raise error(explain())


def check_model(model: object) -> nn.Module:
    """Return the model to explain: the module inside torch.compile's and DataParallel's wrappers."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} given, a torch.nn.Module is valid")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return check_model(model.module)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model: a TorchScript module given (torch.jit.script or trace), whose Python code is gone; pass the "
            "torch.nn.Module that it was made from"
        )
    original = model._modules.get("_orig_mod")
    return check_model(original) if original is not None else model


def check_images(images: object, checks: DeferredChecks) -> Tensor:
    """Return images (N, C, H, W), floating-point; that they are finite is checked later."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: {type(images).__name__} given, a float tensor (N, C, H, W) is valid")
    if images.dim() != 4:
        hint = "; add the batch dimension with images.unsqueeze(0)" if images.dim() == 3 else ""
        raise ValueError(f"images: a tensor of shape {tuple(images.shape)} given, (N, C, H, W) is valid{hint}")
    if not images.is_floating_point():
        raise TypeError(
            f"images: dtype {images.dtype} given, a floating-point dtype is valid; preprocess the images as the model "
            "expects them"
        )
    if images.layout is not torch.strided:
        raise TypeError(f"images: a tensor of layout {images.layout} given, a dense one is valid: images.to_dense()")
    if images.numel() == 0:
        raise ValueError(f"images: an empty tensor of shape {tuple(images.shape)} given, at least one image is needed")
    images = images.detach()
    checks.add_finite(
        images,
        lambda: f"images: NaN or infinite values in image(s) {_not_finite(images)}; all must be finite",
    )
    return images


def resolve_targets(targets: Targets, logits: Tensor, checks: DeferredChecks) -> tuple[Tensor, bool]:
    """Return targets (N, T) on the logits' device, and whether the user gave T (else T = 1).

    targets: None (the predicted class), an int, (N,) or (N, T) integers in [0, classes). One-hot rows (N, classes)
        are refused: as indices they would ask for classes 0 and 1, the one again and again.
    """
    images, classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1, keepdim=True), False
    if isinstance(targets, bool) or not isinstance(targets, int | list | tuple | Tensor | range):
        given = targets.tolist() if hasattr(targets, "tolist") else None
        if isinstance(targets, bool) or given is None:
            raise TypeError(_targets_message(type(targets).__name__))
        targets = given
    if isinstance(targets, int):
        targets = [targets] * images
    tensor = _tensor(targets)
    valid = f"for {images} image(s); None, an int, ({images},) or ({images}, T) integers are valid"
    if tensor.numel() == 0:
        # Before its dtype is looked at: PyTorch takes an empty list for float32.
        raise ValueError(f"targets: none given, they are empty, of shape {tuple(tensor.shape)}, {valid}")
    # With two classes or fewer, such rows may as well be indices.
    per_class = classes > 2 and tensor.shape == logits.shape
    if tensor.dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64) or tensor.is_floating_point():
        hint = f"; of a row with a value per class pass the index, {_INDEX}" if per_class else ""
        raise TypeError(_targets_message(f"dtype {tensor.dtype}") + hint)
    if tensor.dim() == 0:
        tensor = tensor.expand(images)
    if tensor.dim() not in (1, 2) or tensor.shape[0] != images:
        raise ValueError(f"targets: shape {tuple(tensor.shape)} given {valid}")
    several = tensor.dim() == 2
    # Wide before it is compared: a number of classes beyond a narrow dtype's range would wrap around.
    rows = (tensor if several else tensor.unsqueeze(1)).to(torch.int64)
    outside = (rows < 0) | (rows >= classes)

    def explain() -> str:
        wrong = rows[outside]
        return f"targets: class {int(wrong[0])} given, 0 to {classes - 1} is valid for this model's {classes} classes"

    def explain_one_hot() -> str:
        return f"targets: {images} one-hot row(s) of {classes} given, class indices are valid: pass {_INDEX}"

    faults = [(outside.any(), explain)]
    if per_class:
        faults.append((_one_hot(rows), explain_one_hot))
    # Where the targets are, whatever the logits' device: what lies on the CPU is read without waiting.
    for failed, why in faults:
        if rows.device.type != "cpu":
            checks.add(failed, why)
        elif bool(failed):
            raise ValueError(why())
    return rows.to(logits.device).clamp(0, classes - 1), several


def resolve_size(size: Size, images: Tensor, layer: Sequence[int]) -> list[int]:
    """Return [height, width] of the maps; "input" is the images' size, "layer" the layer's."""
    if size == "input":
        return [images.shape[2], images.shape[3]]
    if size == "layer":
        return [int(layer[0]), int(layer[1])]
    if isinstance(size, tuple | list) and len(size) == 2 and not any(isinstance(side, bool) for side in size):
        with contextlib.suppress(TypeError):
            sides = [operator.index(side) for side in size]  # numpy's integers, too
            if min(sides) > 0:
                return sides
    raise ValueError(f'size: {size!r} given, "input", "layer" or (height, width) of positive integers is valid')


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    try:
        known = value in choices
    except (RuntimeError, ValueError):  # a tensor or an array of several elements compares element by element
        known = False
    if not known:
        raise ValueError(f"{name}: {value!r} given, one of {', '.join(map(repr, choices))} is valid")


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if type(value) is not int or value < least:
        valid = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name}: {value!r} given, {valid} is valid")


def check_number(name: str, value: Any, valid: str, within: Callable[[float], bool]) -> None:
    """Raise ValueError unless `value` is a number that `within` holds for; `valid` says so in words."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not within(value):
        raise ValueError(f"{name}: {value!r} given, {valid} is valid")


def check_batch_size(size: Any) -> None:
    """Raise ValueError unless `size` is None or a positive integer."""
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"batch_size: {size!r} given, None or a positive integer is valid")


def _not_finite(images: Tensor) -> str:
    wrong = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    return ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")


def _tensor(targets: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Tensor:
    if isinstance(targets, Tensor):
        return targets.detach()
    try:
        return torch.tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: None among them, or more than 64 bits
        raise ValueError(_targets_message(f"{targets!r}")) from error


def _one_hot(rows: Tensor) -> Tensor:
    """Whether every row is 1 at one place and 0 elsewhere, a boolean on the rows' device."""
    return ((rows == 0) | (rows == 1)).all() & (rows.sum(dim=1) == 1).all()


def _targets_message(given: str) -> str:
    return f"targets: {given} given; None, an int, or (N,) or (N, T) integers are valid"
