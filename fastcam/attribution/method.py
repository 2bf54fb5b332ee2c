"""What a method is: evidence for each target at each layer, and how a map is made of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, fx

from fastcam.attribution.case import Case
from fastcam.network.layers import Layer
from fastcam.network.network import Network

Family = Literal["gradient", "activation", "score", "relevance"]
Options = Mapping[str, Any]
# What a method skipped at a layer: a tensor (N,), or by the name of a place a tensor (N, T).
LeftOut = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Weighted:
    """Evidence sum_k alpha_k A_k: activation A (N, K, h, w), weights alpha (N, T, K) or (N, T, K, h, w)."""

    activation: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Whole:
    """Evidence that is a map by itself, (N, T, h, w), at a resolution of its own."""

    map: Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a method finds: logits (N, classes), targets (N, T), a part per layer (or one, at the input).

    left_out: what was skipped, by name, for each part.
    """

    logits: Tensor
    targets: Tensor
    parts: Sequence[Weighted | Whole]
    left_out: Mapping[str, Sequence[LeftOut]] = field(default_factory=dict)


def no_leaves(network: Network, layers: Sequence[Layer]) -> tuple[fx.Node, ...]:
    """The method takes no gradients."""
    return ()


def the_layers(network: Network, layers: Sequence[Layer]) -> tuple[fx.Node, ...]:
    """Scores are differentiated by the activations of the layers themselves."""
    return tuple(layer.node for layer in layers)


def nothing_to_check(options: Options) -> None:
    """The method has no options with invalid values."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, and what a user wants to know of it.

    find: evidence for the case's images at some layers, given the method's own options.
    leaves: the tensors by which scores are differentiated; all methods of one call share one backward pass to them.
    layer: what `layer=None` stands for: "last", the last feature map; "input", the images; "none": the method
        explains the images and takes no layer.
    relu: maps are cut at 0 after upsampling.
    signed: maps of relevance; normalising divides by the largest magnitude, so that 0 stays 0.
    forwards, backwards: cost in passes through the model. forwards: of an image, for all its targets together;
        backwards: of each target, through what lies behind the layer. A blank image takes one pass a call.
    options: the method's own keyword arguments and their defaults; check: raises ValueError for invalid ones.
    """

    name: str
    family: Family
    paper: str
    find: Callable[[Case, Sequence[Layer], Options], Evidence]
    relu: bool
    forwards: str
    backwards: str = "0"
    signed: bool = False
    layer: Literal["last", "input", "none"] = "last"
    leaves: Callable[[Network, Sequence[Layer]], tuple[fx.Node, ...]] = no_leaves
    options: Options = field(default_factory=dict)
    check: Callable[[Options], None] = nothing_to_check
