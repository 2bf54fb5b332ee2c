"""A study: which methods explain which models at which layers on which images, and by what they are judged."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# The options of `fastcam evaluate` that set what a run notes; what has none is set by a study's file.
OPTIONS = {
    **{key: f"--{key}" for key in ("dataset", "methods", "metrics", "targets", "subset", "seed", "space", "precision")},
    **{key: f"--{key}" for key in ("batch", "part")},
    **{f"models.{key}": f"--{key}" for key in ("weights", "layers", "resize", "crop")},
    **{f"options.{key}": f"--{key}" for key in ("mask", "step")},
    **{f"environment.{key}": f"--{key}" for key in ("threads", "device")},
    "correct_only": "--correct-only",
    "models": "--model",
    "models.name": "--model",
    "methods.name": "--methods",
    "data.name": "--dataset",
    "data.samples": "--data",
    "data.fingerprint": "--data",
}

# Keys that say what a study is called and what a paper found: rows are the same without them.
DECIDES_NOTHING = ("title", "source", "published")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model by name, its layers (None: each method's own default), and the view of a photo that it gets."""

    name: str
    weights: str = "default"
    layers: tuple[str, ...] | None = None
    resize: str | None = None
    crop: str | None = None


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A method with its options; `label` is its name in rows and tables."""

    name: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that decides what the rows of a run are; a run holds exactly one.

    targets: "predicted" or "label". subset: that many samples drawn with `seed` (None: all, in order). correct_only:
    only samples whose label the model predicts. options: of metrics. space: what a masked pixel becomes, "normalized"
    (0, the mean colour) or "pixel" (black). published: the paper's figures, one mapping a row of its table, with
    "model", "layer", "method" and columns of metrics; they decide nothing and are left out of comparisons.
    """

    dataset: str
    models: tuple[ModelSpec, ...]
    methods: tuple[MethodSpec, ...]
    metrics: tuple[str, ...]
    targets: str = "predicted"
    subset: int | None = None
    seed: int = 0
    correct_only: bool = False
    space: str = "normalized"
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None
    batch: int = 8
    part: int = 64
    title: str = ""
    source: str = ""
    published: tuple[Mapping[str, Any], ...] = ()


def read_study(path: Path) -> Study:
    """A study from a TOML file: keys are those of `Study`, with [[models]], [[methods]] and [options].

    Raises:
        ValueError: the file cannot be read, a key is unknown or missing, or a value is of the wrong kind.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"config {path}: cannot be read ({error})") from error
    return study_from(table, source=str(path))


def study_from(table: Mapping[str, Any], *, source: str) -> Study:
    """A study from a mapping as TOML and JSON hold it; `source` names it in errors."""
    _check_keys(Study, table, source)
    models = tuple(_spec(ModelSpec, _named(m), f"{source}: models") for m in _list(table, "models", source))
    methods = tuple(
        _spec(MethodSpec, {"label": _named(m).get("name"), **_named(m)}, f"{source}: methods")
        for m in _list(table, "methods", source)
    )
    others = {key: value for key, value in table.items() if key not in ("models", "methods")}
    return _spec(Study, {**others, "models": models, "methods": methods}, source)


def _list(table: Mapping[str, Any], key: str, source: str) -> Sequence[Any]:
    found = table.get(key)
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"{source}: {key} is {found!r}; a list of at least one name or table is needed")
    return found


def _named(entry: object) -> dict[str, Any]:
    """An entry that is a name alone, as a table."""
    return {"name": entry} if isinstance(entry, str) else dict(entry)  # type: ignore[call-overload]


def _check_keys(kind: type[Any], table: Mapping[str, Any], source: str) -> None:
    known = [f.name for f in fields(kind)]
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(f"{source}: key {unknown[0]!r} is unknown; {', '.join(known)} are valid")


def _spec(kind: type[T], table: Mapping[str, Any], source: str) -> T:
    _check_keys(kind, table, source)
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    try:
        return kind(**frozen)
    except TypeError as error:
        raise ValueError(f"{source}: {str(error).partition('() ')[2]}") from error


def as_table(study: Study) -> dict[str, Any]:
    """The study as JSON and TOML hold it; `study_from` makes the same study of it."""
    table: dict[str, Any] = json.loads(json.dumps(asdict(study)))
    return table


def differences(a: Study, b: Study) -> list[str]:
    """What of `b` is not as in `a`: "batch (--batch): 8 and 16", a line a key; title, source and published aside."""
    tables = [{k: v for k, v in as_table(study).items() if k not in DECIDES_NOTHING} for study in (a, b)]
    return list(_differences("", *tables))


def difference(key: str, a: object, b: object) -> str:
    """Both values of a key, with the option that sets it if there is one."""
    option = OPTIONS.get(re.sub(r"\[.*?\]", "", key))
    return f"{key}{'' if option is None else f' ({option})'}: {_short(a)} and {_short(b)}"


def _differences(key: str, a: object, b: object) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys((*a, *b)):
            yield from _differences(f"{key}.{name}" if key else name, a.get(name), b.get(name))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for position, pair in enumerate(zip(a, b, strict=True)):
            yield from _differences(f"{key}[{position}]", *pair)
    elif a != b or type(a) is not type(b):
        yield difference(key, a, b)


def _short(value: object) -> str:
    """A value in few words: of tables their names."""
    if value is None:
        return "not given"
    if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
        value = [v.get("label", v["name"]) for v in value]
    return json.dumps(value)
