"""Looking into folders, with errors that say what was found there."""

from collections.abc import Iterable, Sequence
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def is_photo(path: Path) -> bool:
    """Whether the file's name is that of a photo. Names alone: a look at each of 50,000 files takes long."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def photos_in(folder: Path) -> list[Path]:
    """The photos of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_photo(path))


def check_folder(root: Path, *, name: str) -> Path:
    """The root of a data set. Raises ValueError where it is no folder that can be listed."""
    try:
        next(root.iterdir(), None)
    except OSError as error:
        raise ValueError(f"data set {name}: folder {root} cannot be read ({error.strerror or error})") from error
    return root


def first_folder(candidates: Iterable[Path]) -> Path | None:
    """The first of the candidates that is a folder."""
    return next((folder for folder in candidates if folder.is_dir()), None)


def contents(folder: Path, *, shown: int = 5) -> str:
    """What lies in a folder, for messages."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def some(names: Sequence[str], *, shown: int = 3) -> str:
    """The first few of many names, for messages."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
