"""The README's tables, drawn from bench/results.

python -m bench.tables          # rewrites the parts of README.md between the markers that name a file
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
END = "<!-- end -->\n"


def cpu_tables(results: dict[str, Any]) -> str:
    """One table per comparison: median, spread, and the ratio to the comparison's yardstick."""
    lines = [
        f"{_machine(results)} Medians of interleaved rounds; spread: 20th to 80th "
        "percentile; times: median of the ratios within a round.",
        "",
    ]
    for row in results["benchmarks"]:
        lines += _table(row) if "seconds" in row else _correlation(row) if "correlation" in row else _memory(row)
    return "\n".join(lines) + "\n"


def methods_table(results: dict[str, Any], what: str = "method") -> str:
    """One row per method: seconds of fastcam and of the fastest peer on its faster layout, for each model."""
    rows = results["benchmarks"]
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        f"{_machine(results)} {rows[0]['threads']} threads, float32. Medians in seconds of interleaved rounds; the "
        "fastest peer on its faster memory layout; times: median of its ratios to fastcam within a round.",
        "",
        f"| {what} | batch | " + " | ".join(f"{name} | fastest peer | times" for name in names) + " |",
        "|---" * (2 + 3 * len(names)) + "|",
    ]
    ratios: list[float] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells: list[str] = []
        for name in names:
            (row,) = (row for row in rows if (row["model"], row["method"]) == (name, method))
            own, peers = row["seconds"]["fastcam"], {k: v for k, v in row["seconds"].items() if k != "fastcam"}
            peer = min(peers, key=lambda k: peers[k]["median"])
            ratios.append(peers[peer]["times_yardstick"])
            cells += [f"{own['median']:.3f}", f"{peer} {peers[peer]['median']:.3f}", f"{ratios[-1]:.2f}"]
        batch = next(row["batch"] for row in rows if row["method"] == method)
        lines.append(f"| {method} | {batch} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Median of the ratios: {median(ratios):.2f}; least: {min(ratios):.2f}."]) + "\n"


def metrics_table(results: dict[str, Any]) -> str:
    """One row per metric or pair of metrics that are measured together, as `methods_table`."""
    return methods_table(results, "metrics")


def mosaics_table(results: dict[str, Any]) -> str:
    """One row per method: mean and least share of positive evidence in the right quarter."""
    lines = [
        f"{results['model']}, {results['layer']} for methods that take a layer; {results['images']} mosaics, "
        f"{results['targets']} classes each.",
        "",
        "| method | mean share | least | empty maps |",
        "|---|---|---|---|",
    ]
    for name, row in sorted(results["methods"].items(), key=lambda item: -item[1]["mean"]):
        options = "".join(f", {key}={value}" for key, value in row["options"].items())
        lines.append(f"| {name}{options} | {row['mean']:.3f} | {row['least']:.3f} | {row['empty']} |")
    return "\n".join(lines) + "\n"


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine_info"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    arithmetic = "with" if machine["bfloat16_arithmetic"] else "without"
    return (
        f"{machine['processor']}, {machine['instructions']} ({arithmetic} bfloat16 arithmetic), "
        f"Python {machine['python']}, {packages}."
    )


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


DRAWN = {
    "cpu.json": cpu_tables,
    "methods.json": methods_table,
    "metrics.json": metrics_table,
    "mosaics.json": mosaics_table,
}


def with_tables(readme: str) -> str:
    """The README with the part behind each marker drawn from the file that the marker names, where it exists."""
    for name, draw in DRAWN.items():
        if not (RESULTS / name).exists():
            continue
        begin = f"<!-- begin: bench/results/{name} -->\n"
        before, rest = readme.split(begin)
        _, after = rest.split(END, 1)
        readme = before + begin + draw(json.loads((RESULTS / name).read_text(encoding="utf-8"))) + END + after
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
