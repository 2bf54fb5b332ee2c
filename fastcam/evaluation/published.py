"""A paper's figures, as its tables print them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastcam.evaluation.study import Study

_KEYS = frozenset({"model", "layer", "method"})
SECONDS = "seconds"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One figure: `text` as printed, its number, and whether the paper prints a share of 1 in per cent."""

    text: str
    value: float
    percent: bool

    @property
    def decimals(self) -> int:
        """Digits printed behind the point."""
        return len(self.text.partition(".")[2])


def parse_figure(given: object) -> Published:
    """A figure from a number, or from a string that keeps what is printed: "8.82%" is 0.0882 printed as 8.82.

    Raises:
        ValueError: neither.
    """
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)(%?)", str(given).replace(" ", ""))
    if match is None or isinstance(given, bool):
        raise ValueError(f'published: {given!r} given, a number or a string such as "66.42" or "8.82%" is valid')
    text, sign = match.groups()
    return Published(text=text, value=float(text) / (100 if sign else 1), percent=bool(sign))


def published_figures(study: Study, *, model: str, layer: str, method: str) -> Mapping[str, Published]:
    """The paper's figures of one method, by column; a row without a layer stands for any."""
    found: dict[str, Published] = {}
    for row in study.published:
        if (row.get("model"), row.get("method")) == (model, method) and row.get("layer", layer) == layer:
            found |= figures_of(row)
    return found


def figures_of(row: Mapping[str, Any]) -> dict[str, Published]:
    """The figures in one row of `Study.published`."""
    return {name: parse_figure(value) for name, value in row.items() if name not in _KEYS}
