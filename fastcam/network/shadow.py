"""A shadow of the user's model: the same parameters and code, none of its state that could be disturbed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from fastcam.network.traced import batch_norm, has_fixed_statistics, mark_output

_HOOK_TABLES = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
# What runs, where it is no module but the function that picks the logits.
OUTPUT = "`output`"


class ModelError(Exception):
    """What the model's code raised stands in `__cause__`.

    The tracer of torch.fx hangs the graph so far on a RuntimeError that speaks of data, and torch.export prints that
    graph; neither knows this class.
    """


class Shadow(nn.Module):
    """A model's twin in eval mode for `torch.export`: it shares parameters, and each module marks its output.

    Modules are shallow copies, so no hook, flag or attribute of the user's model is written, not even for
    a moment. Hooks of the user's stay behind, but for the pre-hooks of `torch.nn.utils` (weight and
    spectral normalisation, pruning), without which a forward pass would use stale weights.

    running: takes the names and classes of the modules that are running, innermost last; where the capture
        fails, its last is the place. (It is no attribute: torch.export restores those.)
    """

    def __init__(
        self,
        model: nn.Module,
        output: Callable[[Any], torch.Tensor] | None,
        running: list[tuple[str, str]],
    ) -> None:
        super().__init__()
        self.output = None if output is None else _noted(output, running)
        self.model = _copy(model, "", {}, running)

    def forward(self, images: torch.Tensor) -> Any:
        """Return the logits. Raises ModelError."""
        try:
            y = self.model(images)
            return y if self.output is None else self.output(y)
        except Exception as error:
            raise ModelError from error


def _noted(output: Callable[[Any], torch.Tensor], running: list[tuple[str, str]]) -> Callable[[Any], torch.Tensor]:
    def pick(returned: Any) -> torch.Tensor:
        running.append(("", OUTPUT))
        logits = output(returned)
        running.pop()
        return logits

    return pick


def _copy(module: nn.Module, name: str, done: dict[int, nn.Module], running: list[tuple[str, str]]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    # Not copy.copy: modules with parametrizations refuse it.
    shadow = type(module).__new__(type(module))
    done[id(module)] = shadow
    state = dict(module.__dict__)
    for table in _HOOK_TABLES:
        state[table] = type(state[table])()
    hooks = state["_forward_pre_hooks"]
    state["_forward_pre_hooks"] = type(hooks)(
        (key, hook) for key, hook in hooks.items() if type(hook).__module__.startswith("torch.nn.utils")
    )
    state["training"] = False
    state["_parameters"] = {key: _parameter(p) for key, p in module._parameters.items()}
    state["_buffers"] = dict(module._buffers)
    state["_modules"] = {
        key: None if child is None else _copy(child, f"{name}.{key}" if name else key, done, running)
        for key, child in module._modules.items()
    }
    shadow.__dict__ = state
    if has_fixed_statistics(shadow):
        state.setdefault("forward", partial(batch_norm, shadow))

    def enter(module: nn.Module, _: Any) -> None:
        running.append((name, type(module).__name__))

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        running.pop()
        if isinstance(output, torch.Tensor):
            mark_output(output, name)

    shadow.register_forward_pre_hook(enter)
    shadow.register_forward_hook(leave)
    return shadow


def _parameter(parameter: nn.Parameter | None) -> nn.Parameter | None:
    """A parameter that autograd accepts: itself, or a copy if it was made in inference mode."""
    if parameter is None or not parameter.is_inference():
        return parameter
    return nn.Parameter(parameter.detach().clone(), requires_grad=False)
