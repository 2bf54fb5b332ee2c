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


def matrix_table(results: dict[str, Any]) -> str:
    """How many pairs of a method and a model there are, and what was wrong with which; seconds per model."""
    rows = results["rows"]
    models, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "method"))
    narrow = [method for method in methods if any(row["narrow"] for row in rows if row["method"] == method)]
    refused = [f"{row['method']} of {row['model']}" for row in rows if row["refused"]]
    failed = [f"{row['method']} of {row['model']}: {'; '.join(row['problems'])}" for row in rows if row["problems"]]
    precisions = results["precisions"]
    lines = [
        f"{_machine(results)} {results['threads']} threads. {len(methods)} methods on {len(models)} models, "
        f"{len(rows)} pairs in {len(precisions)} precisions each ({', '.join(precisions)}): {len(failed)} "
        f"failed. Not defined, and refused with the reason: {', '.join(refused)}. On an eighth of the channels: "
        f"{', '.join(narrow)}.",
        "",
        *(line for failure in failed for line in (f"- {failure}", "")),
        "| model | seconds |",
        "|---|---|",
    ]
    lines += [f"| {m} | {sum(row['seconds'] for row in rows if row['model'] == m):.0f} |" for m in models]
    return "\n".join(lines) + "\n"


def evaluation_tables(results: dict[str, Any]) -> str:
    """The parts of `bench.evaluation` that the file holds."""
    drawn = {
        "sample": _sample,
        "overhead": _overhead,
        "start": _start,
        "decoder": _decoder,
        "memory": _resident,
        "hours": _hours,
    }
    return "\n".join(line for part, draw in drawn.items() if part in results for line in draw(results)) + "\n"


def _sample(results: dict[str, Any]) -> list[str]:
    found = results["sample"]
    columns = list(found["titles"])
    lines = [
        f"`{found['command']}`: {found['images']} photos in {found['minutes']:.1f} minutes, "
        f"{found['images_per_s']:.2f} images/s, from the start of the process to its end. {_machine(found)} "
        f"{found['threads']} threads. Means, with 95% bootstrap intervals:",
        "",
        f"| method | {' | '.join(found['titles'].values())} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for method, figures in found["methods"].items():
        cells = [_with_interval(figures.get(column)) for column in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    if "fake_cam" in found["methods"]:
        drop, adcc = (found["methods"]["fake_cam"][column][0] for column in ("drop", "adcc"))
        near = drop < 1 and adcc < 0.05
        lines += [
            "",
            f"Fake-CAM, which explains nothing, has an average drop of {drop:.2g} % and an ADCC of {adcc:.2g}: "
            f"{'both near 0, as' if near else 'not both near 0, unlike what'} the ADCC paper says.",
        ]
    return [*lines, ""]


def _with_interval(figure: list[float] | None) -> str:
    if figure is None:
        return ""
    value, low, high = figure
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def _overhead(results: dict[str, Any]) -> list[str]:
    found = results["overhead"]
    spent = {name: seconds for name, seconds in found["accounted"].items() if name != "work"}
    total = sum(found["accounted"].values())
    shares = ", ".join(f"{name} {100 * seconds / total:.1f} %" for name, seconds in spent.items())
    return [
        f"The runner's own time, {found['photos']} photos, {len(found['methods'])} methods of one pass, "
        f"{len(found['metrics'])} metrics ({found['model']}, {found['threads']} threads): "
        f"{100 * found['share']:.1f} % of the time, against the same calls on decoded images in turn; by clocks inside "
        f"it {100 * found['accounted_share']:.1f} % ({shares}).",
        "",
    ]


def _start(results: dict[str, Any]) -> list[str]:
    found = results["start"]
    text = (
        f"Before a study come a process with its imports, {found['process_and_imports_s']:.1f} s, the model, "
        f"{found['model_s']:.1f} s, and its capture, {found['capture_s']:.1f} s ({found['model']})."
    )
    return [text, ""]


def _decoder(results: dict[str, Any]) -> list[str]:
    found = results["decoder"]
    alone, workers = (found["images_per_s"][name] for name in ("one core", "workers"))
    text = (
        f"Decoding, resizing and cropping these photos, of {found['megapixels']:.2f} megapixels on average (500x375, "
        f"ImageNet's most common size, is 0.19): {alone:.0f} images/s on one core, {workers:.0f} with "
        f"{found['workers']} worker processes"
    )
    if "overhead" in results:
        study = results["overhead"]["seconds"]["runner"] / results["overhead"]["photos"]
        text += f"; on one core {100 / alone / study:.1f} % of that study's time"
    return [f"{text}.", ""]


def _resident(results: dict[str, Any]) -> list[str]:
    found = results["memory"]
    rise = found["slope_kib_per_1000"]
    return [
        f"Memory over {found['images']:,} small images: it rises by {rise['both']:.0f} KiB per 1,000 images after the "
        f"first {found['warm_up_images']:,} (the process {rise['process']:.0f}, its {found['workers']} workers "
        f"{rise['workers']:.0f}); at most {found['peak_mib']:.0f} MiB are resident, pages that they share counted in "
        "each.",
        "",
    ]


def _hours(results: dict[str, Any]) -> list[str]:
    found = results["hours"]
    forward = found["forward_images_per_s"]
    how = (
        f"at {100 * found['attainable']:.0f} % of {found['peak_flops'] / 1e12:.0f} TFLOP/s dense bfloat16 and of "
        f"{found['bandwidth'] / 1e12:.1f} TB/s a forward pass, {found['flops_per_image'] / 1e9:.1f} GFLOP and "
        f"{found['bytes_per_image'] / 1e6:.0f} MB, takes 1/{forward:,.0f} s"
    )
    if found["measured"]:
        how = f"{found['measured']['file']}; methods that it lacks from their passes, 1/{forward:,.0f} s each"
    lines = [
        f"**Hours for {found['images']:,} images on one H200, {found['source']}** ({found['model']}, {found['layer']}, "
        f"{found['side']} px; {how}; a backward pass to the image counts as two forward passes, one to the layer as "
        f"what lies behind it; all {found['channels']:,} channels count as not 0; options at their "
        "defaults). Reading photos is not in it.",
        "",
        "| methods | forward passes | backward passes | hours |",
        "|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, row in found["methods"].items():
        mark = "" if row["measured"] or not found["measured"] else " (estimated)"
        key = (row["forwards"], row["backwards"], f"{row['hours']:.2g}{mark}")
        groups.setdefault(key, []).append(name)
    ordered = sorted(groups.items(), key=lambda item: float(item[0][2].split()[0]))
    lines += [f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in ordered]
    lines += ["", "| metrics, for the maps of one method | forward passes | hours |", "|---|---|---|"]
    of_metrics: dict[tuple[str, str], list[str]] = {}
    for name, row in found["metrics"].items():
        again = " + the method's (here grad_cam's)" if row["maps"] else ""
        of_metrics.setdefault((f"{row['forwards']}{again}", f"{row['hours']:.2g}"), []).append(name)
    lines += [f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in of_metrics.items()]
    lines.append("")
    if "decoder" in results:
        alone = results["decoder"]["images_per_s"]["one core"]
        lines += [
            f"The decoder's share: one core of the CPU above reads {alone:.0f} photos/s, all of them in "
            f"{found['images'] / alone / 3600:.2g} hours; {forward / alone:,.0f} such cores would keep up with methods "
            f"of one forward pass, {forward / found['metrics']['insertion']['forwards'] / alone:.1f} with insertion or "
            "deletion of one method's maps. nvJPEG, which decodes on the GPU where it is there, is not measured.",
            "",
        ]
    return lines


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
    what = f"{row['method']}: " if "method" in row else ""
    lines = [
        f"**{what}{row['model']}{where}, batch {row['batch']}, {row['precision']}, {row['threads']} threads**",
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
    "score.json": cpu_tables,
    "memory.json": cpu_tables,
    "methods.json": methods_table,
    "lrp.json": cpu_tables,
    "metrics.json": metrics_table,
    "mosaics.json": mosaics_table,
    "matrix.json": matrix_table,
    "evaluation.json": evaluation_tables,
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
