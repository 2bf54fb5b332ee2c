"""The file of a GPU run: rows by name, each with the run that measured it, and what failed.

{"machine": {...}, "runs": [{...}, ...], "ceilings": {...}, "tests": {...},
 "memory": {"rows": [{"name": ..., "run": 0, ...}], "failed": {name: {"run": 0, "error": ...}}, "left": 3}, ...}
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["measured", "older", "failed", "missing"]
ROOT = Path(__file__).parent.parent
# What a figure depends on, and what a test does beside it.
CODE = ("fastcam", "kernels", "bench")
TESTED = (*CODE, "tests")


@dataclass(frozen=True)
class Job:
    """One row, still to be measured."""

    name: str
    measure: Callable[[], dict[str, Any]]


def digest(folders: Iterable[str], root: Path = ROOT) -> str:
    """A number for the Python sources and tables in folders, the same wherever they lie."""
    found = hashlib.sha256()
    for folder in folders:
        files = (root / folder).rglob("*.py"), (root / folder).rglob("tables/*.json")
        for path in sorted(path for several in files for path in several):
            found.update(f"{path.relative_to(root).as_posix()}\0{len(path.read_bytes())}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


class Results:
    """What `path` holds, and what is added to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write(self) -> None:
        """Replace the file: whoever is stopped in the midst of it leaves the older one."""
        beside = self.path.with_name(self.path.name + ".part")
        beside.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.path)

    def begin(self, machine: dict[str, Any], run: dict[str, Any]) -> list[str]:
        """Start a run, on the machine that the file began with; return in which respects runs differ from each other.

        Raises ValueError where the file's rows are another machine's.
        """
        before = self.content.setdefault("machine", machine)
        changed = sorted(key for key in {*before, *machine} if before.get(key) != machine.get(key))
        if changed:
            was, now = ({key: of.get(key) for key in changed} for of in (before, machine))
            raise ValueError(f"{self.path} was begun with {was}, here it is {now}: choose another --output")
        runs = self.content.setdefault("runs", [])
        runs.append(run)
        self.write()
        return sorted(key for key in run if key != "time" and any(other.get(key) != run[key] for other in runs))

    @property
    def run(self) -> int:
        """The number of the last run begun."""
        return len(self.content["runs"]) - 1

    def part(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.content.setdefault(name, {"rows": [], "failed": {}})
        return found

    def state(self, part: str, name: str) -> State:
        """Whether a row is there, measured from the present sources or older ones, or failed with the present ones."""
        kept = self.part(part)
        if name in kept["failed"] and self._present(kept["failed"][name]):
            return "failed"
        row = next((row for row in kept["rows"] if row["name"] == name), None)
        if row is None or row.get("again"):
            return "missing"
        return "measured" if self._present(row) else "older"

    def _present(self, entry: dict[str, Any]) -> bool:
        runs = self.content["runs"]
        return bool(runs[entry["run"]]["code"] == runs[-1]["code"])

    def start(self, part: str, name: str) -> None:
        """Note what is being measured, for whoever finds that the process ended."""
        self.content["measuring"] = [part, name]
        self.write()

    def keep(self, part: str, row: dict[str, Any]) -> None:
        """Add a row, or put it in the place of the older one of its name."""
        kept = self.part(part)
        row["run"] = self.run
        places = [i for i, older in enumerate(kept["rows"]) if older["name"] == row["name"]]
        if places:
            kept["rows"][places[0]] = row
        else:
            kept["rows"].append(row)
        kept["failed"].pop(row["name"], None)
        self.content.pop("measuring", None)
        self.write()

    def fail(self, part: str, name: str, error: str) -> None:
        """Note a failure; an older row of the same name stays."""
        self.part(part)["failed"][name] = {"run": self.run, "error": error[:1000]}
        self.content.pop("measuring", None)
        self.write()

    def forget_failures(self, parts: Iterable[str]) -> None:
        """Let what failed be measured again, rows of which a variant failed among them: they stay until then."""
        for part in parts:
            if part in self.content:
                self.part(part)["failed"] = {}
                for row in self.part(part)["rows"]:
                    if row.get("failed"):
                        row["again"] = True
        self.write()
