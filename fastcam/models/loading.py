"""Models by name: torchvision's classifiers, the embedded model, and functions of one's own."""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from .efficientnet_lite0 import EfficientNetLite0, efficientnet_lite0, from_package_names
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, from_transforms
from .state_dicts import load_strictly, read_state_dict

EMBEDDED = "efficientnet_lite0"

EMBEDDED_PREPROCESSING = Preprocessing(
    crop_share=0.875,
    resize=(224, 224),
    crop=None,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    interpolation=InterpolationMode.BICUBIC,
)

# Grey photos have no statistics of their own in common use: the means over ImageNet's channels.
_GREY = Preprocessing(mean=(sum(IMAGENET_MEAN) / 3,), std=(sum(IMAGENET_STD) / 3,))

# Only training uses the auxiliary classifiers, and files of weights hold them or not.
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A classifier in eval mode and what its use needs.

    Attributes:
        model: the network.
        preprocessing: from a photo to its input.
        class_names: the names of its classes, or None where they are not known.
    """

    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None


def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet's classes as torchvision's weights carry them."""
    return tuple(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def load_model(name: str, *, weights: str = "default") -> LoadedModel:
    """Build a classifier by name.

    Args:
        name: a torchvision classifier, "efficientnet_lite0", or "package.module:function" for a function
            without arguments that returns an nn.Module; the working directory is searched for the module. Its
            preprocessing is ImageNet's, of grey photos where its first convolution takes one channel.
        weights: "default" (torchvision's best, downloaded once; a function's model as it comes), "none"
            (random; a function's model as it comes), one of torchvision's names for weights of this model
            ("IMAGENET1K_V1", downloaded once), or a file that holds a state dict. A file for a torchvision
            classifier may have another number of classes; their names are then not known.

    Raises:
        ValueError: an unknown name (close names are listed), weights that cannot be downloaded or read, or
            that do not fit (missing and unexpected keys and differing shapes are listed).
        ModuleNotFoundError: the embedded model's weights are not installed.
    """
    if ":" in name:
        return _own_function(name, weights)
    if name == EMBEDDED:
        return _embedded(weights)
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = get_close_matches(name.lower(), [*known, EMBEDDED], n=5)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(
            f"model {name!r} is unknown{hint}. Valid are torchvision's classifiers, {EMBEDDED!r} and "
            "'package.module:function'"
        )
    return _torchvision(name, weights)


def _embedded(weights: str) -> LoadedModel:
    model: EfficientNetLite0 = efficientnet_lite0(pretrained=weights == "default")
    if weights not in ("default", "none"):
        load_strictly(model, from_package_names(read_state_dict(Path(weights))), source=weights)
    return LoadedModel(model=model, preprocessing=EMBEDDED_PREPROCESSING, class_names=imagenet_class_names())


def _torchvision(name: str, weights: str) -> LoadedModel:
    available = torchvision.models.get_model_weights(name)
    named = available.__members__.get(weights)
    chosen = named or available.DEFAULT
    names: tuple[str, ...] = tuple(chosen.meta["categories"])
    if weights == "default" or named is not None:
        try:
            model = torchvision.models.get_model(name, weights=chosen)
        # No network, no such file, a full disk, a connection cut off, a checksum that does not agree.
        except (OSError, HTTPException, RuntimeError) as error:
            raise ValueError(
                f"the weights of {name} cannot be downloaded from {chosen.url} ({error}). Without a "
                f"network, use the embedded model, --model {EMBEDDED}, a file, --weights FILE, or random weights, "
                "--weights none"
            ) from error
    else:
        arguments: dict[str, Any] = {}
        if name in _AUXILIARY:
            # Files of weights for these two were trained on the input scaling that the model itself undoes.
            from_file = weights != "none"
            arguments = {"aux_logits": False, "init_weights": not from_file, "transform_input": from_file}
        state = None if weights == "none" else _torchvision_names(name, read_state_dict(Path(weights)))
        if state is not None and _classes(state) not in (None, len(names)):
            arguments["num_classes"], names = _classes(state), ()
        model = torchvision.models.get_model(name, weights=None, **arguments)
        if state is not None:
            load_strictly(model, state, source=weights)
            # A file under the name that torchvision gives it tells which preprocessing it was trained with.
            chosen = next((w for w in available if Path(w.url).name == Path(weights).name), chosen)
    return LoadedModel(
        model=model.eval(), preprocessing=from_transforms(chosen.transforms()), class_names=names or None
    )


def _classes(state: Mapping[str, Tensor]) -> int | None:
    """The number of outputs: of torchvision's classifiers the last two parameters are the last layer's."""
    if len(state) < 2:
        return None
    weight, bias = list(state.values())[-2:]
    return len(bias) if bias.dim() == 1 and weight.dim() > 1 and len(weight) == len(bias) else None


def _torchvision_names(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under today's names, without the auxiliary classifiers."""
    if name.startswith("densenet"):
        # torchvision's own files still say "norm.1" for what is "norm1" today.
        old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
        return {old.sub(r"\1\2", key): value for key, value in state.items()}
    auxiliary = _AUXILIARY.get(name, ())
    return {key: value for key, value in state.items() if not key.startswith(auxiliary)}


def _own_function(name: str, weights: str) -> LoadedModel:
    build = _import_function(name)
    try:
        model = build()
    except Exception as error:
        raise ValueError(f"model {name!r}: the function raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model {name!r}: the function returned {type(model).__name__}; it must return a torch.nn.Module"
        )
    if weights not in ("default", "none"):
        load_strictly(model, read_state_dict(Path(weights)), source=weights)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    preprocessing = _GREY if first is not None and first.in_channels == 1 else Preprocessing()
    return LoadedModel(model=model.eval(), preprocessing=preprocessing, class_names=None)


def _import_function(name: str) -> Callable[[], object]:
    module_name, _, function_name = name.partition(":")
    # An installed command does not search the working directory, where a user's own module usually lies.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, SyntaxError) as error:
        raise ValueError(f"model {name!r}: module {module_name!r} cannot be imported ({error})") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        close = get_close_matches(function_name, public, n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(f"model {name!r}: module {module_name!r} has no function {function_name!r}{hint}")
    result: Callable[[], object] = function
    return result
