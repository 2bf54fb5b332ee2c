"""`fastcam figure`: the kinds of figures in the papers, one command each."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from matplotlib.figure import Figure

from fastcam.attribution import METHODS
from fastcam.class_names import parse_targets, read_class_names
from fastcam.commands import options
from fastcam.commands.common import (
    SOME_FAILED,
    check_class_names,
    choose_device,
    clean_errors,
    complain,
    show_steps,
    split_names,
)
from fastcam.evaluation import figures as kinds
from fastcam.evaluation.figures.subject import Subject
from fastcam.models.loading import load_model
from fastcam.models.preprocessing import parse_size
from fastcam.network.arguments import check_choice
from fastcam.photos import PhotoError, read_photo
from fastcam.pictures import folder_names
from fastcam.plots import write_png

figure = typer.Typer(help="Draw the papers' kinds of figures for your own photos and model.", no_args_is_help=True)

Draw = Callable[[Subject], Figure]
N = TypeVar("N", int, float)

# The kinds' own defaults, as the options take them; with spaces, at which the help is broken into lines.
_DEFAULT = {
    kind.__name__.rpartition(".")[2]: ", ".join(kind.METHODS)
    for kind in (
        kinds.depth,
        kinds.selectivity,
        kinds.segmentation,
        kinds.sensitivity,
        kinds.sanity,
        kinds.upscaling,
    )
}
_MODES = ", ".join(kinds.sanity.MODES)
_SCALES = ", ".join(f"{scale:g}" for scale in kinds.upscaling.SCALES)
_PATCHES = ", ".join(map(str, kinds.upscaling.PATCHES))


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The options that every kind of figure takes."""

    photos: Annotated[list[Path], typer.Argument(help="Image files.", metavar="PHOTO", show_default=False)]
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the figures.", metavar="DIR")]
    model: options.Model = "resnet50"
    weights: options.Weights = "default"
    targets: Annotated[
        str | None,
        typer.Option(
            help='Class names and indices between commas, such as "tiger cat,285".',
            show_default="the predicted class; for sensitivity the two most probable",
        ),
    ] = None
    class_names: Annotated[
        Path | None,
        typer.Option(help="Text file, one class name a line, class 0 first.", metavar="FILE"),
    ] = None
    device: options.Device = None
    precision: options.Precision = None
    resize: options.Resize = None
    crop: options.Crop = None


Layers = Annotated[
    str | None,
    typer.Option(
        help="Module names between commas, such as layer2,layer4.",
        show_default="the last layers of the deepest resolutions",
    ),
]
Steps = Annotated[
    int, typer.Option(help="Steps of the insertion and deletion curves; 0 leaves them out.", min=0, metavar="N")
]
Deviations = Annotated[
    float, typer.Option(help="A region is where a map exceeds its mean by that many standard deviations.")
]
Methods = Annotated[str, typer.Option(help="Names between commas; `fastcam methods` lists them.")]


def _kind(own: Callable[..., Draw]) -> Callable[..., None]:
    """A command that takes the shared options and those of `own`, which makes of the latter what draws one photo."""

    def command(**given: Any) -> None:
        shared = Shared(**{field.name: given.pop(field.name) for field in fields(Shared)})
        with clean_errors():
            draw = own(**given)
        _draw_all(shared, own.__name__, draw)

    # typer reads what a command takes from its signature: that of a function of all these options.
    parameters = [p for function in (Shared, own) for p in inspect.signature(function).parameters.values()]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = own.__doc__
    figure.command(own.__name__)(command)
    return command


@_kind
def depth(methods: Methods = _DEFAULT["depth"], layers: Layers = None, steps: Steps = 28) -> Draw:
    """Maps over layers x methods, with insertion and deletion curves (Relevance-CAM 1 and 3, Abs-CAM 2, 3, 5 and 6)."""
    return partial(kinds.depth.depth_figure, methods=_names(methods), layers=_layers(layers), steps=steps)


@_kind
def selectivity(
    methods: Methods = _DEFAULT["selectivity"],
    layers: Layers = None,
    top: Annotated[int, typer.Option(help="Activation maps shown, the most weighted first.", min=1, metavar="N")] = 3,
) -> Draw:
    """Channel weights and the activation maps of the most weighted channels (Relevance-CAM 4)."""
    return partial(kinds.selectivity.selectivity_figure, methods=_names(methods), layers=_layers(layers), top=top)


@_kind
def segmentation(
    methods: Methods = _DEFAULT["segmentation"], layers: Layers = None, deviations: Deviations = 1.0
) -> Draw:
    """Maps thresholded: the region outlined and in boxes, and what it keeps of the photo (Relevance-CAM 5)."""
    draw = kinds.segmentation.segmentation_figure
    return partial(draw, methods=_names(methods), layers=_layers(layers), deviations=deviations)


@_kind
def sensitivity(
    methods: Methods = _DEFAULT["sensitivity"], layers: Layers = None, deviations: Deviations = 1.0
) -> Draw:
    """Classes side by side, what each map keeps, and their contrast (Relevance-CAM 6 and 7, Abs-CAM 4)."""
    draw = kinds.sensitivity.sensitivity_figure
    return partial(draw, methods=_names(methods), layers=_layers(layers), deviations=deviations)


@_kind
def sanity(
    methods: Methods = _DEFAULT["sanity"],
    layers: Layers = None,
    modes: Annotated[str, typer.Option(help="cascading, independent, or both between a comma.")] = _MODES,
    stages: Annotated[
        str | None,
        typer.Option(
            help="Module names between commas, made random in this order.",
            show_default="the model's parts, from the logits down",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random parameters.")] = 0,
) -> Draw:
    """Maps while layers become random, with rank correlation and SSIM (Relevance-CAM 8, Abs-CAM 7)."""
    chosen = split_names(modes, option="--modes")
    for mode in chosen:
        check_choice("--modes", mode, kinds.sanity.MODES)
    return partial(
        kinds.sanity.sanity_figure,
        methods=_names(methods),
        layers=_layers(layers),
        modes=chosen,
        stages=None if stages is None else split_names(stages, option="--stages"),
        seed=seed,
    )


@_kind
def upscaling(
    methods: Methods = _DEFAULT["upscaling"],
    layer: Annotated[
        str | None, typer.Option(help="A module's name.", show_default="the last layer, or the images")
    ] = None,
    scales: Annotated[
        str, typer.Option(help="How many times photo and patches are enlarged, numbers between commas.")
    ] = _SCALES,
    patches: Annotated[str, typer.Option(help="Patches along each axis, numbers between commas.")] = _PATCHES,
    steps: Steps = 28,
) -> Draw:
    """UCAG beside the plain method on the enlarged photo, with patches and partial maps (UCAG 2 and 4)."""
    return partial(
        kinds.upscaling.upscaling_figure,
        methods=_names(methods),
        layer=layer,
        scales=[_number(text, float, "--scales") for text in split_names(scales, option="--scales")],
        patches=[_number(text, int, "--patches") for text in split_names(patches, option="--patches")],
        steps=steps,
    )


def _names(methods: str) -> list[str]:
    names = split_names(methods, option="--methods")
    for name in names:
        check_choice("--methods", name, tuple(METHODS))
    return names


def _layers(layers: str | None) -> list[str] | None:
    return None if layers is None else split_names(layers, option="--layers")


def _number(text: str, kind: type[N], option: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        number = kind(0)
    if not 0 < number < math.inf:
        valid = "whole numbers above 0" if kind is int else "numbers above 0"
        raise ValueError(f"{option}: {text!r} given, {valid} between commas are valid")
    return number


def _draw_all(shared: Shared, kind: str, draw: Draw) -> None:
    """Draw a figure of each photo; bad photos are named, the others drawn."""
    with clean_errors():
        where = choose_device(shared.device)
        size = None if shared.resize is None else parse_size(shared.resize)
        crop = "none" if shared.crop == "none" else None if shared.crop is None else parse_size(shared.crop)
        loaded = load_model(shared.model, weights=shared.weights)
        network = loaded.model.to(where)
        preprocessing = loaded.preprocessing.changed(resize=size, crop=crop)
        names = loaded.class_names if shared.class_names is None else read_class_names(shared.class_names)
        targets = None if shared.targets is None else parse_targets(shared.targets, names)
        # The same file named twice is drawn once.
        photos = list({photo.resolve(): photo for photo in reversed(shared.photos)}.values())[::-1]
        folders = folder_names(photos, output=shared.output)
    failed = False
    for number, (photo, folder) in enumerate(zip(photos, folders, strict=True), start=1):
        try:
            view = preprocessing.view(read_photo(photo))
        except ValueError as error:
            failed = True
            complain(str(error) if isinstance(error, PhotoError) else f"photo {photo}: {error}")
            continue
        path = shared.output / folder / f"{kind}.png"
        with clean_errors(), show_steps(f"photo {number} of {len(photos)}, {photo.name}", total=None) as step:
            subject = Subject(
                model=network,
                inputs=preprocessing.tensor(view).to(where),
                photo=np.asarray(view),
                title=f"{photo.name}: {kind}, {shared.model}",
                names=names,
                targets=targets,
                precision=shared.precision,
                before=step,
            )
            check_class_names(names, len(subject.probabilities))
            drawn = draw(subject)
            step("picture")
            write_png(path, drawn)
        typer.echo(f"{photo}: {path}")
    if failed:
        raise typer.Exit(SOME_FAILED)
