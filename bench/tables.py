"""The README's tables, drawn from bench/results.

python -m bench.tables          # rewrites the part of README.md between the two markers
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "cpu.json"
BEGIN, END = "<!-- begin: bench/results/cpu.json -->\n", "<!-- end -->\n"


def cpu_tables(results: dict[str, Any]) -> str:
    """One table per comparison: median, spread, and the ratio to the comparison's yardstick."""
    machine = results["machine_info"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    arithmetic = "with" if machine["bfloat16_arithmetic"] else "without"
    lines = [
        f"{machine['processor']}, {machine['instructions']} ({arithmetic} bfloat16 arithmetic), "
        f"Python {machine['python']}, {packages}. Medians of interleaved rounds; spread: 20th to 80th "
        "percentile; times: median of the ratios within a round.",
        "",
    ]
    for row in results["benchmarks"]:
        lines += _table(row) if "seconds" in row else _correlation(row) if "correlation" in row else _memory(row)
    return "\n".join(lines) + "\n"


def _table(row: dict[str, Any]) -> list[str]:
    seconds = row["seconds"]
    yardstick = row["yardstick"]
    where = f", {row['layer']}" if "layer" in row else ""
    lines = [
        f"**{row['model']}{where}, batch {row['batch']}, {row['precision']}, {row['threads']} threads**",
        "",
        f"| variant | seconds | spread | times {yardstick} | rounds |",
        "|---|---|---|---|---|",
    ]
    for name, value in seconds.items():
        spread = f"{value['p20']:.3f}-{value['p80']:.3f}"
        ratio = f"{value['times_yardstick']:.2f}"
        lines.append(f"| {name} | {value['median']:.3f} | {spread} | {ratio} | {value['rounds']} |")
    return [*lines, ""]


def _correlation(row: dict[str, Any]) -> list[str]:
    least = "; ".join(f"{name} {value:.5f}" for name, value in row["correlation"].items())
    return [f"Least correlation with float32 maps over four photos ({row['model']}, {row['layer']}): {least}.", ""]


def _memory(row: dict[str, Any]) -> list[str]:
    return [
        f"Peak memory of score_cam on one photo ({row['model']}, {row['layer']}), over what a process holds after a "
        f"plain forward pass: {row['peak_over_model_mib']:.0f} MiB.",
        "",
    ]


def with_tables(readme: str, tables: str) -> str:
    """The README with the part between the markers replaced."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + tables + END + after


if __name__ == "__main__":
    path = ROOT / "README.md"
    tables = cpu_tables(json.loads(RESULTS.read_text(encoding="utf-8")))
    path.write_text(with_tables(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
