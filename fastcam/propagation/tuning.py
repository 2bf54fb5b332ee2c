"""Which algorithm and which block sizes serve each convolution on this device: measured, as a table for the kernels.

Every candidate is checked against the PyTorch reference before it is timed; one that the device cannot run, or that
is wrong, is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam.ops.gate import signal_dtype, zero_share
from fastcam.propagation.convolutions import Convolution

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
    result: Tensor = kernel.relevance_conv_backward(
        p.signal, p.gate, x, p.positive, p.negative, None, conv.size, *geometry, config=choice
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


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are the same up to the rounding of their dtype.

    A gate is a quotient: it is judged relative to itself, the rest relative to the largest.
    """
    tolerance = 64 * torch.finfo(found.dtype).eps
    difference = (found.float() - expected.float()).abs()
    scale = expected.float().abs()
    return bool((difference <= tolerance * torch.maximum(scale, scale.mean())).all())


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a table, checked. Raises ValueError that names file and entry."""
    from fastcam_kernels.tuning import read_table as read

    return {key: asdict(choice) for key, choice in read(path).items()}


def candidates() -> Iterator[Any]:
    """The choices that are tried: the composition, and blocks that fit the registers of four or eight warps."""
    from fastcam_kernels.tuning import Choice

    yield Choice("composition")
    for positions, outputs, channels, stages in product((64, 128), (32, 64, 128), (32, 64), (2, 3, 4)):
        if positions * outputs <= 128 * 64:
            warps = 8 if positions * outputs == 128 * 64 else 4
            yield Choice("triton", positions, outputs, channels, warps, stages)


def tune(
    convolutions: Iterable[Convolution], batches: Sequence[int], dtype: torch.dtype, *, note: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Measure the candidates of both operators on the current CUDA device; return the table, by layer.

    note: told the key, the choice and its time, layer by layer.
    """
    table: dict[str, dict[str, Any]] = {}
    for conv, batch in product(convolutions, batches):
        problem = make_problem(conv, batch, dtype, "cuda")
        for operator in OPERATORS:
            key = _key(operator, conv, problem)
            if key not in table:
                choice, microseconds = fastest(operator, conv, problem)
                table[key] = asdict(choice)
                note(f"{key}: {choice.algorithm}, {microseconds:.1f} us")
    return table


def fastest(operator: str, conv: Convolution, problem: Problem) -> tuple[Any, float]:
    """The candidate that takes the least time, and its microseconds."""
    from fastcam_kernels.timing import copies_past_cache, l2_bytes, measure

    ahead = operator == OPERATORS[0]
    run: Callable[[Problem, Any], Any] = partial(forward if ahead else backward, conv)
    expected: Any = reference_forward(conv, problem) if ahead else reference_backward(conv, problem)
    good: dict[str, Any] = {}
    for choice in candidates():
        try:
            found = run(problem, choice)
        except (RuntimeError, ValueError):  # out of registers or shared memory, or blocks that the kernel refuses
            continue
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        if all(agrees(a, b) for a, b in pairs):
            good[repr(choice)] = choice
    copies = copies_past_cache(problem.bytes, l2_bytes())
    batch = problem.x.shape[0]
    inputs = [problem, *(make_problem(conv, batch, problem.x.dtype, problem.x.device) for _ in range(copies - 1))]
    calls = {name: lambda i, c=choice: run(inputs[i], c) for name, choice in good.items()}
    timed = measure(calls, copies, rounds=7)
    best = min(timed, key=lambda name: timed[name]["p50"])
    return good[best], timed[best]["p50"]


def layer_of(conv: Convolution, problem: Problem, dtype: torch.dtype) -> Any:
    """What the table's key is made of."""
    from fastcam_kernels.tuning import Layer

    return Layer(
        dtype=dtype,
        batch=problem.x.shape[0],
        channels=conv.channels,
        outputs=conv.outputs,
        kernel=conv.kernel,
        stride=conv.geometry.stride,
        groups=conv.geometry.groups,
        size=conv.size,
        signed=conv.signed,
    )


def _key(operator: str, conv: Convolution, problem: Problem) -> str:
    dtype = problem.x.dtype if operator == OPERATORS[0] else problem.gate.dtype
    key: str = layer_of(conv, problem, dtype).key(operator)
    return key
