"""`fastcam evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fastcam.commands import options
from fastcam.commands.common import WRONG_USE, choose_device, clean_errors, complain, split_names
from fastcam.commands.results import print_results
from fastcam.datasets.opening import DATASETS
from fastcam.evaluation.checks import check_study
from fastcam.evaluation.errors import SaidElsewhere
from fastcam.evaluation.opening import Place, open_data
from fastcam.evaluation.presets import preset_names, read_preset
from fastcam.evaluation.runner import How
from fastcam.evaluation.runner import evaluate as run_study
from fastcam.evaluation.store import Run
from fastcam.evaluation.study import Study, as_table, read_study, study_from
from fastcam.metrics.registry import METRICS

_MODEL = "resnet50"
_METHODS = "relevance_cam,grad_cam"
_METRICS = "drop,increase,adcc,insertion,deletion"
# A panel of its own for the options with the longest names leaves the words of all others more room.
_SAMPLES = "Samples"


def _list_presets(asked: bool) -> None:
    if asked:
        for name in preset_names():
            study = read_preset(name)
            needed = ", ".join(model.weights for model in study.models if model.weights.endswith(".pth"))
            typer.echo(f"{name}  {study.title}" + (f"; needs {needed}" if needed else ""))
        raise typer.Exit


def evaluate(
    data: Annotated[Path, typer.Option(help="The data set's folder.", metavar="DIR")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The run's folder: new, or one to go on with.",
            metavar="RUN",
            show_default="the preset's name, or run",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A table of a paper, such as relevance-cam/table1.", metavar="NAME")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with a whole study: the keys of `study` in a run.json.", metavar="FILE"),
    ] = None,
    list_presets: Annotated[
        bool,
        typer.Option("--list-presets", help="List the presets and end.", is_eager=True, callback=_list_presets),
    ] = False,
    dataset: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(DATASETS)}.", metavar="NAME", show_default="folder")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Between commas: torchvision classifiers, efficientnet_lite0, package.module:function.",
            metavar="NAMES",
            show_default=_MODEL,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="default (downloaded once), none (random), a name of torchvision's such as IMAGENET1K_V1, or a file "
            "with a state dict.",
            metavar="WEIGHTS",
            show_default="default",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names between commas; fastcam methods lists them.",
            metavar="NAMES",
            show_default=_METHODS.replace(",", ", "),
        ),
    ] = None,
    layers: options.Layers = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Names between commas: {', '.join(METRICS)}.",
            metavar="NAMES",
            show_default=_METRICS.replace(",", ", "),
        ),
    ] = None,
    subset: Annotated[
        int | None,
        typer.Option(help="So many samples, drawn with --seed.", show_default="all", rich_help_panel=_SAMPLES),
    ] = None,
    correct_only: Annotated[
        bool | None,
        typer.Option(
            "--correct-only/--all-predictions",
            help="Only samples whose label the model predicts.",
            rich_help_panel=_SAMPLES,
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="The class to explain: predicted or label.", show_default="predicted", rich_help_panel=_SAMPLES
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(help="What drop and increase keep of an image: soft, top50 or soft_top50.", show_default="soft"),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="What masked pixels become: 0 in normalized space (the mean colour) or in pixel space (black): "
            "normalized or pixel.",
            metavar="SPACE",
            show_default="normalized",
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Pixels per step of insertion and deletion.", show_default="224")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the subset and of random methods.", show_default="0", rich_help_panel=_SAMPLES),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images at a time.", show_default="8")] = None,
    part: Annotated[int | None, typer.Option(help="Images per part of the run.", show_default="64")] = None,
    precision: options.Precision = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    annotations: Annotated[
        Path | None, typer.Option(help="ImageNet's XML files or COCO's JSON, where they lie elsewhere.", metavar="PATH")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Which output of the model stands for which class.", metavar="FILE")
    ] = None,
    device: options.Device = None,
    workers: Annotated[
        int, typer.Option(help="Processes that read photos; 0 reads in between.", min=0, metavar="N")
    ] = 2,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of each process.", show_default="those the run began with, or PyTorch's"),
    ] = None,
    max_bad: Annotated[
        int | None,
        typer.Option(
            help="Photos that may be left out: unreadable, or NaN to the model.",
            show_default="1 in 100, at least 1",
            min=0,
            metavar="N",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no table at the end.")] = False,
) -> None:
    """Evaluate methods over a data set; the same command again goes on where it was stopped.

    Options given beside --preset or --config take the place of what stands there. With PyTorch's launcher the work is
    shared by several processes: torchrun --nproc-per-node 8 -m fastcam evaluate ...
    """
    with clean_errors():
        if preset is not None and config is not None:
            raise ValueError("--preset and --config are both given: a run has one study, name one of them")
        base = None if preset is None else read_preset(preset)
        base = base if config is None else read_study(config)
        study = asked_study(
            base,
            table={
                "dataset": dataset,
                "metrics": None if metrics is None else split_names(metrics, option="--metrics"),
                "methods": None if methods is None else split_names(methods, option="--methods"),
                "models": None if model is None else split_names(model, option="--model"),
                "targets": targets,
                "subset": subset,
                "correct_only": correct_only,
                "space": space,
                "seed": seed,
                "batch": batch,
                "part": part,
                "precision": precision,
            },
            of_models={
                "weights": weights,
                "layers": None if layers is None else split_names(layers, option="--layers"),
                "resize": resize,
                "crop": crop,
            },
            of_metrics={"mask": mask, "step": step},
        )
        check_study(study)
        how = How(
            device=choose_device(device),
            workers=workers,
            threads=threads,
            max_bad=max_bad,
            quiet=quiet,
            say=complain,
        )
        place = Place(root=data, annotations=annotations, classes=classes)
        found = open_data(study, place)
        folder = output or Path("run" if preset is None else preset.replace("/", "-"))
        try:
            run = run_study(study, found, folder, how, place=place)
        except SaidElsewhere as error:
            raise typer.Exit(WRONG_USE) from error
        except KeyboardInterrupt:
            complain(f"stopped; {folder} keeps the parts that are done, and the same command goes on with the others")
            raise
    if run is not None:
        _tell(run, quiet=quiet)


def asked_study(
    base: Study | None, *, table: dict[str, Any], of_models: dict[str, Any], of_metrics: dict[str, Any]
) -> Study:
    """A study from options, None for those not given: on top of `base`, or else of the defaults."""
    given = {key: value for key, value in table.items() if value is not None}
    if base is None:
        defaults = {
            "dataset": "folder",
            "models": [_MODEL],
            "methods": _METHODS.split(","),
            "metrics": _METRICS.split(","),
        }
        study = study_from({**defaults, **given}, source="options")
    else:
        study = study_from({**as_table(base), **given}, source="options")
    changed: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in of_models.items() if value is not None
    }
    own = {key: value for key, value in of_metrics.items() if value is not None}
    return replace(
        study,
        models=tuple(replace(model, **changed) for model in study.models),
        options={**study.options, **own},
    )


def _tell(run: Run, *, quiet: bool) -> None:
    """The figures, and what was left out."""
    if run.bad:
        names = sorted({bad.name for bad in run.bad})
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        complain(f"{len(names)} photos could not be read or explained and are left out: {shown}")
    if quiet:
        return
    print_results(run)
    typer.echo(f"Rows are in {run.path.resolve()}; fastcam report {run.path} makes a page of them")
