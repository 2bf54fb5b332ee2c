"""Every method on every classifier of the tests at its full width, in every precision: one row per pair.

    python -m bench.matrix [--models resnet18,vgg16] [--methods grad_cam,lrp]

Two images, two targets each, at an early layer and the last where the method takes layers (cam: at the last alone,
the only one that it is defined at). A method that is not defined for a model has to say so. Exits with 1 if a pair
fails. The tests run a pairwise selection on narrower models.
"""

import gc
import warnings
from collections.abc import Sequence
from time import perf_counter
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import fastcam
from fastcam.attribution import METHODS
from tests.attribution.test_matrix import PRECISIONS, early_layer, last_layer
from tests.classifiers import MODELS, SMALL_OPTIONS, UNDEFINED, settle


def main(
    models: Annotated[str, typer.Option(help="Names between commas.")] = ",".join(MODELS),
    methods: Annotated[str, typer.Option(help="Names between commas.")] = ",".join(METHODS),
) -> None:
    failed = 0
    for name in models.split(","):
        build, side = MODELS[name]
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            model = build()
        settle(model, torch.randn(4, 3, side, side))
        images = torch.rand(2, 3, side, side)
        layers = [early_layer(model), last_layer(model, side)]
        for method in methods.split(","):
            start = perf_counter()
            problems = [p for precision in PRECISIONS for p in problem(model, images, name, method, precision, layers)]
            failed += bool(problems)
            typer.echo(f"{name:28} {method:22} {perf_counter() - start:7.1f} s  {'; '.join(problems) or 'ok'}")
        fastcam.clear_cache(model)
        del model
        gc.collect()
    typer.echo(f"{failed} pairs failed")
    raise typer.Exit(bool(failed))


def problem(
    model: nn.Module, images: Tensor, name: str, method: str, precision: str | None, layers: Sequence[str]
) -> Sequence[str]:
    """What is wrong with a method's maps, in words; nothing where all is well."""
    at = None if METHODS[method].layer == "none" else list(layers[-1:] if method == "cam" else layers)
    undefined = name in UNDEFINED.get(method, ())
    options = {**SMALL_OPTIONS.get(method, {}), "precision": precision, "normalize": False}
    try:
        found = fastcam.explain(model, images, [[0, 3], [6, 6]], at, method=method, **options)
    except ValueError as error:
        refused = undefined and f"{method} needs" in str(error)
        return [] if refused else [f"{precision}: {error}"]
    except Exception as error:
        return [f"{precision}: {type(error).__name__}: {error}"]
    if undefined:
        return [f"{precision}: maps where {method} is not defined"]
    named = {"images": found} if at is None else dict(zip(at, found, strict=True))
    wrong = [
        f"{precision}, {layer}: maps of shape {tuple(m.shape)}" for layer, m in named.items() if not fits(m, images)
    ]
    return wrong or [f"{precision}, {layer}: NaN or infinite values" for layer, m in named.items() if not finite(m)]


def fits(maps: Tensor, images: Tensor) -> bool:
    """Whether there is a map per image and target, at the images' size."""
    return maps.shape == (2, 2, *images.shape[2:])


def finite(maps: Tensor) -> bool:
    return bool(maps.isfinite().all())


if __name__ == "__main__":
    typer.run(main)
