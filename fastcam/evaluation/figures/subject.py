"""What a figure is about: a photo, and the model that looks at it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fastcam.attribution import METHODS
from fastcam.class_names import class_title
from fastcam.metrics.batch import Batch
from fastcam.network.arguments import check_choice
from fastcam.network.cache import network_for
from fastcam.network.graph import is_feature_map, shape
from fastcam.network.layers import find_layers, label
from fastcam.pictures import Explained, explain_photo
from fastcam.plots import Map, Pixels, overlay


def _no_progress(_: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A photo, and the model that looks at it.

    model: the classifier. inputs: the prepared photo, (1, C, H, W), on the model's device. photo: what people see of
        it, (H, W, 3), 8 bits. title: of the figure.
    names: of the classes. targets: class indices to explain; None: each figure's own choice of the most probable.
    precision: as in `fastcam.explain`. before: told what comes next, for showing progress.
    """

    model: nn.Module
    inputs: Tensor
    photo: Pixels
    title: str
    names: Sequence[str] | None = None
    targets: Sequence[int] | None = None
    precision: str | None = None
    before: Callable[[str], None] = field(default=_no_progress)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Of every class, (classes,)."""
        batch = Batch(self.model, self.inputs, precision=self.precision)
        found: NDArray[np.float32] = batch.probabilities[0].float().cpu().numpy()
        batch.settle()
        return found

    def classes(self, count: int = 1) -> tuple[int, ...]:
        """The targets; where there are none, the `count` most probable classes, the first of equals first."""
        if self.targets is not None:
            return tuple(self.targets)
        return tuple(int(i) for i in np.argsort(-self.probabilities, kind="stable")[:count])

    def name(self, target: int) -> str:
        """The class's name with its index: several classes may have one name."""
        index = f" ({target})" if self.names is not None else ""
        return f"{class_title(target, self.names)}{index}"

    def heading(self, target: int) -> str:
        """The class's name, index and probability."""
        return f"{self.name(target)}, probability {self.probabilities[target]:.3f}"

    def explained(
        self,
        methods: Sequence[str],
        layers: Sequence[str] | None,
        targets: Sequence[int],
        *,
        model: nn.Module | None = None,
    ) -> Explained:
        """Raw maps of every method at every layer; methods that explain the images themselves take no layer."""
        return explain_photo(
            model or self.model,
            self.inputs,
            methods=layers_of(methods, layers),
            targets=targets,
            precision=self.precision,
            before=self.before,
        )

    def overlay(self, method: str, values: Map) -> Pixels:
        """A method's map over the photo; signed maps in signed colours."""
        return coloured(self.photo, values, signed=METHODS[method].signed)


def coloured(photo: Pixels, values: Map, *, signed: bool) -> Pixels:
    """A map over a photo. Of signed maps 0.5% of the pixels may lie beyond the ends of the colours.

    Relevance at single pixels is peaked: scaled by its largest magnitude, the rest of the map would be pale.
    """
    if not signed:
        return overlay(photo, values)
    # A map that is zero almost everywhere keeps its own largest magnitude.
    end = float(np.quantile(np.abs(values), 0.995)) or float(np.abs(values).max())
    return overlay(photo, values, signed=True, largest=end)


def layers_of(methods: Sequence[str], layers: Sequence[str] | None) -> Mapping[str, Sequence[str] | None]:
    """The layers that each method is asked for. Raises ValueError for unknown methods and for none."""
    if not methods:
        raise ValueError("methods is empty: name at least one")
    for name in methods:
        check_choice("methods", name, tuple(METHODS))
    return {name: None if METHODS[name].layer == "none" else layers for name in methods}


def stage_layers(subject: Subject, count: int) -> list[str]:
    """The last layer of each resolution, for the `count` deepest resolutions, from the shallow to the deep.

    Of a resolution's layers the last that is nowhere negative (behind a ReLU), if there is one: maps made of linear
    bottlenecks are noisy. For ResNet-50 with 4: layer1, layer2, layer3, layer4. The deepest is what `layer=None` is.
    """
    network = network_for(subject.model, subject.inputs, precision=subject.precision)
    graph = network.graph
    (last,) = find_layers(graph, subject.model, None)
    order = {node: position for position, node in enumerate(graph.nodes)}
    # What no module returned (a padded copy, say) is no stage.
    calls = [nodes[-1] for nodes in graph.layers.values()]
    returned = {node for node in calls if node in graph.used and is_feature_map(graph, node)} - graph.channels_last
    found: dict[tuple[int, ...], str] = {}
    for node in sorted(returned - {graph.images}, key=order.__getitem__):
        size = shape(node)[2:]
        if order[node] < order[last.node] and (node in network.nonnegative or size not in found):
            found[size] = label(graph, node)
    found[shape(last.node)[2:]] = last.name
    by_area = sorted(found, key=lambda size: size[0] * size[1], reverse=True)
    return [found[size] for size in by_area][-count:]


def with_targets(subject: Subject, targets: Sequence[int]) -> Subject:
    """The same photo, with targets."""
    return replace(subject, targets=tuple(targets))
