"""Reading a file of weights and fitting it to a model, with errors that say what does not fit."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_LISTED = 6


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict saved by `torch.save`, on the CPU.

    Read with `weights_only=True`: no code in the file is run. A wrapper {"state_dict": ...} is opened, and
    the prefix "module." that DataParallel leaves on every name is taken off.

    Raises:
        ValueError: the file cannot be read, or holds no state dict.
    """
    advice = "save it with torch.save(model.state_dict(), FILE)"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(
            f"weights file {path} does not exist: it must hold weights of this model, with an output for each class "
            f"that is looked at; {advice}"
        ) from None
    except pickle.UnpicklingError as error:
        # The reason that torch gives advises to run code from the file.
        raise ValueError(f"weights file {path} is no plain state dict: {advice}") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        # An empty file's EOFError says nothing.
        reason = str(error) or type(error).__name__
        raise ValueError(f"weights file {path} cannot be read ({reason}): {advice}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"weights file {path} holds {type(content).__name__}, no state dict: {advice}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"weights file {path} holds {name!r}, which is no tensor: {advice}")
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load `state` into `model`: every name and every shape must fit.

    The counters `num_batches_tracked`, absent from files older than PyTorch 0.4.1, may be missing.

    Raises:
        ValueError: names the missing and unexpected keys and the shapes that differ; the model is unchanged.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(v.shape)} in the model"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = [
        f"{len(found)} {what}: {_some(found)}"
        for what, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if found
    ]
    if problems:
        name = type(model).__name__
        raise ValueError(f"weights {source} do not fit {name}; " + "; ".join(problems))
    model.load_state_dict({**own, **state}, strict=True)


def _some(items: Iterable[str]) -> str:
    items = list(items)
    rest = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
