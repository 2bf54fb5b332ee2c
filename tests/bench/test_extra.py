"""The extra `bench` installs what the benchmarks import."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bench.tables import ROOT

BENCH = sorted((ROOT / "bench").glob("*.py"))
OWN = {"bench", "fastcam", "fastcam_kernels", "tests"}
# By distribution where its modules have another name and it is not installed for the tests.
MODULES = {"pynvml": "nvidia-ml-py"}


def imported(file: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OWN


def installed_by(extra: str) -> set[str]:
    """The distributions that the package and an extra of it name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set()
    waiting = [*project["dependencies"], f"fastcam[{extra}]"]
    while waiting:
        requirement = waiting.pop()
        own = re.match(r"fastcam\[(.*)\]", requirement)
        if own:
            waiting += [each for name in own[1].split(",") for each in project["optional-dependencies"][name]]
        else:
            named.add(re.split(r"[<>=;\s]", requirement)[0].lower().replace("_", "-"))
    return named


@pytest.mark.parametrize("file", BENCH, ids=lambda file: file.name)
def test_extra_installs_what_is_imported(file: Path) -> None:
    distributions = packages_distributions()
    found = {
        module: {MODULES[module]} if module in MODULES else {name.lower() for name in distributions[module]}
        for module in imported(file)
    }
    installed = installed_by("bench")
    assert [module for module, names in found.items() if not names & installed] == []
