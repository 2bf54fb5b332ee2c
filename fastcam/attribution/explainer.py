"""From a model and images to maps, by any method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.methods.activation import CAM
from fastcam.methods.explanation import Explanation
from fastcam.methods.gradient import GRAD_CAM
from fastcam.methods.method import Evidence, Method
from fastcam.methods.relevance import RELEVANCE_CAM
from fastcam.methods.scoring import SCORE_CAM
from fastcam.network.arguments import (
    DeferredChecks,
    Size,
    Targets,
    check_choice,
    check_images,
    check_model,
    resolve_size,
    resolve_targets,
)
from fastcam.network.cache import Output, network_for
from fastcam.network.layers import LayerName, find_layers
from fastcam.ops.maps import upsample

METHODS: Mapping[str, Method] = {m.name: m for m in (CAM, GRAD_CAM, RELEVANCE_CAM, SCORE_CAM)}

Maps = Tensor | list[Tensor]


@dataclass(frozen=True)
class Settings:
    """How maps are made, whatever the method; see `fastcam.explain` for the meaning of each."""

    layer: LayerName | Sequence[LayerName] = None
    size: Size = "input"
    normalize: bool = True
    normalize_at: str = "input"
    precision: str | None = None
    output: Output | None = None


class Explainer:
    """A method with its settings, for one model: `Explainer(model, method="grad_cam")(images, targets)`.

    What can be prepared once (the captured graph, folded and clamped weights) is kept between calls, and made
    anew when the model's weights change. The functions of this package share it.
    Keyword arguments are those of `fastcam.explain`.
    """

    def __init__(self, model: nn.Module, *, method: str = "relevance_cam", **settings: Any) -> None:
        self.model = check_model(model)
        check_choice("method", method, tuple(METHODS))
        self.method = METHODS[method]
        common = {key: value for key, value in settings.items() if key in Settings.__dataclass_fields__}
        own = {key: value for key, value in settings.items() if key not in common}
        unknown = [key for key in own if key not in self.method.options]
        if unknown:
            valid = (*Settings.__dataclass_fields__, *self.method.options)
            raise TypeError(f"{unknown[0]}: no option of {method}; {', '.join(valid)} are valid")
        self.settings = Settings(**common)
        self.options = {**self.method.options, **own}
        self.method.check(self.options)
        check_choice("normalize", self.settings.normalize, (True, False))
        check_choice("normalize_at", self.settings.normalize_at, ("input", "layer"))

    @overload
    def __call__(self, images: Tensor, targets: Targets = None, *, return_info: Literal[False] = False) -> Maps: ...

    @overload
    def __call__(self, images: Tensor, targets: Targets = None, *, return_info: Literal[True]) -> Explanation: ...

    @overload
    def __call__(self, images: Tensor, targets: Targets = None, *, return_info: bool) -> Maps | Explanation: ...

    def __call__(self, images: Tensor, targets: Targets = None, *, return_info: bool = False) -> Maps | Explanation:
        """Explain images; see `fastcam.explain`."""
        checks = DeferredChecks()
        several = [False]

        def resolve(logits: Tensor) -> Tensor:
            checks.add(~logits.isfinite().all(), lambda: _overflow(self.settings.precision))
            resolved, several[0] = resolve_targets(targets, logits, checks)
            return resolved

        with torch.inference_mode(False), torch.no_grad():
            images = check_images(images, checks)
            resolve_size(self.settings.size, images, (1, 1))
            network = network_for(self.model, images, precision=self.settings.precision, output=self.settings.output)
            layers = find_layers(network.graph, self.model, self.settings.layer)
            evidence = self.method.find(network, images, layers, resolve, self.options)
            maps = [
                self._map(activation, weights, images)
                for activation, weights in zip(evidence.activations, evidence.weights, strict=True)
            ]
            checks.settle()
            names = [layer.name for layer in layers]
            explanation = _explanation(evidence, maps, names, several=several[0], as_list=self._is_list)
        return explanation if return_info else explanation.maps

    @property
    def _is_list(self) -> bool:
        return isinstance(self.settings.layer, list | tuple)

    def _map(self, activation: Tensor, weights: Tensor, images: Tensor) -> Tensor:
        """Sum at layer resolution, upsample bilinearly, clip if the method does, min-max per map."""
        s = self.settings
        size = resolve_size(s.size, images, activation.shape[2:])
        if s.normalize and s.normalize_at == "layer":
            small = ops.cam_map(activation, weights, list(activation.shape[2:]), self.method.relu, True)
            return upsample(small, (size[0], size[1]))
        maps: Tensor = ops.cam_map(activation, weights, size, self.method.relu, s.normalize)
        return maps


def _explanation(
    evidence: Evidence, maps: list[Tensor], names: list[str], *, several: bool, as_list: bool
) -> Explanation:
    def shaped(tensors: list[Tensor]) -> Maps:
        kept = tensors if several else [tensor.squeeze(1) for tensor in tensors]
        return kept if as_list else kept[0]

    logits = evidence.logits.to(torch.promote_types(evidence.logits.dtype, torch.float32))
    return Explanation(
        maps=shaped(maps),
        logits=logits,
        probabilities=logits.softmax(dim=1),
        targets=evidence.targets if several else evidence.targets.squeeze(1),
        layer=names if as_list else names[0],
        weights=shaped(evidence.weights),
        left_out={key: value if as_list else value[0] for key, value in evidence.left_out.items()},
    )


def _overflow(precision: str | None) -> str:
    hint = "; float16 overflows beyond 65504: use bfloat16 or float32" if precision == "float16" else ""
    return f"model: its logits for these images are NaN or infinite{hint}"
