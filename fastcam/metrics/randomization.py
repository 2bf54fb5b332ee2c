"""Sanity checks: do a method's maps change when the model's layers lose what they have learnt?

Source: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, section 4.
"""

import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fastcam.metrics.batch import Batch
from fastcam.metrics.given import check_float
from fastcam.metrics.similarity import rank_correlation, ssim
from fastcam.network.arguments import Targets, check_choice, check_model, resolve_targets
from fastcam.network.cache import Output
from fastcam.network.graph import Graph

# From a model, images (N, C, H, W) and targets (N,) or (N, T) to maps (N, H, W) or (N, T, H, W).
ExplainModel = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Stage:
    """Maps of a model of which some layers are random, beside those of the model itself.

    name: of the layer made random at this stage. maps: (N, H, W), or (N, T, H, W) for targets (N, T).
    rank_correlation, ssim: with the model's own maps, (N,) or (N, T), float32. Those called absolute compare the maps'
    absolute values: for signed maps Adebayo et al. give both; of maps that are nowhere negative they are the same.
    """

    name: str
    maps: Tensor
    rank_correlation: Tensor
    ssim: Tensor
    absolute_rank_correlation: Tensor
    absolute_ssim: Tensor


def randomization(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    explain: ExplainModel,
    mode: str = "cascading",
    layers: Sequence[str] | None = None,
    seed: int = 0,
    precision: str | None = None,
    output: Output | None = None,
) -> Iterator[Stage]:
    """Make layers of a model random, one after the other, and compare its maps with those from before.

    All is done on a deep copy in eval mode; the model is not touched. The classes explained stay those of the model
    as it was. A stage is computed when it is asked for.

    What becomes of a module that has parameters of its own: its `reset_parameters` is called where it has one; else
    each of its parameters is drawn from a normal distribution of mean 0 and of the root mean square that the
    parameter's values had. Batch norm's `reset_parameters` makes the scale 1, the shift 0, the running mean 0 and the
    running variance 1: it then passes its input on. Numbers are drawn on the CPU, and so are the same on every device;
    the global generator is left as it was.

    Args:
        model: the classifier.
        images: float (N, C, H, W), preprocessed as the model expects.
        targets: None (the class that the model predicts), an int, (N,) or (N, T) integers.
        explain: makes maps with a model: `explain(model, images, targets)`, with targets (N,) or (N, T), returns
            (N, H, W) or (N, T, H, W), at least 11 x 11 pixels. By the name of a method:
            `fastcam.evaluation.sanity.randomization`.
        mode: "cascading": every stage keeps the random layers of the stages before. "independent": one layer at a time,
            the others as the model has them.
        layers: names of modules, in the order of the stages; with a name go all modules below it. None: every module
            with parameters of its own that the logits depend on, from the logits down.
        seed: of the random numbers; the stage's place is added.
        precision, output: as in `fastcam.explain`, for the classes that the model predicts.

    Returns:
        Stages, one per layer.

    Raises:
        ValueError, TypeError: for an argument that is not valid, a model that cannot be copied, maps that do not fit.
    """
    check_choice("mode", mode, ("cascading", "independent"))
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: {seed!r} given, an integer is valid")
    if not callable(explain):
        raise TypeError(f"explain: {type(explain).__name__} given, a function of model, images and targets is valid")
    given = check_model(model)
    twin = _copy(given)
    chosen = None if layers is None else _check_layers(layers, twin)
    # Captured before, more often than not: the copy is captured only by methods that need it.
    batch = Batch(given, images, precision=precision, output=output)
    found = chosen or layers_from_logits(batch.network.graph, given)
    resolved, several = resolve_targets(targets, batch.probabilities, batch.checks)
    batch.settle()
    classes = resolved if several else resolved.squeeze(1)
    return _stages(twin, images, classes, explain, found, seed, keep=mode == "cascading")


def _stages(
    twin: nn.Module,
    images: Tensor,
    classes: Tensor,
    explain: ExplainModel,
    layers: Sequence[str],
    seed: int,
    *,
    keep: bool,
) -> Iterator[Stage]:
    original = _check_maps(explain(twin, images, classes), classes)
    for place, name in enumerate(layers):
        layer = twin.get_submodule(name)
        learnt = [] if keep else [tensor.detach().clone() for tensor in _tensors(layer)]
        make_random(layer, seed + place)
        maps = _check_maps(explain(twin, images, classes), classes)
        yield Stage(
            name=name,
            maps=maps,
            rank_correlation=rank_correlation(original, maps),
            ssim=ssim(original, maps),
            absolute_rank_correlation=rank_correlation(original.abs(), maps.abs()),
            absolute_ssim=ssim(original.abs(), maps.abs()),
        )
        if not keep:
            _overwrite(layer, learnt)


def layers_from_logits(graph: Graph, model: nn.Module) -> list[str]:
    """Names of the modules with parameters of their own that the logits depend on, the last used first."""
    used = graph.ancestors([graph.logits])
    place = {node: i for i, node in enumerate(graph.nodes) if node in used}

    def last_use(node: fx.Node) -> int:
        """Where a parameter, or what is computed from parameters alone, last meets the images."""
        users = [user for user in node.users if user in place]
        return max((last_use(user) if user in graph.weights else place[user] for user in users), default=-1)

    uses: dict[str, int] = {}
    for node, name in graph.weights.items():
        owner = name.rpartition(".")[0]
        if node in place:
            uses[owner] = max(uses.get(owner, -1), last_use(node))
    own = {name for name, module in model.named_modules() if _has_own(module)}
    # Of equal places (a layer and its parametrization) the order of the names decides.
    return sorted(own & uses.keys(), key=lambda name: (-uses[name], name))


def make_random(layer: nn.Module, seed: int) -> None:
    """Re-initialise a module and all below it, in place; see `randomization` for what becomes of each."""
    fresh = copy.deepcopy(layer).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            if not _has_own(module):
                continue
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                parameter.copy_(torch.randn_like(parameter) * parameter.square().mean().sqrt())
    _overwrite(layer, _tensors(fresh))


def _overwrite(layer: nn.Module, tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for own, other in zip(_tensors(layer), tensors, strict=True):
            own.copy_(other)


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def _has_own(module: nn.Module) -> bool:
    return any(parameter.is_floating_point() for parameter in module.parameters(recurse=False))


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        reason = f"cannot be copied, and only a copy may be changed: {error}"
        raise ValueError(f"model: {type(model).__name__} {reason}") from error


def _check_layers(layers: Sequence[str], model: nn.Module) -> Sequence[str]:
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    valid = [name for name, module in modules.items() if any(map(_has_own, module.modules()))]
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(f"layers: {layers!r} given, None or a list of at least one module's name is valid")
    for name in layers:
        if name in valid:
            continue
        close = difflib.get_close_matches(str(name), valid, n=5, cutoff=0.5) or valid[-6:]
        lacks = "has no parameters" if name in modules else "is no module of the model"
        raise ValueError(f"layers: {name!r} {lacks}; choose from {', '.join(map(repr, close))}")
    return layers


def _check_maps(maps: object, classes: Tensor) -> Tensor:
    found = check_float("explain", maps, "a float tensor of maps")
    if found.shape[:-2] != classes.shape:
        expected = ", ".join(map(str, classes.shape))
        raise ValueError(f"explain: returned maps of shape {tuple(found.shape)}, ({expected}, H, W) is valid")
    return found.detach()
