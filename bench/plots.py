"""Pictures of a GPU run, for the README.

python -m bench.plots bench/results/gpu-h200.json       # writes gpu-h200-roofline.png and -speedups.png beside it
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def roofline(results: dict[str, Any]) -> Figure:
    """Operations per second over operations per byte, for the z+ convolutions at the largest batch, by algorithm."""
    from bench.gpu_relevance import work

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    bandwidth, peak = (results["ceilings"][key] for key in ("copy_bytes_per_s", "bf16_flop_per_s"))
    layers = results["relevance"]["rows"]
    largest = max(row["batch"] for row in layers)
    intensities: list[float] = []
    for name, marker in (("triton", "o"), ("composition", "x")):
        points = []
        for row in layers:
            if row["batch"] == largest:
                for way in ("forward", "backward"):
                    if name in row["us"][way]:
                        operations, moved = work(row, way)
                        points.append((operations / moved, operations / row["us"][way][name]["p50"] / 1e6))
        intensities += [x for x, _ in points]
        axes.scatter([x for x, _ in points], [y for _, y in points], marker=marker, label=name, s=22)
    low, high = min(intensities) / 2, max(max(intensities) * 2, 2 * peak / bandwidth)
    knee = peak / bandwidth
    axes.plot([low, knee, high], [low * bandwidth / 1e12, peak / 1e12, peak / 1e12], color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="TFLOP/s")
    axes.set_title(f"z+ convolutions, forward and back, batch {largest}, bfloat16, {results['machine']['gpu']}")
    axes.legend()
    return figure


def speedups(results: dict[str, Any]) -> Figure:
    """How many times faster the kernels are than eager and compiled PyTorch, at the largest batch."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes: Axes = figure.subplots()
    rows = results["memory"]["rows"]
    largest = max(row["batch"] for row in rows)
    shown = [row for row in rows if row["batch"] == largest]
    names = [_label(row) for row in shown]
    for offset, variant in ((-0.2, "eager"), (0.2, "compiled")):
        times = [row["us"][variant]["p50"] / row["us"]["kernel"]["p50"] if variant in row["us"] else 0 for row in shown]
        bars = axes.barh([place + offset for place in range(len(shown))], times, height=0.38, label=f"over {variant}")
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="times faster")
    axes.set_title(f"Kernels over PyTorch, batch {largest}, {results['machine']['gpu']}")
    axes.legend()
    return figure


def _label(row: dict[str, Any]) -> str:
    kind = row["dtype"].removeprefix("torch.")
    layer = f" {row['layer']}" if "layer" in row else ""
    layout = {"torch.channels_last": " nhwc", "torch.contiguous_format": " nchw"}.get(row.get("layout", ""), "")
    return f"{row['operator']}{layer}{layout} {kind}"


def main(path: Path) -> None:
    """Draw what the file holds."""
    results = json.loads(path.read_text(encoding="utf-8"))
    for part, draw in (("relevance", roofline), ("memory", speedups)):
        if results.get(part, {}).get("rows"):
            figure = draw(results)
            figure.savefig(path.with_name(f"{path.stem}-{draw.__name__}.png"), dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
