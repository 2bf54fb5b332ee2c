"""Which algorithm and which block sizes serve each convolution on this device: measured, as a table for the kernels.

Every candidate is checked against the PyTorch reference before it is timed; one that the device cannot run, or that
is wrong, is left out.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcam.network.precision import matrix_precision, resolve
from fastcam.ops import reference
from fastcam.ops.gate import signal_dtype, zero_share
from fastcam.propagation.convolutions import Convolution

# Of an operator: one tensor, or several.
Results = Tensor | tuple[Tensor, ...]

OPERATORS = ("relevance_conv", "relevance_conv_backward")


@dataclass(frozen=True)
class Problem:
    """Random tensors for one convolution, channels-last, on a device."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    positive: Tensor
    negative: Tensor | None
    signal: Tensor
    gate: Tensor

    @property
    def bytes(self) -> int:
        """The size of what one call reads."""
        return sum(t.numel() * t.element_size() for t in (self.x, self.weight, self.positive, self.signal, self.gate))


def make_problem(conv: Convolution, batch: int, dtype: torch.dtype, device: torch.device | str) -> Problem:
    """Random numbers, of the signs that the convolution meets; never zeros, which would draw less power."""
    g, last = conv.geometry, torch.channels_last

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).contiguous(memory_format=last)

    x = draw(batch, conv.channels, *conv.size)
    own = draw(conv.outputs, conv.channels // g.groups, *conv.kernel) / 8
    signals = signal_dtype(dtype)
    out = (batch, conv.outputs, *conv.output_size)
    return Problem(
        x=(x if conv.signed else x.abs()).to(dtype),
        weight=own.to(dtype),
        bias=torch.randn(conv.outputs, device=device).to(dtype),
        positive=own.clamp(min=0).to(signals),
        negative=own.clamp(max=0).to(signals) if conv.signed else None,
        signal=draw(*out).to(signals),
        gate=draw(*out).abs().to(signals),
    )


def forward(conv: Convolution, problem: Problem, choice: Any) -> tuple[Tensor, Tensor]:
    """The operator's kernels, as `choice` has it; None asks the table."""
    from fastcam_kernels import relevance_conv as kernel

    g, p = conv.geometry, problem
    geometry = kernel.Geometry(g.stride, g.padding, g.dilation, g.groups)
    y, gate = kernel.relevance_conv(
        p.x,
        p.weight,
        p.bias,
        p.positive,
        p.negative,
        None,
        geometry,
        conv.activation,
        False,
        zero_share=zero_share(torch.promote_types(p.gate.dtype, torch.float32)),
        choice=choice,
    )
    return y, gate


def backward(conv: Convolution, problem: Problem, choice: Any) -> Tensor:
    """The way back by the operator's kernels, as `choice` has it; None asks the table."""
    from fastcam_kernels import relevance_conv_backward as kernel

    g, p = conv.geometry, problem
    x = p.x if conv.signed else None
    geometry = (g.stride, g.padding, g.dilation, g.groups)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    result: Tensor = kernel.relevance_conv_backward(
        p.signal, p.gate, x, p.positive, p.negative, None, conv.size, *geometry, config=choice, allow_tf32=tf32
    )
    return result


def backward_problem(conv: Convolution, problem: Problem) -> Any:
    """The way back as its kernels see it."""
    from fastcam_kernels import relevance_conv_backward as kernel

    g, p = conv.geometry, problem
    x = p.x if conv.signed else None
    return kernel.Problem(
        p.signal, p.gate, x, p.positive, p.negative, None, conv.size, g.stride, g.padding, g.dilation, g.groups, False
    )


def reference_forward(conv: Convolution, problem: Problem) -> tuple[Tensor, Tensor]:
    """The PyTorch reference of the forward pass."""
    geometry, p = conv.geometry.arguments, problem
    return reference.relevance_conv(
        p.x, p.weight, p.bias, p.positive, p.negative, None, *geometry, conv.activation, False
    )


def reference_backward(conv: Convolution, problem: Problem) -> Tensor:
    """The PyTorch reference of the way back."""
    geometry, p = conv.geometry.arguments, problem
    x = p.x if conv.signed else None
    return reference.relevance_conv_backward(
        p.signal, p.gate, x, p.positive, p.negative, None, list(conv.size), *geometry
    )


def agrees(found: Results, expected: Results, *, tf32: bool = False) -> bool:
    """Whether each element is the expected one up to roundings, of eight times its dtype's, beside it or the mean.

    The reference itself rounds a sum, the sum with its bias, Z twice where signed, and the quotient. Sums of thousands
    of terms in another order differ by more than float32's own rounding: there 1e-4 is allowed.

    tf32: `found` was made of numbers rounded to TF32's ten bits.
    """
    if isinstance(found, tuple):
        return all(agrees(a, b, tf32=tf32) for a, b in zip(found, expected, strict=True))
    assert isinstance(expected, Tensor)
    tolerance = max(8 * (2.0**-10 if tf32 else torch.finfo(found.dtype).eps), 1e-4)
    difference = (found.float() - expected.float()).abs()
    scale = expected.float().abs()
    return bool((difference <= tolerance * torch.maximum(scale, scale.mean())).all())


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a table, checked. Raises ValueError that names file and entry."""
    from fastcam_kernels.tuning import read_table as read

    return {key: asdict(choice) for key, choice in read(path).items()}


def candidates() -> Iterator[Any]:
    """The choices that are tried first: the composition, and blocks that fit the registers of four or eight warps."""
    from fastcam_kernels.tuning import Choice

    yield Choice("composition")
    for positions, outputs, channels in product((64, 128), (32, 64, 128), (32, 64)):
        if positions * outputs <= 128 * 64:
            warps = 8 if positions * outputs == 128 * 64 else 4
            yield Choice("triton", positions, outputs, channels, warps, num_stages=3)


def refined(choice: Any) -> Iterator[Any]:
    """A choice that has shown itself fast, and its blocks with other numbers of stages."""
    yield choice
    if choice.algorithm == "triton":
        yield from (replace(choice, num_stages=stages) for stages in (2, 4))


def tune(
    convolutions: Iterable[Convolution],
    batches: Sequence[int],
    precision: str,
    device: torch.device,
    *,
    known: Collection[str] = (),
    keep: Callable[[str, dict[str, Any]], None],
    note: Callable[[str], None],
) -> None:
    """Measure the candidates of both operators on a CUDA device.

    precision: as in `fastcam.explain`, but not None.
    known: keys of layers that are not measured again.
    keep: given each key with its entry of the table, as soon as it is known.
    note: told a line about each layer, also of one that is left out: where no candidate can be run and is right, or
        the memory does not hold it. There the kernels' default serves.
    """
    formats = resolve(precision, torch.float32, device)
    held = set(known)
    for conv, batch, operator in product(convolutions, batches, OPERATORS):
        with matrix_precision(formats, device):
            key = _key(operator, conv, batch, formats.forward)
            if key in held:
                continue
            held.add(key)
            try:
                choice, microseconds, runs = fastest(operator, conv, make_problem(conv, batch, formats.forward, device))
            except (torch.OutOfMemoryError, NothingRunsError) as error:
                torch.cuda.empty_cache()
                note(f"{key}: left out: {str(error).splitlines()[0]}")
                continue
        keep(key, asdict(choice))
        note(f"{key}: {choice.algorithm}, {microseconds:.1f} us, the fastest of {runs}")


class NothingRunsError(RuntimeError):
    """No candidate can be run on this device and gives what the reference gives."""


def fastest(operator: str, conv: Convolution, problem: Problem) -> tuple[Any, float, int]:
    """The candidate that takes the least time, its microseconds, and how many were right and timed.

    All first, in few rounds; then the fastest few, and their blocks with other numbers of stages, in more.

    Raises NothingRunsError where there is none.
    """
    from fastcam_kernels.timing import copies_past_cache, l2_bytes, measure

    run: Callable[[Problem, Any], Any] = partial(forward if operator == OPERATORS[0] else backward, conv)
    copies = copies_past_cache(problem.bytes, l2_bytes())
    batch = problem.x.shape[0]
    inputs = [problem, *(make_problem(conv, batch, problem.x.dtype, problem.x.device) for _ in range(copies - 1))]
    expected = _expected(operator, conv, problem)

    def time(choices: Iterable[Any], rounds: int) -> dict[Any, float]:
        right = [choice for choice in choices if _is_right(run, problem, choice, expected)]
        calls = {repr(choice): _turn(run, inputs, choice) for choice in right}
        timed = measure(calls, copies, rounds=rounds)
        return {choice: timed[repr(choice)]["p50"] for choice in right}

    first = time(candidates(), 1)
    if not first:
        raise NothingRunsError("no candidate runs on this device and gives what the reference gives")
    leading = sorted(first, key=first.__getitem__)[:3]
    last = time(chain.from_iterable(map(refined, leading)), 7)
    best = min(last, key=last.__getitem__)
    return best, last[best], len(first | last)


def _turn(run: Callable[[Problem, Any], Any], inputs: Sequence[Problem], choice: Any) -> Callable[[int], Any]:
    return lambda number: run(inputs[number], choice)


def _expected(operator: str, conv: Convolution, problem: Problem) -> Results:
    """What the reference gives, without TF32."""
    with matrix_precision(resolve(None, problem.x.dtype, problem.x.device), problem.x.device):
        return (reference_forward if operator == OPERATORS[0] else reference_backward)(conv, problem)


def _is_right(run: Callable[[Problem, Any], Any], problem: Problem, choice: Any, expected: Results) -> bool:
    """Whether a candidate can be run here, and gives what is expected."""
    from triton.errors import TritonError

    try:
        found = run(problem, choice)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TritonError):  # more registers or shared memory than there are, refused blocks
        return False
    tf32 = problem.x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return agrees(found, expected, tf32=tf32)


def layer_of(conv: Convolution, batch: int, dtype: torch.dtype) -> Any:
    """What the table's key is made of; TF32 where matrix products may use it now."""
    from fastcam_kernels.tuning import Layer

    return Layer(
        dtype=dtype,
        batch=batch,
        channels=conv.channels,
        outputs=conv.outputs,
        kernel=conv.kernel,
        stride=conv.geometry.stride,
        groups=conv.geometry.groups,
        size=conv.size,
        signed=conv.signed,
        tf32=dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32,
    )


def _key(operator: str, conv: Convolution, batch: int, dtype: torch.dtype) -> str:
    """dtype: of the forward pass."""
    key: str = layer_of(conv, batch, dtype if operator == OPERATORS[0] else signal_dtype(dtype)).key(operator)
    return key
