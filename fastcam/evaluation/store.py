"""A run's folder: what was asked, the rows of the parts that are finished, what was screened, logs and costs.

    run.json                      the study, the data set, versions and threads; written anew until a part is finished
    lock                          held while a launch is at work
    screen/NNNNN-MODEL.parquet    what the model predicts, for studies of correct predictions only
    parts/NNNNN-MODEL.parquet     rows, one per sample, method and layer
    log-RANK.jsonl                a line per part
    cost.json                     seconds per image

Every file but the logs is written whole or not at all.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import quote

import torch

from fastcam.datasets.sample import DataSet
from fastcam.evaluation.errors import RunError
from fastcam.evaluation.opening import Place
from fastcam.evaluation.parts import Part
from fastcam.evaluation.study import Study, as_table, difference, differences, study_from
from fastcam.files import atomic_write, refusal
from fastcam.metrics.metric import Column

Kind = Literal["parts", "screen"]
# What a part says of itself stands under this key of its file.
_KEY = b"fastcam"
# Of a data set's facts, those that do not decide rows: the fingerprint tells whether it is the same.
_PATHS = frozenset(each.name for each in fields(Place))
_PACKAGES = ("fastcam", "torch", "torchvision", "pillow")


@dataclass(frozen=True)
class Bad:
    """A photo that could not be read, or not explained and measured."""

    model: str
    name: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What a part's file says besides its rows.

    total: parts of this model. weights: the digest of the model's weights. batch: the most images at a time; less
    than the study's where memory was short. bad: photos left out.
    """

    total: int
    weights: str
    batch: int
    bad: tuple[Bad, ...]


@dataclass(frozen=True)
class Asked:
    """What decides a run's rows: the study, the data set, and the machinery; see `surroundings` and `data_facts`."""

    study: Study
    data: Mapping[str, Any]
    environment: Mapping[str, Any]


def arrow() -> ModuleType:
    """The module pyarrow. Raises ModuleNotFoundError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "rows are kept in Parquet files by the package 'pyarrow', which is not installed: run "
            "pip install 'fastcam[eval]'",
            name="pyarrow",
        ) from error
    module: ModuleType = pyarrow
    return module


def surroundings(device: torch.device, threads: int) -> dict[str, Any]:
    """What rows depend on to the bit besides study and data: versions, the device, threads."""
    if device.type == "cuda":
        name = f"cuda {torch.cuda.get_device_name(device)}"
    else:
        name = f"{device.type} {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
    return {**{p: _version(p) for p in _PACKAGES}, "device": name, "threads": threads}


def data_facts(dataset: DataSet, fingerprint: str, place: Place) -> dict[str, Any]:
    """What a run notes of its data set; the paths are where it lay, and may be others when the run goes on."""
    return {
        "name": dataset.name,
        **place.noted(),
        "samples": len(dataset.samples),
        "fingerprint": fingerprint,
    }


def row_schema(columns: Sequence[Column]) -> Any:
    """The rows' columns: what a row is of, then a number per column of the metrics, NaN where it is undefined."""
    pa = arrow()
    fixed = [
        ("name", pa.string()), ("index", pa.int32()), ("model", pa.string()), ("method", pa.string()),
        ("layer", pa.string()), ("label", pa.int32()), ("target", pa.int32()), ("predicted", pa.int32()),
        ("probability", pa.float32()), ("difficult", pa.bool_()),
    ]  # fmt: skip
    measured = [(c.name, pa.list_(pa.float32()) if c.curve else pa.float32()) for c in columns]
    return pa.schema([*fixed, *measured])


def screen_schema() -> Any:
    """What is kept of a screened sample."""
    pa = arrow()
    return pa.schema([("index", pa.int32()), ("predicted", pa.int32())])


class Store:
    """A run's folder at work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts: dict[Path, Facts | None] = {}

    def recorded(self) -> Asked | None:
        """What the run was asked when it began; None while nothing is finished, and it may be asked something else."""
        finished = any(path for kind in ("parts", "screen") for path in (self.path / kind).glob("*.parquet"))
        return read_asked(self.path) if finished and (self.path / "run.json").exists() else None

    def begin(self, asked: Asked) -> None:
        """Note what the run is asked, or see that it was asked the same.

        Raises:
            RunError: it was asked something else; each difference is named. The folder cannot be written to.
        """
        before = self.recorded()
        if before is None:
            table = {"study": as_table(asked.study), "data": asked.data, "environment": asked.environment}
            with writing(self.path / "run.json"), atomic_write(self.path / "run.json") as stream:
                stream.write((json.dumps(table, indent=1) + "\n").encode())
            return
        changed = differences(before.study, asked.study)
        for key, old, new in (
            ("data", before.data, asked.data),
            ("environment", before.environment, asked.environment),
        ):
            changed += [
                difference(f"{key}.{name}", old.get(name), new.get(name))
                for name in dict.fromkeys((*old, *new))
                if name not in _PATHS and old.get(name) != new.get(name)
            ]
        if changed:
            raise RunError(
                f"output {self.path}: this run began with another command, and its rows would not be of one kind "
                f"(then and now: {'; '.join(changed)}). Repeat the command it began with, or write to "
                "another folder with -o"
            )

    def clean(self) -> None:
        """Remove what a process that was killed left half-written."""
        for folder in (self.path, self.path / "parts", self.path / "screen"):
            for left in folder.glob(".*.part"):
                left.unlink(missing_ok=True)

    def file(self, kind: Kind, part: Part) -> Path:
        """Where a part's rows are, or will be."""
        return self.path / kind / _name(part.number, part.model)

    def facts(self, kind: Kind, part: Part) -> Facts | None:
        """What a finished part says of itself; None for one that is not finished, or whose file is damaged."""
        path = self.file(kind, part)
        if self._facts.get(path) is None:
            self._facts[path] = _facts(path)
        return self._facts[path]

    def write(self, kind: Kind, part: Part, columns: Mapping[str, Any], schema: Any, facts: Facts) -> None:
        """Write a part's rows. Raises RunError where the folder cannot be written to."""
        pa = arrow()
        note = json.dumps({**asdict(facts), "model": part.model})
        table = pa.table(dict(columns), schema=schema.with_metadata({_KEY: note.encode()}))
        path = self.file(kind, part)
        with writing(path), atomic_write(path) as stream:
            pa.parquet.write_table(table, stream)

    def read(self, kind: Kind, part: Part) -> Any:
        """A part's rows."""
        return _read(self.file(kind, part))

    def log(self, rank: int, line: Mapping[str, Any]) -> None:
        """Add a line to this process's log."""
        path = self.path / f"log-{rank}.jsonl"
        with writing(path), path.open("ab+") as stream:
            # Behind a line that a killed process did not finish, a new one.
            stream.seek(max(stream.tell() - 1, 0))
            cut_off = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * cut_off + json.dumps(line).encode() + b"\n")

    def cost(self) -> dict[str, Any]:
        """Seconds per image, by model."""
        return _read_json(self.path / "cost.json") if (self.path / "cost.json").exists() else {}

    def write_cost(self, cost: Mapping[str, Any]) -> None:
        """Write the costs measured so far."""
        path = self.path / "cost.json"
        with writing(path), atomic_write(path) as stream:
            stream.write((json.dumps(cost, indent=1) + "\n").encode())


@dataclass(frozen=True, eq=False)
class Run:
    """A run as it was found in its folder.

    rows: a pyarrow Table, in the order of the plan: models as in the study, samples as in the data set, then methods
        and layers. complete: whether all parts are there. bad: photos that were left out, each once. log: lines of all
        processes. cost: seconds per image by model. data: name, paths, samples and fingerprint of the data set.
    """

    path: Path
    study: Study
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Any
    complete: bool
    bad: tuple[Bad, ...]
    log: tuple[Mapping[str, Any], ...]
    cost: Mapping[str, Any]


def read_run(path: Path) -> Run:
    """Read a run's folder, finished or not.

    Raises:
        RunError: there is no run, no finished part, or a damaged file.
    """
    pa = arrow()
    asked = read_asked(path)
    tables, bad, complete = [], list[Bad](), True
    for model in asked.study.models:
        kept = _files(path, "parts", model.name)
        facts = [_whole_facts(file) for file in kept]
        tables += [_read(file) for file in kept]
        screened = map(_whole_facts, _files(path, "screen", model.name))
        bad += [b for fact in (*screened, *facts) for b in fact.bad]
        complete &= bool(facts) and len(facts) == facts[0].total
    if not tables:
        raise RunError(f"run {path}: no part is finished yet; let fastcam evaluate go on first")
    return Run(
        path=path,
        study=asked.study,
        data=asked.data,
        environment=asked.environment,
        rows=pa.concat_tables([table.replace_schema_metadata(None) for table in tables]),
        complete=complete,
        bad=tuple(dict.fromkeys(bad)),
        log=tuple(line for log in sorted(path.glob("log-*.jsonl")) for line in _lines(log)),
        cost=_read_json(path / "cost.json") if (path / "cost.json").exists() else {},
    )


def discard(path: Path) -> None:
    """Remove a run's rows, logs and costs, so that another may begin in its folder; other files stay."""
    with writing(path):
        # run.json goes last: parts without it would be taken for those of the next run.
        for pattern in ("parts/*.parquet", "screen/*.parquet", "log-*.jsonl", "cost.json", "run.json"):
            for file in path.glob(pattern):
                file.unlink()


def read_asked(path: Path) -> Asked:
    """What a run was asked. Raises RunError if there is none, or its file is damaged."""
    if not (path / "run.json").is_file():
        raise RunError(f"run {path}: no run.json in it; name the folder that fastcam evaluate -o wrote to")
    table = _read_json(path / "run.json")
    try:
        study = study_from(table["study"], source=f"run {path}: run.json")
        return Asked(study=study, data=dict(table["data"]), environment=dict(table["environment"]))
    except (KeyError, TypeError) as error:
        raise RunError(f"run {path}: run.json is not what fastcam evaluate writes ({error})") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a message that says what is kept and what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"output: {path} cannot be written ({refusal(error)}). Nothing that was finished is lost: set this right, "
            "and the same command goes on from there"
        ) from error


def _name(number: int, model: str) -> str:
    # Quoted, so that a name with a slash or a colon is a file's, and no two models share one.
    return f"{number:05d}-{quote(model, safe=' +')}.parquet"


def _files(path: Path, kind: Kind, model: str) -> list[Path]:
    """The finished parts of a model, in order."""
    found = {}
    for file in (path / kind).glob("*.parquet"):
        number = file.name.partition("-")[0]
        if number.isdecimal() and file.name == _name(int(number), model):
            found[int(number)] = file
    return [found[number] for number in sorted(found)]


def _facts(path: Path) -> Facts | None:
    """What a part's file says of itself; None if it is not there or not whole."""
    pa = arrow()
    try:
        note = json.loads(pa.parquet.read_schema(path).metadata[_KEY])
        bad = tuple(Bad(**bad) for bad in note["bad"])
        return Facts(total=note["total"], weights=note["weights"], batch=note["batch"], bad=bad)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def _whole_facts(path: Path) -> Facts:
    facts = _facts(path)
    if facts is None:
        raise _damaged(path)
    return facts


def _read(path: Path) -> Any:
    pa = arrow()
    try:
        # Without the dataset reader, which would start threads of its own for a few kilobytes.
        return pa.parquet.ParquetFile(path).read(use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> RunError:
    return RunError(f"{path} is damaged: remove it, and repeat the command of fastcam evaluate to make it anew")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error})") from error
    return table


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # A process that was killed may have left half a line.
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
