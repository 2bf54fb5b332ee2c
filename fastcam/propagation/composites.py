"""Composites: which rule each layer of a network takes; those with a name.

| name | convolutions | linear layers | first layers, if relevance passes them |
|---|---|---|---|
| z+ | z+ | z+ | z^B |
| epsilon | epsilon | epsilon | epsilon |
| gamma | gamma | gamma | gamma |
| alpha_beta | alpha-beta | alpha-beta | alpha-beta |
| epsilon_plus | z+ | epsilon | z+ |
| epsilon_plus_flat | z+ | epsilon | flat |
| epsilon_gamma_box | gamma | epsilon | z^B |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from fastcam.network.arguments import check_choice
from fastcam.network.graph import Graph
from fastcam.network.plan import Step
from fastcam.network.units import is_foldable, is_layer
from fastcam.propagation.affine import STABILISER, epsilon_norm
from fastcam.propagation.affine import epsilon as epsilon_rule
from fastcam.propagation.affine import gamma as gamma_rule
from fastcam.propagation.operations import operation_rule
from fastcam.propagation.pixels import FLAT, W_SQUARE, Bounds, box
from fastcam.propagation.rule import Rule
from fastcam.propagation.z_plus import CONTRASTIVE, NEGATED, Z_PLUS
from fastcam.propagation.z_plus import alpha_beta as alpha_beta_rule


@dataclass(frozen=True)
class Composite:
    """Rules by kind of layer; the operations between the layers have those of `fastcam.propagation.operations`.

    convolution, linear: of the layers.
    first: of the layers with no other layer between them and the images; None: the same as elsewhere.
    classifier: of the layers with no other layer between them and the logits; None: the same as elsewhere.
    norm: of batch norms that are not folded into a convolution; None: relevance passes, where the input is not 0.
    """

    convolution: Rule = Z_PLUS
    linear: Rule = Z_PLUS
    first: Rule | None = None
    classifier: Rule | None = None
    norm: Rule | None = None

    def rule_for(self, step: Step, graph: Graph) -> Rule:
        """The rule of a step. Raises ValueError, naming the operation and its module, where there is none."""
        unit = step.unit
        if unit is None:
            return self.norm if self.norm is not None and is_foldable(step.node, graph) else operation_rule(step, graph)
        if self.first is not None and not _layers(graph.ancestors([unit.layer]) - {unit.layer}, graph):
            return self.first
        if self.classifier is not None and not _layers(graph.descendants([unit.layer]) - {unit.layer}, graph):
            return self.classifier
        return self.linear if unit.geometry is None else self.convolution


def _layers(nodes: set[fx.Node], graph: Graph) -> bool:
    """Whether a convolution or linear layer is among the nodes."""
    return any(is_layer(node, graph) for node in nodes)


@dataclass(frozen=True)
class _Named:
    """A composite with a name: how it is made from its options, and their defaults.

    first: its own rule for first layers, by name. folds: whether its convolutions have their batch norms folded in.
    """

    make: Callable[..., dict[str, Rule]]
    options: Mapping[str, float]
    first: str | None = None
    folds: bool = False


_NAMED: dict[str, _Named] = {
    "z+": _Named(dict, {}, first="zB"),
    "epsilon": _Named(
        lambda epsilon: {
            "convolution": epsilon_rule(epsilon),
            "linear": epsilon_rule(epsilon),
            "norm": epsilon_norm(epsilon),
        },
        {"epsilon": 1e-6},
        folds=True,
    ),
    "gamma": _Named(
        lambda gamma: {
            "convolution": gamma_rule(gamma),
            "linear": gamma_rule(gamma),
            "norm": epsilon_norm(STABILISER),
        },
        {"gamma": 0.25},
        folds=True,
    ),
    "alpha_beta": _Named(
        lambda alpha, beta: {"convolution": alpha_beta_rule(alpha, beta), "linear": alpha_beta_rule(alpha, beta)},
        {"alpha": 2.0, "beta": 1.0},
    ),
    "epsilon_plus": _Named(lambda epsilon: {"linear": epsilon_rule(epsilon)}, {"epsilon": 1e-6}),
    "epsilon_plus_flat": _Named(lambda epsilon: {"linear": epsilon_rule(epsilon)}, {"epsilon": 1e-6}, first="flat"),
    "epsilon_gamma_box": _Named(
        lambda epsilon, gamma: {
            "convolution": gamma_rule(gamma),
            "linear": epsilon_rule(epsilon),
            "norm": epsilon_norm(STABILISER),
        },
        {"epsilon": 1e-6, "gamma": 0.25},
        first="zB",
        folds=True,
    ),
}
RULES = tuple(_NAMED)
FIRST = ("zB", "flat", "w2", "z+")
CLASSIFIERS: Mapping[str, Rule | None] = {"same": None, "negated": NEGATED, "contrastive": CONTRASTIVE}


def composite(
    rule: str = "z+",
    *,
    epsilon: float | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    first: str | None = None,
    pixel_range: object = None,
    classifier: str = "same",
) -> Composite:
    """The composite of that name.

    Args:
        rule: see the table of `fastcam.propagation.composites`.
        epsilon: of the epsilon rule, 1e-6 unless given. gamma: 0.25. alpha, beta: 2 and 1; alpha - beta = 1.
        first: of the first layers, in place of the composite's own: "zB", "flat", "w2" or "z+".
        pixel_range: (low, high) of the images for z^B, numbers or one per channel; None: that of [0, 1] in ImageNet's
            normalisation, for images of three channels.
        classifier: "same", "negated" (the z+ rule with -W at the last layer) or "contrastive" (the z+ rule, minus
            that): what contrastive LRP and excitation backprop take.

    Raises ValueError, TypeError for a name that does not exist, a value that is not valid, and an option that the
    composite has no use for.
    """
    check_choice("rule", rule, RULES)
    if first is not None:
        check_choice("first", first, FIRST)
    check_choice("classifier", classifier, tuple(CLASSIFIERS))
    named = _NAMED[rule]
    given = {"epsilon": epsilon, "gamma": gamma, "alpha": alpha, "beta": beta}
    own = dict(named.options)
    for name, value in given.items():
        if value is not None:
            if name not in own:
                takers = ", ".join(repr(other) for other, n in _NAMED.items() if name in n.options)
                raise ValueError(f"{name}: {value!r} given, but rule {rule!r} has no {name}; {takers} have one")
            own[name] = _number(name, value)
    _check_values(own)
    bounds = None if pixel_range is None else _bounds(pixel_range)
    name_of_first = named.first if first is None else first
    if bounds is not None and name_of_first != "zB":
        raise ValueError(f"pixel_range: {pixel_range!r} given, but only first='zB' has use for it")
    firsts = {"zB": box(bounds, folded=named.folds), "flat": FLAT, "w2": W_SQUARE, "z+": Z_PLUS}
    return Composite(
        **named.make(**own),
        first=None if name_of_first is None else firsts[name_of_first],
        classifier=CLASSIFIERS[classifier],
    )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: {type(value).__name__} given, a number is valid")
    return float(value)


def _check_values(options: Mapping[str, float]) -> None:
    """Raise ValueError for a number out of its range."""
    for name, value in options.items():
        least_excluded = name == "epsilon"
        if not math.isfinite(value) or value < 0 or (least_excluded and value == 0):
            valid = "a finite number above 0" if least_excluded else "a finite number of at least 0"
            raise ValueError(f"{name}: {value!r} given, {valid} is valid")
    if "alpha" in options and not math.isclose(options["alpha"] - options["beta"], 1.0, abs_tol=1e-9):
        raise ValueError(
            f"alpha, beta: {options['alpha']!r} and {options['beta']!r} given; alpha - beta must be 1, such as 2 and 1"
        )


def _bounds(pixel_range: Any) -> Bounds:
    """(low, high) as tuples of numbers."""
    try:
        low, high = (_side(side) for side in pixel_range)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"pixel_range: {pixel_range!r} given; (low, high), each a number or one number per channel, is valid"
        ) from error
    if len(low) != len(high) and 1 not in (len(low), len(high)):
        raise ValueError(f"pixel_range: {len(low)} low and {len(high)} high values given; as many of both are valid")
    for i in range(max(len(low), len(high))):
        below, above = low[i % len(low)], high[i % len(high)]
        if not (math.isfinite(below) and math.isfinite(above) and below < above):
            raise ValueError(f"pixel_range: low {below!r} and high {above!r} given; low < high, both finite, is valid")
    return low, high


def _side(side: Any) -> tuple[float, ...]:
    flat = side.flatten().tolist() if hasattr(side, "flatten") else side
    numbers = tuple(float(value) for value in (flat if isinstance(flat, list | tuple) else [flat]))
    if not numbers:
        raise ValueError("empty")
    return numbers
