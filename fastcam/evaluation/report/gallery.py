"""The gallery: the samples that metrics judge best and worst, with the maps of all methods, made anew."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastcam.attribution import METHODS
from fastcam.class_names import class_title
from fastcam.datasets.sample import DataSet
from fastcam.evaluation.checks import wrapped_name
from fastcam.evaluation.explaining import explain_all, seed_of
from fastcam.evaluation.layout import BASELINES, Group, Shown, groups_by_key, shown_columns
from fastcam.evaluation.memory import Portions
from fastcam.evaluation.opening import Place, open_data, open_model
from fastcam.evaluation.store import Run
from fastcam.evaluation.study import ModelSpec, Study
from fastcam.evaluation.tables import Key, Results
from fastcam.evaluation.worker import Filled, Worker, fill
from fastcam.plots import overlay

if TYPE_CHECKING:
    import pyarrow as pa

# Pictures are shown at up to this height and width, in pixels.
SIDE = 192
_QUALITY = 82

# A probability that is off by more is not one of the same model and photo.
_SAME = 0.02

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Value:
    """One metric of one map, as printed."""

    title: str
    text: str
    better: str | None


@dataclass(frozen=True, kw_only=True)
class MapPicture:
    """A method's map over the photo, as a data URI, with the values of its metrics."""

    method: str
    layer: str
    picture: str
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A sample: the photo as the network sees it, why it is here, and its maps; what stands side by side is a strip.

    outlined: the photo shows where the class is.
    """

    name: str
    reasons: tuple[str, ...]
    explained: str
    predicted: str
    probability: str
    photo: str
    outlined: bool
    strips: tuple[tuple[MapPicture, ...], ...]

    @property
    def maps(self) -> tuple[MapPicture, ...]:
        """All of them."""
        return tuple(picture for strip in self.strips for picture in strip)

    @property
    def layered(self) -> bool:
        """Whether they are of several layers."""
        return len({picture.layer for picture in self.maps}) > 1


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A model's samples; problem: why there are none, or why they may not be those of the run.

    left_out: samples chosen beyond the most that were asked for.
    """

    model: str
    cards: tuple[Card, ...] = ()
    left_out: int = 0
    problem: str = ""


def galleries(
    run: Run,
    results: Results,
    *,
    place: Place,
    most: int | None,
    device: torch.device,
    before: Callable[[str], None],
) -> list[Gallery]:
    """A gallery per model.

    The samples are those that each metric judges best and worst, by the mean over methods and layers; their maps are
    explained again. What hinders that (photos, weights or packages that are not at hand) is said in `problem`.

    Args:
        run, results: what was measured.
        place: where the data set lies.
        most: samples per model, in the metrics' order; None: all of them; 0 makes no gallery.
        device: where maps are made.
        before: told what is being done.
    """
    if most == 0:
        return []
    try:
        dataset = open_data(run.study, place)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return [Gallery(model="", problem=f"There is no gallery, since the photos are not at hand: {error}")]
    return [_gallery(run, spec, results, dataset, most, device, before) for spec in run.study.models]


def _gallery(
    run: Run,
    spec: ModelSpec,
    results: Results,
    dataset: DataSet,
    most: int | None,
    device: torch.device,
    before: Callable[[str], None],
) -> Gallery:
    rows = _where(run.rows, "model", [spec.name])
    found = choose_samples(rows, run.study, shown_columns(results))
    chosen = dict(islice(found.items(), most))
    before(spec.name)
    try:
        shown = _cards(rows, run.study, spec, results, dataset, chosen, device)
        return replace(shown, left_out=len(found) - len(chosen))
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        return Gallery(model=spec.name, problem=f"There is no gallery of {spec.name}: {error}")


def choose_samples(rows: "pa.Table", study: Study, columns: Sequence[Shown]) -> dict[int, tuple[str, ...]]:
    """Positions in the data set, with the reasons why each was chosen: "best insertion, 0.938", "worst ADCC, 0.1".

    Of a model's rows: by each metric, the sample with the best and that with the worst mean over methods and layers,
    baselines aside; of equals the first. In the metrics' order.
    """
    labels = [spec.label for spec in study.methods if spec.name not in BASELINES]
    kept = _where(rows, "method", labels) if labels else rows
    positions = kept.column("index").to_numpy().astype(np.int64)
    samples, place = np.unique(positions, return_inverse=True)
    reasons: dict[int, tuple[str, ...]] = {}
    for shown in columns:
        column = shown.column
        if column.better is None or column.name not in kept.column_names:
            continue
        values = kept.column(column.name).to_numpy().astype(np.float64)
        valid = ~np.isnan(values)
        counts = np.bincount(place, weights=valid, minlength=len(samples))
        sums = np.bincount(place, weights=np.where(valid, values, 0), minlength=len(samples))
        means = np.full(len(samples), np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        if np.isnan(means).all() or np.nanmin(means) == np.nanmax(means):
            continue
        extremes = {"lowest": int(np.nanargmin(means)), "highest": int(np.nanargmax(means))}
        best, worst = ("highest", "lowest") if column.better == "higher" else ("lowest", "highest")
        for word, at in (("worst", extremes[worst]), ("best", extremes[best])):
            sample = int(samples[at])
            unit = f" {shown.unit}" if shown.unit else ""
            text = f"{word} {_inside(column.title)}, {shown.text(float(means[at]))}{unit}"
            reasons[sample] = (*reasons.get(sample, ()), text)
    return reasons


def _cards(
    rows: "pa.Table",
    study: Study,
    spec: ModelSpec,
    results: Results,
    dataset: DataSet,
    chosen: Mapping[int, tuple[str, ...]],
    device: torch.device,
) -> Gallery:
    records = _records(rows, chosen)
    for position, record in records.items():
        there = dataset.samples[position].name if position < len(dataset.samples) else "nothing"
        if there != record.name:
            raise ValueError(
                f"sample {position} of the data set is {there!r} and was {record.name!r} in the run; name the run's "
                "photos with --data DIR"
            )
    worker = Worker(
        study=study,
        spec=spec,
        model=open_model(spec, device),
        dataset=dataset,
        portions=Portions(study.batch, lambda _, __: None),
        device=device,
        workers=0,
    )
    columns, groups = shown_columns(results), groups_by_key(results)
    positions = list(records)
    batches = [positions[start : start + study.batch] for start in range(0, len(positions), study.batch)]
    cards, strangers = [], 0
    for batch, views in zip(batches, worker.views(batches), strict=True):
        filled = fill(batch, views, dataset.samples)
        if filled is None:
            continue
        explained = worker.portions.each(
            len(batch),
            lambda portion, filled=filled: _explained(worker, filled[portion], records),  # type: ignore[misc]
        )
        for position, image, region, maps, probability in (one for several in explained for one in several):
            record = records[position]
            strangers += abs(probability - record.probability) > _SAME
            cards.append(_card(record, chosen[position], image, region, maps, columns, groups, worker))
    problem = ""
    if strangers:
        problem = (
            f"The maps of {strangers} of these samples may not be those of the run: {spec.name} gives them other "
            "probabilities now, so weights or photos have changed."
        )
    return Gallery(model=spec.name, cards=tuple(cards), problem=problem)


@dataclass(frozen=True, eq=False)
class _Record:
    """What the rows say of a sample: its class, and values by (method, layer) and column."""

    name: str
    target: int
    predicted: int
    probability: float
    values: Mapping[tuple[str, str], Mapping[str, float]]


# A sample's position, its view (H, W, 3), where the class is in it, its maps by (method, layer), p of its class.
_One = tuple[int, Pixels, NDArray[np.bool_] | None, Mapping[tuple[str, str], NDArray[np.float32]], float]


def _records(rows: "pa.Table", chosen: Mapping[int, object]) -> dict[int, _Record]:
    kept = _where(rows, "index", list(chosen))
    of_sample: dict[int, list[Mapping[str, object]]] = {position: [] for position in chosen}
    for row in kept.drop_columns([n for n in kept.column_names if n.endswith("_curve")]).to_pylist():
        of_sample[row["index"]].append(row)
    found = {}
    for position, several in of_sample.items():
        first = several[0]
        found[position] = _Record(
            name=str(first["name"]),
            target=int(first["target"]),  # type: ignore[call-overload]
            predicted=int(first["predicted"]),  # type: ignore[call-overload]
            probability=float(first["probability"]),  # type: ignore[arg-type]
            values={
                (str(row["method"]), str(row["layer"])): {
                    name: value for name, value in row.items() if isinstance(value, float)
                }
                for row in several
            },
        )
    return found


def _explained(worker: Worker, filled: Filled, records: Mapping[int, _Record]) -> list[_One]:
    """The maps of a portion's samples; those of samples that could not be read are left out."""
    kept = [place for place, position in enumerate(filled.positions) if position is not None]
    targets = torch.tensor([records[p].target if p is not None else 0 for p in filled.positions], device=worker.device)
    seed = seed_of(worker.study.seed, filled.samples[0].name)
    found = explain_all(worker.calls, worker.labels, worker.images(filled), targets, seed)
    maps = [(made.label, made.layer, made.maps.float().cpu().numpy()) for made in found.made]
    probability = found.probabilities.gather(1, targets[:, None])[:, 0].cpu().numpy()
    return [
        (
            position,
            filled.images[place].permute(1, 2, 0).cpu().numpy(),
            None if filled.regions is None else filled.regions[place].cpu().numpy(),
            {(label, layer): of_all[place] for label, layer, of_all in maps},
            float(probability[place]),
        )
        for place in kept
        if (position := filled.positions[place]) is not None
    ]


def _card(
    record: _Record,
    reasons: tuple[str, ...],
    image: Pixels,
    region: NDArray[np.bool_] | None,
    maps: Mapping[tuple[str, str], NDArray[np.float32]],
    columns: Sequence[Shown],
    groups: Mapping[Key, Group],
    worker: Worker,
) -> Card:
    names = worker.model.class_names
    signed = {spec.label: METHODS[wrapped_name(spec)].signed for spec in worker.study.methods}
    strips: dict[Group, list[MapPicture]] = {}
    for (label, layer), values in maps.items():
        measured = record.values.get((label, layer), {})
        strips.setdefault(groups[worker.spec.name, layer, label], []).append(
            MapPicture(
                method=label,
                layer=layer,
                picture=data_uri(overlay(image, values, signed=signed[label])),
                values=tuple(
                    Value(shown.title, shown.text(measured[shown.column.name]), shown.column.better)
                    for shown in columns
                    if shown.column.name in measured
                ),
            )
        )
    return Card(
        name=record.name,
        reasons=reasons,
        explained=class_title(record.target, names),
        predicted=class_title(record.predicted, names),
        probability=f"{record.probability:.3f}",
        photo=data_uri(image if region is None else outlined(image, region)),
        outlined=region is not None and bool(region.any()),
        strips=tuple(tuple(pictures) for pictures in strips.values()),
    )


def outlined(image: Pixels, region: NDArray[np.bool_]) -> Pixels:
    """The image with the region's edge in white between black lines, seen on any ground."""
    result = image.copy()
    for grown, colour in ((2, 0), (1, 255)):
        inner, outer = _grown(~region, grown), _grown(region, grown)
        result[inner & outer] = colour
    return result


def _grown(region: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The region with all pixels up to so many steps away, along rows and columns."""
    for _ in range(pixels):
        padded = np.pad(region, 1)
        region = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return region


def data_uri(pixels: Pixels) -> str:
    """A picture, reduced to `SIDE`, as text that an <img> takes."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _inside(title: str) -> str:
    """A title inside a sentence: small at the beginning, but for "ADCC" and "IoU"."""
    return title[0].lower() + title[1:] if title.split()[0][1:].islower() else title


def _where(rows: "pa.Table", column: str, values: Sequence[object]) -> "pa.Table":
    """The rows in which the column is one of the values."""
    from pyarrow import array, compute

    found = rows.column(column)
    return rows.filter(compute.is_in(found, value_set=array(values, type=found.type)))
