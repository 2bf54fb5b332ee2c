"""Names of classes, and the classes a user names."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


def read_class_names(path: Path) -> tuple[str, ...]:
    """One name a line, the first line for class 0; empty lines at the end do not count.

    Raises:
        ValueError: the file cannot be read as UTF-8 text, is empty, or has an empty line in between.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class names file {path} cannot be read: {error}") from error
    while names and not names[-1]:
        names.pop()
    if not names:
        raise ValueError(f"class names file {path} is empty: write one name a line, class 0 first")
    if "" in names:
        line = names.index("") + 1
        raise ValueError(f"class names file {path}: line {line} is empty; write one name a line, class 0 first")
    return tuple(names)


def parse_targets(text: str, names: Sequence[str] | None) -> list[int]:
    """Class indices from "tiger cat,285": names and indices between commas, in order, each once.

    Names that hold commas themselves are found, since the longest run of parts that is a name counts as one
    ("tench, Tinca tinca, 285" with such names is two classes). A whole number is always an index. A name is
    looked up as written, then without regard to case.

    Raises:
        ValueError: an unknown name (close names are listed), or one that several classes have (their indices
            are listed).
    """
    parts = [" ".join(part.split()) for part in text.split(",")]
    targets: list[int] = []
    start = 0
    while start < len(parts):
        index, used = _first_target(parts[start:], names)
        targets.append(index)
        start += used
    return list(dict.fromkeys(targets))


def class_title(index: int, names: Sequence[str] | None) -> str:
    """The class's name, or "class 7" where there are no names."""
    return f"class {index}" if names is None else names[index]


def _first_target(parts: Sequence[str], names: Sequence[str] | None) -> tuple[int, int]:
    """The class that the parts begin with, and how many of them name it."""
    if parts[0].removeprefix("-").isdecimal():
        return int(parts[0]), 1
    if not parts[0]:
        raise ValueError("targets has an empty entry: write class names or indices between commas")
    if names is None:
        raise ValueError(
            f"target {parts[0]!r} is a name, but the model's class names are not known: "
            "give its index, or the names with --class-names FILE"
        )
    plain = [", ".join(" ".join(part.split()) for part in name.split(",")) for name in names]
    for used in range(len(parts), 0, -1):
        wanted = ", ".join(parts[:used])
        found = [i for i, name in enumerate(plain) if name == wanted] or [
            i for i, name in enumerate(plain) if name.casefold() == wanted.casefold()
        ]
        if len(found) > 1:
            indices = ", ".join(f"{i} ({names[i]})" for i in found)
            raise ValueError(f"target {wanted!r} is the name of {len(found)} classes, {indices}: give an index")
        if found:
            return found[0], used
    raise ValueError(f"target {parts[0]!r} is no class of the model{_close(parts[0], plain)}")


def _close(wanted: str, names: Sequence[str]) -> str:
    by_key = {name.casefold(): name for name in reversed(names)}
    close = [by_key[key] for key in get_close_matches(wanted.casefold(), by_key, n=3)]
    # "cat" is not close to "tiger cat" letter by letter, but it is what its user looks for.
    within = [name for key, name in by_key.items() if wanted.casefold() in key.split() and name not in close]
    near = (close + within)[:6]
    return "; close names: " + ", ".join(repr(name) for name in near) if near else ""
