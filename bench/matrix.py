"""Every method on every classifier of the tests at its full width, in every precision: one row per pair.

    python -m bench.matrix [--models resnet18,vgg16] [--methods grad_cam,lrp]

Two images, two targets each, at the early layer and the last where the method takes layers. Exits with 1 if a pair
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
from tests.attribution.test_matrix import PRECISIONS, early_layer
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
        for method in methods.split(","):
            start = perf_counter()
            problems = [p for precision in PRECISIONS for p in problem(model, images, name, method, precision)]
            failed += bool(problems)
            typer.echo(f"{name:28} {method:22} {perf_counter() - start:7.1f} s  {'; '.join(problems) or 'ok'}")
        fastcam.clear_cache(model)
        del model
        gc.collect()
    typer.echo(f"{failed} pairs failed")
    raise typer.Exit(bool(failed))


def problem(model: nn.Module, images: Tensor, name: str, method: str, precision: str | None) -> Sequence[str]:
    """What is wrong with a method's maps, in words; nothing where all is well."""
    layer = {"last": early_layer(model), "input": early_layer(model), "none": None}[METHODS[method].layer]
    if method == "cam":
        layer = None
    options = {**SMALL_OPTIONS.get(method, {}), "precision": precision, "normalize": False}
    try:
        maps = fastcam.explain(model, images, [[0, 3], [6, 6]], layer, method=method, **options)
    except ValueError as error:
        return [] if name in UNDEFINED.get(method, ()) else [f"{precision}: {error}"]
    except Exception as error:
        return [f"{precision}: {type(error).__name__}: {error}"]
    if maps.shape != (2, 2, *images.shape[2:]):
        return [f"{precision}: maps of shape {tuple(maps.shape)}"]
    return [] if bool(maps.isfinite().all()) else [f"{precision}: NaN or infinite values"]


if __name__ == "__main__":
    typer.run(main)
