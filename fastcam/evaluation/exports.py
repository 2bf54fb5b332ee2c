"""Tables as files for other programs: CSV with every figure, LaTeX as papers print it (package booktabs)."""

import csv
import io
from collections.abc import Sequence

from fastcam.evaluation.layout import Cell, Head, Table
from fastcam.evaluation.tables import Results

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}


def csv_text(results: Results) -> str:
    """One row per model, layer, method and column, with its interval and counts; figures at full precision.

    `published` is on the scale of `value`: a share that the paper prints in per cent is divided by 100.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["model", "layer", "method", "column", "unit", "value", "low", "high", "count", "missing", "published"]
    )
    for line in results.lines:
        for column in results.columns:
            figure, printed = line.figures.get(column.name), line.published.get(column.name)
            if figure is None and printed is None:
                continue
            values = (
                [""] * 5
                if figure is None
                else [repr(figure.value), repr(figure.low), repr(figure.high), figure.count, figure.missing]
            )
            writer.writerow(
                [
                    line.model,
                    line.layer,
                    line.method,
                    column.name,
                    column.unit,
                    *values,
                    "" if printed is None else repr(printed.value),
                ]
            )
    return stream.getvalue()


def latex_text(tables: Sequence[Table], *, caption: str) -> str:
    r"""A `table` environment per table, for \usepackage{booktabs}; the best of a column in bold."""
    return "\n\n".join(_latex(table, caption) for table in tables) + "\n"


def escape_latex(text: str) -> str:
    """Text in which no character is a command."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _latex(table: Table, caption: str) -> str:
    # Of each head one column, and a second one where the paper has figures.
    widths = [2 if head.printed else 1 for head in table.heads]
    spans = [(group, table.width(group)) for group in table.groups]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(f'{caption} ({table.title})')}}}",
        rf"  \begin{{tabular}}{{l{'r' * sum(widths)}}}",
        r"    \toprule",
        "    " + " & ".join(["", *(_span(escape_latex(g.title), n) for g, n in spans)]) + r" \\",
        "    " + " ".join(_rules([n for _, n in spans])),
        "    "
        + " & ".join(["Method", *(_span(_title(h), w) for h, w in zip(table.heads, widths, strict=True))])
        + r" \\",
    ]
    if table.printed:
        kinds = [kind for head in table.heads for kind in (["ours", "paper"] if head.printed else ["ours"])]
        lines.append("    " + " & ".join(["", *kinds]) + r" \\")
    lines.append(r"    \midrule")
    for method in table.methods:
        cells = [
            text
            for i, head in enumerate(table.heads)
            for text in _cells(head, table.cells.get((method, i)), bold=method in head.best)
        ]
        lines.append("    " + " & ".join([escape_latex(method), *cells]) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines)


def _title(head: Head) -> str:
    return escape_latex(head.title) + _ARROWS[head.column.better]


def _span(text: str, columns: int) -> str:
    return rf"\multicolumn{{{columns}}}{{c}}{{{text}}}"


def _rules(spans: Sequence[int]) -> list[str]:
    starts = [2 + sum(spans[:i]) for i in range(len(spans))]
    return [rf"\cmidrule(lr){{{s}-{s + n - 1}}}" for s, n in zip(starts, spans, strict=True)]


def _cells(head: Head, cell: Cell | None, *, bold: bool) -> list[str]:
    figure = None if cell is None else cell.figure
    text = "--" if figure is None else head.text(figure.value).replace("–", "--")
    ours = rf"\textbf{{{text}}}" if bold else text
    printed = "--" if cell is None or cell.published is None else cell.published.text
    return [ours, printed] if head.printed else [ours]
