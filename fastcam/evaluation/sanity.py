"""The sanity checks of `fastcam.metrics.randomization`, for methods by name."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from fastcam.attribution.functions.common import explain
from fastcam.evaluation.checks import check_single
from fastcam.metrics.randomization import Stage
from fastcam.metrics.randomization import randomization as randomize
from fastcam.network.arguments import Targets
from fastcam.network.cache import Output
from fastcam.network.layers import LayerName


def randomization(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    layer: LayerName = None,
    *,
    method: str = "grad_cam",
    mode: str = "cascading",
    layers: Sequence[str] | None = None,
    seed: int = 0,
    precision: str | None = None,
    output: Output | None = None,
    **options: Any,
) -> Iterator[Stage]:
    """Make layers of a model random, one after the other, and compare a method's maps with those from before.

    Args:
        model, images, targets, mode, layers, seed: see `fastcam.metrics.randomization.randomization`.
        layer: the method's target layer, as in `fastcam.explain`: a name, a module or None.
        method: a method's name.
        precision, output, options: as in `fastcam.explain`; options are the method's own.

    Returns:
        Stages, one per layer made random; a stage is computed when it is asked for.

    Raises:
        ValueError, TypeError: for an argument that is not valid.
    """
    check_single(method, layer)
    # The copy that is made random has modules of its own: only their names are the same.
    name = layer if layer is None or isinstance(layer, str) else _name_of(model, layer)

    def maps(twin: nn.Module, photos: Tensor, classes: Tensor) -> Tensor:
        found = explain(twin, photos, classes, name, method=method, precision=precision, output=output, **options)
        assert isinstance(found, Tensor)
        return found

    return randomize(
        model,
        images,
        targets,
        explain=maps,
        mode=mode,
        layers=layers,
        seed=seed,
        precision=precision,
        output=output,
    )


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    names = [str(name) for name, module in model.named_modules() if module is layer]
    if not names:
        raise ValueError(f"layer: the {type(layer).__name__} given is no module of the model; pass one of its own")
    return names[0]
