"""Capturing a model: `torch.export` over a shadow, so that the user's own module is never run or changed."""

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from fastcam.network.graph import Graph, build, shape
from fastcam.network.loose import Loose
from fastcam.network.shadow import OUTPUT, ModelError, Shadow

# torch.export patches global state while it traces: one capture at a time.
_lock = threading.Lock()
_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)
# They log the traceback, and what it means inside torch, of every error that is raised as well.
_LOUD = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
# What torch raises where code asks for a number that only real images would tell.
_DEPENDS_ON_VALUES = (DataDependentOutputException, GuardOnDataDependentSymNode)


def capture(
    model: nn.Module, size: tuple[int, int, int, int], *, output: Callable[[Any], torch.Tensor] | None = None
) -> Graph:
    """Capture `model` for images of `size` (N, C, H, W) as a graph of ATen operations.

    The graph takes any number of images where the model's code allows it: the export sees a batch of 2 (a
    batch of 1 would be specialised) with a dynamic first dimension; height and width are fixed. Where the
    model's code fixes the batch, the graph is for N images.

    Raises ValueError, with the module and the line, where the model's code cannot be captured or run on
    images of this size, and TypeError or ValueError where what it returns are not logits (N, classes).
    """
    try:
        exported = _export(model, (2, *size[1:]), output)
    except ValueError:
        # Code for one other number of images (`x.view(8, -1)`) fails on 2.
        if size[0] == 2:
            raise
        return _graph(*_export(model, size, output))
    graph = _graph(*exported)
    if not graph.dynamic_batch and size[0] != 2:
        graph = _graph(*_export(model, size, output))
    return graph


def _graph(program: ExportedProgram, loose: list[Loose]) -> Graph:
    _check_logits(program.graph_module.graph.output_node().args[0], program.call_spec.out_spec)
    return build(program, loose)


def _export(
    model: nn.Module, size: tuple[int, int, int, int], output: Callable[[Any], torch.Tensor] | None
) -> tuple[ExportedProgram, list[Loose]]:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    example = torch.zeros(size, dtype=parameter.dtype, device=parameter.device)
    with _lock, torch.inference_mode(False), torch.no_grad(), _errors_only_raised():
        running: list[tuple[str, str]] = []
        loose: list[Loose] = []
        shadow = Shadow(model, output, running, loose)
        # One image is specialised whatever is asked for, and torch.export logs that.
        dynamic = {0: torch.export.Dim.AUTO} if size[0] > 1 else {}
        try:
            return torch.export.export(shadow, (example,), dynamic_shapes=(dynamic,), strict=False), loose
        except Exception as failure:
            cause = failure.__cause__ if isinstance(failure, ModelError) else None
            error = cause if isinstance(cause, Exception) else failure
            raise ValueError(_explain(error, size, running, model)) from error


@contextmanager
def _errors_only_raised() -> Iterator[None]:
    def quiet(record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING

    loggers = [logging.getLogger(name) for name in _LOUD]
    for logger in loggers:
        logger.addFilter(quiet)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(quiet)


def _explain(error: Exception, size: tuple[int, ...], running: list[tuple[str, str]], model: nn.Module) -> str:
    images = f"(N, {', '.join(map(str, size[1:]))})"
    quantised = next((name for name, module in model.named_modules() if _is_quantised(module)), None)
    if quantised is not None:
        return (
            f"model cannot be captured for images {images}: module {quantised!r} is quantised, and integers have no "
            "gradients or relevance; explain the floating-point model that it was made from"
        )
    where = "the model's own forward"
    if running:
        name, kind = running[-1]
        where = kind if kind == OUTPUT else f"module {name!r} ({kind})" if name else f"the forward of {kind}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(folder) for folder in _NOT_THE_USERS)
    ]
    line = f", at `{frames[-1].line}`" if frames and frames[-1].line else ""
    reason = str(error).strip().split("\n")[0]
    if isinstance(error, _DEPENDS_ON_VALUES):
        reason = (
            "a branch, a loop or a size there depends on the values of the images, and a capture holds one course for "
            "all images; write it without (torch.where chooses values)"
        )
    elif isinstance(error, LookupError):
        # Its message is the key alone.
        reason = f"{type(error).__name__}: {reason}"
    return f"model cannot be captured for images {images}: in {where}{line}: {reason}"


def _is_quantised(module: nn.Module) -> bool:
    """Whether a module is one of torch.ao.nn.quantized, .quantized.dynamic, .intrinsic.quantized, ..."""
    package = type(module).__module__
    return package.startswith("torch.ao.nn.") and ".quantized" in package and ".reference" not in package


def _check_logits(outputs: Any, spec: Any) -> None:
    leaf = spec.type is None
    if not leaf or len(outputs) != 1 or not isinstance(outputs[0], torch.fx.Node):
        returned = "no tensor" if leaf else f"a {spec.type.__name__}"
        raise TypeError(
            f"model: a classifier that returns logits (N, classes) is expected, this one returns {returned}; "
            "pick the logits with `output=`, for example output=lambda y: y['logits']"
        )
    value = outputs[0].meta["val"]
    if not value.is_floating_point():
        raise TypeError(
            f"model: a classifier that returns logits (N, classes) is expected, this one returns {value.dtype}; "
            "pick the logits with `output=`"
        )
    if value.dim() != 2:
        raise ValueError(
            "model: a classifier that returns logits (N, classes) is expected, this one returns a tensor of shape "
            f"{shape(outputs[0])} (-1 is any number); pick or make the logits with `output=`"
        )
