"""`fastcam explain`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.attribution import METHODS
from fastcam.class_names import parse_targets, read_class_names
from fastcam.commands import options
from fastcam.commands.common import (
    SOME_FAILED,
    check_class_names,
    choose_device,
    clean_errors,
    complain,
    print_top,
    show_steps,
    split_names,
)
from fastcam.models.loading import load_model
from fastcam.models.preprocessing import parse_size
from fastcam.network.arguments import check_choice
from fastcam.photos import PhotoError, read_photo
from fastcam.pictures import Explained, explain_photo, folder_names, write_pictures


def explain(
    photos: Annotated[list[Path], typer.Argument(help="Image files.", metavar="PHOTO", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", metavar="DIR")],
    model: options.Model = "resnet50",
    weights: options.Weights = "default",
    methods: Annotated[
        str, typer.Option(help="Names between commas, such as relevance_cam,grad_cam.")
    ] = "relevance_cam",
    layers: options.Layers = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help='Class names and indices between commas, such as "tiger cat,285".',
            show_default="the predicted class",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="Text file, one class name a line, class 0 first.", metavar="FILE"),
    ] = None,
    device: options.Device = None,
    precision: options.Precision = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
) -> None:
    """Show what in each photo speaks for a class: overlays, raw maps and a figure of methods x layers.

    The figure shows as many of the classes as are legible; overlays and raw maps are those of all.

    Ends with 1 if a photo could not be read (the others are explained), with 2 if nothing could be done.
    """
    with clean_errors():
        where = choose_device(device)
        method_names = split_names(methods, option="--methods")
        for name in method_names:
            check_choice("--methods", name, tuple(METHODS))
        layer_names = None if layers is None else split_names(layers, option="--layers")
        size = None if resize is None else parse_size(resize)
        crop_size = "none" if crop == "none" else None if crop is None else parse_size(crop)
        loaded = load_model(model, weights=weights)
        network = loaded.model.to(where)
        preprocessing = loaded.preprocessing.changed(resize=size, crop=crop_size)
        names = loaded.class_names if class_names is None else read_class_names(class_names)
        wanted = None if targets is None else parse_targets(targets, names)
        # The same file named twice is explained once.
        photos = list({photo.resolve(): photo for photo in reversed(photos)}.values())[::-1]
        folders = folder_names(photos, output=output)

    failed = False
    for photo, folder_name in zip(photos, folders, strict=True):
        try:
            view = preprocessing.view(read_photo(photo))
        except PhotoError as error:
            failed = True
            complain(str(error))
            continue
        except ValueError as error:
            failed = True
            complain(f"photo {photo}: {error}")
            continue
        folder = output / folder_name
        with clean_errors():
            with show_steps(f"{photo.name}", total=len(method_names)) as step:
                explained = explain_photo(
                    network,
                    preprocessing.tensor(view).to(where),
                    methods={name: None if METHODS[name].layer == "none" else layer_names for name in method_names},
                    targets=wanted,
                    precision=precision,
                    before=step,
                )
            check_class_names(names, len(explained.probabilities))
            write_pictures(folder, title=photo.name, view=view, explained=explained, names=names)
        typer.echo(f"{photo}: {len(explained.maps)} maps in {folder}{_left_out(explained)}")
        print_top(explained, names)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _left_out(explained: Explained) -> str:
    """What the figure does not show, if anything."""
    layers, targets = explained.in_figure
    shown = [
        f"{len(part)} of {len(whole)} {what}"
        for part, whole, what in ((layers, explained.layers, "layers"), (targets, explained.targets, "classes"))
        if len(part) < len(whole)
    ]
    return f"; figure.png shows the first {' and '.join(shown)}" if shown else ""
