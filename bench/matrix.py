"""Every method on every classifier of the tests, in every precision: one row per pair.

    python -m bench.matrix [--models resnet18,vgg16] [--methods grad_cam,lrp] [--narrow] [-o FILE]

Two images, two targets each, at an early layer and the last where the method takes layers. A method that is not defined
for a model has to say so. Exits with 1 if a pair fails. All of it takes hours, nearly all in methods that run the
model once per channel; with --narrow these take models with an eighth of their channels. FILE, a JSON file, is gone on
with if it exists: what it holds as good is not run again. The tests run a pairwise selection, on narrow models.
"""

import gc
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import fastcam
from bench.machine import cpu_machine
from fastcam.attribution import METHODS
from tests.attribution.test_matrix import PRECISIONS, early_layer, last_layer
from tests.classifiers import MODELS, SMALL_OPTIONS, UNDEFINED, settle, thin

# Where a method is defined at one of the two layers alone. AGF starts at what the last layer reads: in squeezenet that
# layer, a convolution, makes the last feature map.
ONE_LAYER = {**{(model, "cam"): slice(1, 2) for model in MODELS}, ("squeezenet1_1", "agf"): slice(0, 1)}
PER_CHANNEL = ("score_cam", "ss_cam", "is_cam", "abs_cam")


def main(
    models: Annotated[str, typer.Option(help="Names between commas.")] = ",".join(MODELS),
    methods: Annotated[str, typer.Option(help="Names between commas.")] = ",".join(METHODS),
    narrow: Annotated[bool, typer.Option("--narrow", help=f"Narrow models for {', '.join(PER_CHANNEL)}.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file, gone on with if it exists.")] = None,
) -> None:
    found: dict[str, Any] = {
        "machine_info": cpu_machine(("torch", "torchvision", "numpy")),
        "threads": torch.get_num_threads(),
        "precisions": [precision or "the model's own" for precision in PRECISIONS],
        "rows": [],
    }
    wanted = {
        (model, method): narrow and method in PER_CHANNEL
        for model in models.split(",")
        for method in methods.split(",")
    }
    if output is not None and output.exists():
        before = json.loads(output.read_text(encoding="utf-8"))
        changed = [key for key in ("machine_info", "threads", "precisions") if before[key] != found[key]]
        if changed:
            raise typer.BadParameter(f"{output} was begun with other {', '.join(changed)}: choose another --output")
        found["rows"] = [row for row in before["rows"] if not is_run_again(row, wanted)]
    failed = 0
    for name in models.split(","):
        for thinned in (False, True):
            held = {row["method"] for row in found["rows"] if row["model"] == name}
            chosen = [method for method in methods.split(",") if wanted[name, method] is thinned and method not in held]
            for row in rows(name, chosen, thinned):
                failed += bool(row["problems"])
                found["rows"].append(row)
                typer.echo(
                    f"{name:28} {row['method']:22} {row['seconds']:7.1f} s  {'; '.join(row['problems']) or 'ok'}"
                )
                if output is not None:
                    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"{failed} pairs failed")
    raise typer.Exit(bool(failed))


def is_run_again(row: Mapping[str, Any], wanted: Mapping[tuple[str, str], bool]) -> bool:
    """Whether a row's pair is among those wanted, and was not good, or of another width."""
    pair = row["model"], row["method"]
    return pair in wanted and (bool(row["problems"]) or row["narrow"] is not wanted[pair])


def rows(name: str, methods: Sequence[str], narrow: bool) -> Iterator[dict[str, Any]]:
    """A row per method, as each is done."""
    if not methods:
        return
    build, side = MODELS[name]
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        model = thin(build) if narrow else build()
    settle(model, torch.randn(4, 3, side, side))
    images = torch.rand(2, 3, side, side)
    layers = [early_layer(model), last_layer(model, side)]
    for method in methods:
        start = perf_counter()
        problems = [p for precision in PRECISIONS for p in problem(model, images, name, method, precision, layers)]
        row = {"model": name, "method": method, "narrow": narrow, "refused": name in UNDEFINED.get(method, ())}
        yield {**row, "seconds": perf_counter() - start, "problems": problems}
    fastcam.clear_cache(model)
    del model
    gc.collect()


def problem(
    model: nn.Module, images: Tensor, name: str, method: str, precision: str | None, layers: Sequence[str]
) -> Sequence[str]:
    """What is wrong with a method's maps, in words; nothing where all is well."""
    at = None if METHODS[method].layer == "none" else list(layers[ONE_LAYER.get((name, method), slice(None))])
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
    wrong: list[str] = []
    for layer, maps in {"images": found}.items() if at is None else zip(at, found, strict=True):
        if maps.shape != (2, 2, *images.shape[2:]):
            wrong.append(f"{precision}, {layer}: maps of shape {tuple(maps.shape)}")
        elif not maps.isfinite().all():
            wrong.append(f"{precision}, {layer}: NaN or infinite values")
    return wrong


if __name__ == "__main__":
    typer.run(main)
