"""The page itself: what a run holds, put in the template."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from fastcam.evaluation.checks import BASELINE
from fastcam.evaluation.explaining import random_labels
from fastcam.evaluation.exports import csv_text, latex_text
from fastcam.evaluation.layout import BASELINES, Table, groups_by_key, layout
from fastcam.evaluation.opening import place_noted
from fastcam.evaluation.report.curves import Plot, plots
from fastcam.evaluation.report.gallery import Gallery, galleries
from fastcam.evaluation.report.scatter import scatter
from fastcam.evaluation.store import Bad, Run, read_run
from fastcam.evaluation.study import Study
from fastcam.evaluation.tables import (
    ADCC_OF_MEANS,
    LEVEL,
    RESAMPLES,
    Results,
    mean_curves,
    printed_seconds,
    results,
    study_columns,
)
from fastcam.files import atomic_write, refusal
from fastcam.metrics.registry import METRICS


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """What a method costs per image; share: of the dearest one, for the bar; printed: the paper's seconds."""

    method: str
    seconds: float
    forwards: float
    share: float
    printed: str


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A model's costs, in seconds per image, each timed alone."""

    model: str
    images: int
    forward: float
    load: float
    methods: tuple[CostLine, ...]
    metrics: tuple[CostLine, ...]
    printed: bool


@dataclass(frozen=True, kw_only=True)
class Section:
    """One run on the page."""

    id: str
    title: str
    study: Study
    path: str
    summary: str
    warnings: tuple[str, ...]
    baselines: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    scatter: dict[str, Any] | None
    galleries: tuple[Gallery, ...]
    costs: tuple[Costs, ...]
    bad: tuple[Bad, ...]
    facts: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str], ...]
    csv: str
    latex: str


def write_report(
    runs: Sequence[Path],
    output: Path,
    *,
    data: Path | None = None,
    annotations: Path | None = None,
    classes: Path | None = None,
    gallery: int | None = None,
    device: torch.device | str = "cpu",
    before: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write a page of one run or several, and their figures as CSV and LaTeX beside it; the files written.

    The page holds all it needs: no other file, no network. Beside FILE.html stand FILE.csv and FILE.tex, for several
    runs FILE-1.csv and so on.

    Args:
        runs: folders that `fastcam evaluate` wrote to, finished or not.
        output: the page.
        data, annotations, classes: the data set's folder and what belongs to it, for the gallery; None: what the run
            was told.
        gallery: the most samples per model in the gallery, whose maps are made anew; None: as many as the metrics judge
            worst and best; 0 makes none.
        device: where they are made.
        before: told what is being done.

    Raises:
        ValueError: no runs; a folder holds none, or a damaged one; the files cannot be written.
        ModuleNotFoundError: Jinja2 or pyarrow is not installed.
    """
    template = _template()
    if not runs:
        raise ValueError("runs: none given; name at least one folder that fastcam evaluate -o wrote to")
    if gallery is not None and gallery < 0:
        raise ValueError(f"gallery: {gallery} given, None, 0 or a positive number of samples is valid")
    if output.is_dir():
        raise ValueError(f"output: {output} is a folder; name a file with -o, such as {output / 'report.html'}")
    read = [read_run(path) for path in runs]
    sections, written = [], []
    for number, (run, title) in enumerate(zip(read, _titles(read), strict=True), start=1):
        before(f"figures of {run.path.name}")
        found = results(run.rows, run.study, METRICS)
        tables = layout(found, baselines=_baselines(run.study))
        csv, latex = csv_text(found), latex_text(tables, caption=title)
        stem = output.stem if len(read) == 1 else f"{output.stem}-{number}"
        for path, text in ((output.with_name(f"{stem}.csv"), csv), (output.with_name(f"{stem}.tex"), latex)):
            _write(path, text)
            written.append(path)
        place = place_noted(run.data, root=data, annotations=annotations, classes=classes)
        pictures = galleries(run, found, place=place, most=gallery, device=torch.device(device), before=before)
        sections.append(_section(f"run{number}", title, run, found, tables, pictures, csv, latex))
    page = template.render(
        sections=sections, title=_page_title(sections), level=f"{100 * LEVEL:g}%", resamples=f"{RESAMPLES:,}"
    )
    _write(output, page)
    return [output, *written]


def _section(
    name: str,
    title: str,
    run: Run,
    found: Results,
    tables: Sequence[Table],
    pictures: Sequence[Gallery],
    csv: str,
    latex: str,
) -> Section:
    study = run.study
    columns, names = study_columns(study, METRICS), set(run.rows.column_names)
    curves = {f"{m}_curve": mean_curves(run.rows, m) for m in study.metrics if {f"{m}_curve", f"{m}_step"} <= names}
    labels = [method.label for method in study.methods]
    return Section(
        id=name,
        title=title,
        study=study,
        path=run.path.name,
        summary=_summary(run),
        warnings=_warnings(run),
        baselines=", ".join(label for label in labels if label in _baselines(study)),
        tables=tuple(tables),
        notes=_notes(found),
        plots=tuple(plots(curves, [c for c in columns if c.curve], labels, groups_by_key(found))),
        scatter=scatter(run.rows, study, found),
        galleries=tuple(pictures),
        costs=tuple(_costs(run)),
        bad=run.bad,
        facts=_facts(run),
        metrics=tuple((METRICS[m].title, METRICS[m].source) for m in study.metrics),
        csv=_download("text/csv", csv),
        latex=_download("application/x-tex", latex),
    )


def _baselines(study: Study) -> frozenset[str]:
    return frozenset(method.label for method in study.methods if method.name in BASELINES)


def _titles(runs: Sequence[Run]) -> list[str]:
    """What the runs are called, with their folders' names where that is the same for several."""
    titles = [r.study.title or f"{', '.join(m.name for m in r.study.models)} on {r.study.dataset}" for r in runs]
    return [
        title if titles.count(title) == 1 else f"{title}: {run.path.name}"
        for run, title in zip(runs, titles, strict=True)
    ]


def _page_title(sections: Sequence[Section]) -> str:
    return sections[0].title if len(sections) == 1 else f"{len(sections)} evaluations"


def _samples(run: Run) -> dict[str, int]:
    """How many samples each model has rows of."""
    table = run.rows.group_by("model").aggregate([("index", "count_distinct")]).to_pydict()
    return dict(zip(table["model"], table["index_count_distinct"], strict=True))


def _summary(run: Run) -> str:
    study, counts = run.study, _samples(run)
    several = sorted(set(counts.values()))
    images = f"{several[0]:,}" if len(several) == 1 else f"{several[0]:,} to {several[-1]:,}"
    which = "correctly classified images" if study.correct_only else "images"
    return (
        f"{_plural(len(study.methods), 'method')} on {_plural(len(study.models), 'model')}, {images} {which} of "
        f"{study.dataset}"
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _warnings(run: Run) -> tuple[str, ...]:
    found = []
    if not run.complete:
        found.append(
            "This run is not finished: the figures are those of the images done so far. The command it began with "
            "goes on with it."
        )
    halved = _halved(run)
    if halved:
        least = min(line["batch"] for line in halved)
        drawn = random_labels(run.study.methods)
        others = f", but those of {', '.join(drawn)} rest on other random numbers" if drawn else ""
        found.append(
            f"Memory did not suffice for {run.study.batch} images at a time, and some were worked on in batches of as "
            f"few as {least}: rows then agree with those of full batches to rounding, not to the bit{others}."
        )
    bad = len({each.name for each in run.bad})
    if bad:
        found.append(
            f"{_plural(bad, 'photo')} could not be read or explained and {'is' if bad == 1 else 'are'} left out of all "
            f"figures; {'it is' if bad == 1 else 'they are'} listed under “Photos left out”."
        )
    return tuple(found)


def _halved(run: Run) -> list[Mapping[str, Any]]:
    """The lines of the log that tell of smaller batches."""
    return [line for line in run.log if line.get("kind") == "out of memory"]


def _notes(found: Results) -> tuple[str, ...]:
    """How figures are made that are not plain means, and where rows were left out of one."""
    of_classes = [column.title for column in found.columns if column.aggregate == "class mean"]
    notes = [f"{', '.join(of_classes)}: the mean over the classes of each class’s own mean."] if of_classes else []
    if any(column.name == ADCC_OF_MEANS.name for column in found.columns):
        notes.append(
            "ADCC: the mean of the images’ own values. ADCC of the means: made of the mean coherency, complexity and "
            "drop, as in table 2 of Poppi et al. 2021."
        )
    for column in found.columns:
        figures = [line.figures[column.name] for line in found.lines if column.name in line.figures]
        most = max((figure.missing for figure in figures), default=0)
        if most:
            least = min(figure.missing for figure in figures)
            rows = max(figure.count + figure.missing for figure in figures)
            many = f"{most}" if least == most else f"{least} to {most}"
            notes.append(f"{column.title}: {many} of {rows} images left out, for which it is not defined.")
    return tuple(notes)


def _costs(run: Run) -> list[Costs]:
    printed = printed_seconds(run.study)
    titles = {name: METRICS[name].title for name in run.study.metrics}
    found = []
    for model, cost in run.cost.items():
        if not cost:
            continue
        forward = float(cost["forward"])
        by_method, by_metric = dict(cost["methods"]), dict(cost["metrics"])
        found.append(
            Costs(
                model=model,
                images=int(cost["images"]),
                forward=forward,
                load=float(cost["load"]),
                methods=_cost_lines(by_method, forward, {m: printed.get((model, m), "") for m in by_method}),
                metrics=_cost_lines({titles.get(str(k), str(k)): v for k, v in by_metric.items()}, forward, {}),
                printed=any((model, method) in printed for method in by_method),
            )
        )
    return found


def _cost_lines(seconds: dict[str, float], forward: float, printed: dict[str, str]) -> tuple[CostLine, ...]:
    most = max(seconds.values(), default=0) or 1
    return tuple(
        CostLine(
            method=name,
            seconds=float(s),
            forwards=float(s) / forward if forward else 0,
            share=float(s) / most,
            printed=printed.get(name, ""),
        )
        for name, s in seconds.items()
    )


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    """The protocol, one fact a line."""
    study, counts = run.study, _samples(run)
    parts = [line for line in run.log if line.get("kind") == "parts"]
    images, seconds = sum(line.get("images", 0) for line in parts), sum(line.get("seconds", 0) for line in parts)
    ranks = len({line.get("rank") for line in parts})
    drawn = "all samples" if study.subset is None else f"{study.subset:,} samples, drawn with seed {study.seed}"
    facts = [
        ("Source", study.source),
        ("Data set", f"{study.dataset}: {run.data.get('samples', '?')} samples"),
        ("Fingerprint of the data set", str(run.data.get("fingerprint", ""))),
        ("Subset", drawn + (", predicted correctly" if study.correct_only else "")),
        ("Images with rows", "; ".join(f"{model}: {count:,}" for model, count in counts.items())),
        ("Class explained", "the label" if study.targets == "label" else "the predicted class"),
        ("Models", "; ".join(_model_fact(m) for m in study.models)),
        ("Methods", "; ".join(_method_fact(m.label, m.name, m.options) for m in study.methods)),
        ("Metrics", ", ".join(study.metrics)),
        ("Options of metrics", _options(_metric_options(study))),
        ("Masked pixels", _masked_pixels(study)),
        ("Precision", study.precision or "the model's own"),
        ("Images at a time", f"{study.batch}, in parts of {study.part}"),
        ("Out of memory", "; ".join(
            f"{line['model']}: {line['batch_before']} images, then {line['batch']}" for line in _halved(run)
        )),
        ("Speed", f"{images:,} images in {seconds:.0f} s of work by {ranks} process{'' if ranks == 1 else 'es'}, "
         f"{images / seconds:.2f} images/s" if seconds else ""),
        ("Versions", ", ".join(f"{key} {value}" for key, value in run.environment.items())),
    ]  # fmt: skip
    return tuple((name, text) for name, text in facts if text)


def _masked_pixels(study: Study) -> str:
    if study.space == "pixel":
        return "black"
    if BASELINE in study.options:
        return f"{study.options[BASELINE]} in normalised space"
    return "0 in normalised space, the mean colour"


def _metric_options(study: Study) -> dict[str, Any]:
    """The options in force but for the masked pixels, which have a line of their own."""
    defaults = {key: value for name in study.metrics for key, value in METRICS[name].options.items()}
    return {key: value for key, value in {**defaults, **study.options}.items() if key != BASELINE}


def _model_fact(model: Any) -> str:
    view = [f"{key} {getattr(model, key)}" for key in ("resize", "crop") if getattr(model, key) is not None]
    layers = ", ".join(model.layers) if model.layers else "each method's own layer"
    return f"{model.name} ({', '.join([f'weights {model.weights}', layers, *view])})"


def _method_fact(label: str, name: str, options: Any) -> str:
    told = _options(options)
    named = label if label == name else f"{label}: {name}"
    return f"{named} ({told})" if told else named


def _options(options: Any) -> str:
    return ", ".join(f"{key} = {value}" for key, value in options.items())


def _download(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8;base64," + base64.b64encode(text.encode()).decode("ascii")


def _write(path: Path, text: str) -> None:
    try:
        with atomic_write(path) as stream:
            stream.write(text.encode("utf-8"))
    except OSError as error:
        raise ValueError(
            f"output: {path} cannot be written ({refusal(error)}); name another file with -o FILE.html"
        ) from error


def _template() -> Any:
    """The page's template, with its style and script read in. Raises ModuleNotFoundError that says how to install."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the report is made by the package 'Jinja2', which is not installed: run pip install 'fastcam[eval]'",
            name="jinja2",
        ) from error
    own = files(__package__)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: own.joinpath(name).read_text(encoding="utf-8")),
    )
    environment.globals["style"] = own.joinpath("style.css").read_text(encoding="utf-8")
    environment.globals["script"] = own.joinpath("script.js").read_text(encoding="utf-8")
    environment.filters["embedded"] = _embedded
    environment.filters["short"] = _short
    return environment.get_template("page.html.j2")


def _short(seconds: float) -> str:
    """Three digits that count."""
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:#.3g}"


def _embedded(data: object) -> str:
    """JSON that may stand in a <script> element: no tag or comment in it ends or begins anything."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
