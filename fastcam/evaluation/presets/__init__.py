"""The tables of four papers as studies: `read_preset("relevance-cam/table1")`."""

from difflib import get_close_matches
from importlib.resources import as_file, files

from fastcam.evaluation.study import Study, read_study


def preset_names() -> tuple[str, ...]:
    """All presets, "paper/table", in alphabetical order."""
    papers = [paper for paper in files(__name__).iterdir() if paper.is_dir()]
    return tuple(
        sorted(
            f"{paper.name}/{file.name.removesuffix('.toml')}"
            for paper in papers
            for file in paper.iterdir()
            if file.name.endswith(".toml")
        )
    )


def read_preset(name: str) -> Study:
    """The study of a table, with the figures that the paper printed in `published`.

    Raises:
        ValueError: there is no such preset; close names are listed.
    """
    names = preset_names()
    if name not in names:
        close = get_close_matches(name, names, n=3) or names
        raise ValueError(f"preset: {name!r} given, which is none; close names: {', '.join(close)}")
    with as_file(files(__name__).joinpath(f"{name}.toml")) as path:
        return read_study(path)
