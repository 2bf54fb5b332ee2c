"""From a model and images to maps, by one method or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from fastcam.attribution.case import Case, Resolve
from fastcam.attribution.explanation import Explanation
from fastcam.attribution.method import Evidence, LeftOut, Method, Weighted, Whole
from fastcam.attribution.registry import METHODS
from fastcam.attribution.render import render
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
from fastcam.network.layers import Layer, LayerName, find_layers
from fastcam.network.network import Network
from fastcam.ops.maps import upsample

# Maps: a tensor, or a list of tensors for a list of layers. With return_info=True an Explanation in their place; for
# a list of methods a dict of either. A union of these would have to be taken apart at every call.
Result: TypeAlias = Any


@dataclass(frozen=True)
class Settings:
    """How maps are made, whatever the method; see `fastcam.explain` for the meaning of each."""

    layer: LayerName | Sequence[LayerName] = None
    size: Size = "input"
    normalize: bool = True
    normalize_at: str = "input"
    precision: str | None = None
    output: Output | None = None


@dataclass(frozen=True, eq=False)
class Chosen:
    """A method with the options that this call gives it."""

    method: Method
    options: Mapping[str, Any]


class Explainer:
    """A method or several with their settings, for one model: `Explainer(model, method="grad_cam")(images, targets)`.

    What can be prepared once (the captured graph, folded and clamped weights) is kept between calls, and made
    anew when the model's weights change. The functions of this package share it.
    Keyword arguments are those of `fastcam.explain`.
    """

    def __init__(self, model: nn.Module, *, method: str | Sequence[str] = "relevance_cam", **settings: Any) -> None:
        self.model = check_model(model)
        self._several_methods = not isinstance(method, str)
        names = check_methods(method)
        common = {key: value for key, value in settings.items() if key in Settings.__dataclass_fields__}
        own = {key: value for key, value in settings.items() if key not in common}
        self.chosen = [choose(METHODS[name], own) for name in names]
        _check_known(own, self.chosen)
        self.settings = Settings(**common)
        check_choice("normalize", self.settings.normalize, (True, False))
        check_choice("normalize_at", self.settings.normalize_at, ("input", "layer"))
        if self.settings.layer is not None and all(chosen.method.layer == "none" for chosen in self.chosen):
            raise ValueError(f"layer: {names[0]} explains the images and has no layer; leave it out")

    def __call__(self, images: Tensor, targets: Targets = None, *, return_info: bool = False) -> Result:
        """Explain images; see `fastcam.explain`."""
        explained = self.explanations(images, targets, report=return_info)
        results = {name: e if return_info else e.maps for name, e in explained.items()}
        return results if self._several_methods else next(iter(results.values()))

    def explanations(self, images: Tensor, targets: Targets = None, *, report: bool = False) -> dict[str, Explanation]:
        """Explain images by each method. report: find out what relevance was lost, which costs up to as much again."""
        with torch.inference_mode(False), torch.no_grad():
            return self._explain(images, targets, report=report)

    def _explain(self, images: Tensor, targets: Targets, *, report: bool) -> dict[str, Explanation]:
        s, checks, several = self.settings, DeferredChecks(), [False]

        def resolve(logits: Tensor) -> Tensor:
            checks.add_finite(logits, self.overflow)
            resolved, several[0] = resolve_targets(targets, logits, checks)
            return resolved

        images = check_images(images, checks)
        resolve_size(s.size, images, (1, 1))
        network = self.network(images, checks)
        found = self.find(network, images, resolve, checks, report=report)
        maps = [
            [self.map(c.method, part, images) for part in evidence.parts]
            for c, (evidence, _) in zip(self.chosen, found, strict=True)
        ]
        self.check_maps(maps, checks)
        checks.settle()
        return {
            c.method.name: explanation(
                evidence,
                of_method,
                [layer.name for layer in at],
                several=several[0],
                as_list=isinstance(s.layer, list | tuple) and c.method.layer != "none",
            )
            for c, (evidence, at), of_method in zip(self.chosen, found, maps, strict=True)
        }

    def network(self, images: Tensor, checks: DeferredChecks | None = None) -> Network:
        """The network that is explained, for images of this size. checks: where those of its weights go."""
        s = self.settings
        return network_for(self.model, images, precision=s.precision, output=s.output, checks=checks)

    def find(
        self,
        network: Network,
        images: Tensor,
        resolve: Resolve,
        checks: DeferredChecks,
        *,
        given: Tensor | None = None,
        report: bool = False,
    ) -> list[tuple[Evidence, list[Layer]]]:
        """What each method finds, and at which layers, from passes that they share; arguments as of `Case`."""
        layers = [self._layers(network, chosen.method) for chosen in self.chosen]
        keep = {layer.node for at in layers for layer in at} - {network.graph.images}
        leaves = [leaf for c, at in zip(self.chosen, layers, strict=True) for leaf in c.method.leaves(network, at)]
        shared: dict[str, Any] = {"keep": keep, "leaves": leaves, "checks": checks, "given": given, "report": report}
        case = Case(network, images, resolve, self._at_size, **shared)
        return [(c.method.find(case, at, c.options), at) for c, at in zip(self.chosen, layers, strict=True)]

    def _layers(self, network: Network, method: Method) -> list[Layer]:
        if method.layer == "none":
            return []
        return find_layers(network.graph, self.model, self.settings.layer, images=method.layer == "input")

    def _at_size(self, images: Tensor, layers: Sequence[Layer]) -> tuple[Network, list[fx.Node]]:
        network = self.network(images)
        found = find_layers(network.graph, self.model, [layer.name for layer in layers])
        return network, [layer.node for layer in found]

    def overflow(self) -> str:
        """What to say where what is explained is not finite."""
        return overflow(self.settings.precision)

    def check_maps(self, maps: Sequence[Sequence[Tensor]], checks: DeferredChecks) -> None:
        """Note that maps may hold no NaN and no infinity: an overflow inside a network need not reach its logits."""
        for c, of_method in zip(self.chosen, maps, strict=True):
            explain = partial(overflow, self.settings.precision, f"its {c.method.name} maps")
            for one in of_method:
                checks.add_finite(one, explain)

    def map(self, method: Method, part: Weighted | Whole, images: Tensor) -> Tensor:
        """Maps (N, T, H, W) of a part of the evidence, as the settings have them."""
        s = self.settings
        own = part.activation.shape[2:] if isinstance(part, Weighted) else part.map.shape[2:]
        size = resolve_size(s.size, images, own)
        if s.normalize and s.normalize_at == "layer":
            small = render(part, own, relu=method.relu, normalize=True, signed=method.signed)
            return upsample(small, (size[0], size[1]))
        return render(part, size, relu=method.relu, normalize=s.normalize, signed=method.signed)


def check_methods(method: str | Sequence[str]) -> list[str]:
    """The names of a method or of several. Raises ValueError for an unknown one, a repeated one or none."""
    names = [method] if isinstance(method, str) else list(method)
    for name in names:
        check_choice("method", name, tuple(METHODS))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"method: {names!r} given, a name or a list of different names is valid")
    return names


def choose(method: Method, options: Mapping[str, Any]) -> Chosen:
    """A method with those of the options that are its own, checked."""
    chosen = Chosen(method, {name: options.get(name, default) for name, default in method.options.items()})
    method.check(chosen.options)
    return chosen


def _check_known(options: Mapping[str, Any], chosen: Sequence[Chosen]) -> None:
    known = [option for c in chosen for option in c.method.options]
    unknown = [option for option in options if option not in known]
    if unknown:
        names = ", ".join(c.method.name for c in chosen)
        valid = dict.fromkeys((*Settings.__dataclass_fields__, *known))
        raise TypeError(f"{unknown[0]}: no option of {names}; {', '.join(valid)} are valid")


def explanation(
    evidence: Evidence, maps: list[Tensor], names: list[str], *, several: bool, as_list: bool
) -> Explanation:
    """Maps (N, T, H, W) per layer and what was found with them, shaped as the caller asked: T and the list may go."""

    def shaped(tensors: list[Any]) -> Any:
        kept = tensors if several else [None if tensor is None else tensor.squeeze(1) for tensor in tensors]
        return kept if as_list else kept[0]

    def told(found: Sequence[LeftOut]) -> Any:
        per_layer = [
            {name: amount if several else amount.squeeze(1) for name, amount in part.items()}
            if isinstance(part, Mapping)
            else part
            for part in found
        ]
        return per_layer if as_list else per_layer[0]

    logits = evidence.logits.to(torch.promote_types(evidence.logits.dtype, torch.float32))
    return Explanation(
        maps=shaped(maps),
        logits=logits,
        probabilities=logits.softmax(dim=1),
        targets=evidence.targets if several else evidence.targets.squeeze(1),
        layer=names if as_list else (names or ["input"])[0],
        weights=shaped([part.weights if isinstance(part, Weighted) else None for part in evidence.parts]),
        left_out={key: told(found) for key, found in evidence.left_out.items()},
    )


def overflow(precision: str | None, what: str = "its logits") -> str:
    """What to say of logits or maps that are not finite."""
    hint = "; float16 overflows beyond 65504: use bfloat16 or float32" if precision == "float16" else ""
    return f"model: {what} for these images are NaN or infinite{hint}"
