"""What a metric is: which numbers it gives for each map, and what it needs to know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fastcam.metrics.trial import Trial

Options = Mapping[str, Any]


def nothing_to_check(options: Options) -> None:
    """The metric has no options with invalid values."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number per map, or one curve.

    title: as tables print it. unit: "%" for percentages, "" for plain numbers.
    better: which way is better, None where neither is.
    aggregate: how a data set's figure is made of the rows: their mean; or the mean within each class, then over the
        classes.
    curve: the value is (M, S), drawn but not averaged into one number.
    hidden: kept in rows and shown in no table: other figures are made of it.
    """

    name: str
    title: str
    better: Literal["higher", "lower"] | None
    unit: Literal["%", ""] = ""
    aggregate: Literal["mean", "class mean"] = "mean"
    curve: bool = False
    hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, and what a user wants to know of it.

    measure: from a trial and the metric's own options to a value per map for each column: (M,), or (M, S) for curves;
        NaN where the metric is undefined for a map (a box that did not survive the crop).
    needs: what the trial must bring: "regions" (where the class is), "explain" (maps of further images).
    options: the metric's own keyword arguments and their defaults; metrics of one call share options of one name.
    check: raises ValueError for invalid ones.
    """

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    measure: Callable[[Trial, Options], Mapping[str, Tensor]]
    needs: frozenset[Literal["regions", "explain"]] = frozenset()
    options: Options = field(default_factory=dict)
    check: Callable[[Options], None] = nothing_to_check
