"""Whether a study can be carried out: all that can be told before a photo is looked at."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from fastcam.attribution.registry import METHODS
from fastcam.datasets.sample import DataSet
from fastcam.evaluation.study import MethodSpec, ModelSpec, Study
from fastcam.metrics.registry import METRICS
from fastcam.models.preprocessing import parse_size
from fastcam.network.arguments import check_choice
from fastcam.network.precision import PRECISIONS

TARGETS = ("predicted", "label")
SPACES = ("normalized", "pixel")
# The option of metrics by which `space` acts.
BASELINE = "baseline"

# Wraps another method, its option `method`; the options of both are its own.
UCAG = "ucag"
UCAG_OPTIONS = ("method", "patches", "crop", "scale", "batch_size")
# What a method can be told besides its own options; sizes and layers are the study's to say, and maps come raw.
SETTINGS = ("normalize", "normalize_at")


def check_study(study: Study) -> None:
    """Raise ValueError or TypeError for a value that is not valid, whatever the data set and the models hold."""
    for models_name, count in _counted(model.name for model in study.models):
        if count > 1:
            raise ValueError(f"models: {models_name!r} stands {count} times; once is valid (rows are told apart by it)")
    for model in study.models:
        _check_model(model)
    for label, count in _counted(method.label for method in study.methods):
        if count > 1:
            raise ValueError(f"methods: label {label!r} stands {count} times; give each its own `label`")
    for method in study.methods:
        check_method(method)
    _check_metrics(study)
    check_choice("targets", study.targets, TARGETS)
    check_choice("space", study.space, SPACES)
    check_choice("precision", study.precision, (None, *PRECISIONS))
    check_choice("correct_only", study.correct_only, (True, False))
    for key, value in (("subset", study.subset), ("batch", study.batch), ("part", study.part)):
        if not (key == "subset" and value is None) and (type(value) is not int or value < 1):
            raise ValueError(f"{key}: {value!r} given, a positive integer is valid")
    if type(study.seed) is not int:
        raise ValueError(f"seed: {study.seed!r} given, an integer is valid")


def check_method(method: MethodSpec) -> None:
    """Raise ValueError for a method or an option of it that is not known, or a value that is not valid."""
    wrapped = wrapped_name(method)
    check_known("methods", wrapped, (*METHODS, UCAG))
    own = METHODS[wrapped].options
    valid = {*own, *SETTINGS, *(UCAG_OPTIONS if method.name == UCAG else ())} - {"generator"}
    for key in method.options:
        if key not in valid:
            raise ValueError(
                f"methods: {method.label}: option {key!r} is unknown{close_to(key, valid)}; "
                f"{', '.join(sorted(valid))} are valid"
            )
    METHODS[wrapped].check({key: method.options.get(key, default) for key, default in own.items()})


def check_classes(study: Study, dataset: DataSet, model: str, outputs: int) -> None:
    """Raise ValueError where labels are looked at and cannot be the outputs of a model with so many."""
    if study.targets != "label" and not study.correct_only:
        return
    highest = max((sample.label for sample in dataset.samples if sample.label is not None), default=0)
    if dataset.classes not in (None, outputs):
        found = f"labels are positions among the {dataset.classes} classes"
    elif highest >= outputs:
        found = f"labels run to {highest}, given by --classes or the names of folders,"
    else:
        return
    raise ValueError(
        f"classes: {found} of the data set {dataset.name}, and {model} has {outputs} outputs; give --classes FILE, "
        "which says which output stands for which class, or a model of these classes"
    )


def wrapped_name(method: MethodSpec) -> str:
    """The method's name among `fastcam.methods()`: of ucag the method that it wraps, its option `method`."""
    return str(method.options.get("method", "grad_cam")) if method.name == UCAG else method.name


def metric_options(study: Study, *, black: Sequence[float] = (0.0,)) -> dict[str, Any]:
    """The metrics' options as the study has them; `black`: a black pixel, scaled as the network's input is."""
    takes_baseline = any(BASELINE in METRICS[name].options for name in study.metrics)
    return {**study.options, **({BASELINE: tuple(black)} if study.space == "pixel" and takes_baseline else {})}


def _counted(names: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(names).most_common()


def _check_model(model: ModelSpec) -> None:
    for key, value in (("name", model.name), ("weights", model.weights)):
        if not isinstance(value, str) or not value:
            raise ValueError(f"models: {key}: {value!r} given, a word is valid")
    layers = model.layers
    if layers is not None and (not isinstance(layers, tuple) or not layers or not all(map(_is_word, layers))):
        raise ValueError(f"models: {model.name}: layers: {layers!r} given, a list of module names is valid")
    if model.resize is not None:
        parse_size(str(model.resize))
    if model.crop not in (None, "none"):
        parse_size(str(model.crop))


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _check_metrics(study: Study) -> None:
    if not study.metrics:
        raise ValueError(f"metrics: none given; {', '.join(METRICS)} are valid")
    for name, count in _counted(study.metrics):
        check_known("metrics", name, METRICS)
        if count > 1:
            raise ValueError(f"metrics: {name!r} stands {count} times; once is valid")
    valid = {key for name in study.metrics for key in METRICS[name].options}
    for key in study.options:
        if key not in valid:
            raise ValueError(
                f"options: {key!r} is no option of these metrics{close_to(key, valid)}; "
                f"{', '.join(sorted(valid)) or 'they have none'}{' are valid' if valid else ''}"
            )
    if study.space == "pixel" and BASELINE in study.options:
        raise ValueError('options: baseline given beside space = "pixel", which sets it to black; give one of them')
    options = metric_options(study)
    for name in study.metrics:
        metric = METRICS[name]
        metric.check({key: options.get(key, default) for key, default in metric.options.items()})


def check_known(key: str, name: object, known: Collection[str]) -> None:
    """Raise ValueError for a name that is not known; close names are listed, or all."""
    if name not in known:
        raise ValueError(f"{key}: {name!r} is unknown{close_to(name, known) or '; valid are ' + ', '.join(known)}")


def close_to(name: object, known: Iterable[str]) -> str:
    """What to add to a message: names close to the one given."""
    close = get_close_matches(str(name).lower(), list(known), n=3)
    return f"; close names: {', '.join(close)}" if close else ""


def check_single(method: object, layer: object) -> None:
    """Raise TypeError where several methods or layers are given to what takes one of each."""
    if not isinstance(method, str):
        raise TypeError(f"method: {type(method).__name__} given, a method's name is valid")
    if layer is not None and not isinstance(layer, str | nn.Module):
        raise TypeError(f"layer: {type(layer).__name__} given, a module's name, a module or None is valid")
