"""What an evaluation costs beyond the network's passes, and how long all of ImageNet would take.

    python -m bench.evaluation overhead decoder sample --photos DIR     # DIR: an ImageNet folder, or --dataset folder
    python -m bench.evaluation start memory hours                       # writes bench/results/evaluation.json

Parts, each in a process of its own; a part that is run again takes the place of its figures in the file:

overhead   the runner's own time: a study against the same calls on decoded images, slice by slice in turn
start      what comes before a study: a process, the model, its capture
decoder    photos per second that are decoded, resized and cropped, and what they are of the study's time
memory     resident memory over thousands of images
sample     `fastcam evaluate` with seven metrics as a user calls it; the figures of its table
hours      hours for 50,000 images on an H200, of measured rates where there are any, else of a roofline
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import cpu_machine

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "pillow", "pyarrow", "numpy")


def _overhead(options: argparse.Namespace) -> dict[str, Any]:
    from bench.evaluation_run import open_photos, overhead

    return overhead(
        open_photos(options.photos, options.dataset, options.limit),
        size=options.slice,
        workers=options.workers,
        threads=options.threads,
    )


def _decoder(options: argparse.Namespace) -> dict[str, Any]:
    from bench.evaluation_run import decoder, open_photos

    photos = open_photos(options.photos, options.dataset, options.limit)
    return decoder(photos, workers=options.workers, threads=options.threads)


def _start(options: argparse.Namespace) -> dict[str, Any]:
    from bench.evaluation_run import start

    return start(threads=options.threads)


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    from bench.evaluation_memory import memory

    return memory(options.images, workers=options.workers, threads=options.threads)


def _sample(options: argparse.Namespace) -> dict[str, Any]:
    from bench.evaluation_run import sample

    return sample(options.photos, options.dataset, options.run, limit=options.limit)


def _hours(options: argparse.Namespace) -> dict[str, Any]:
    from bench.evaluation_hours import hours, measured_rates

    return hours(measured_rates(RESULTS))


PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overhead": _overhead,
    "start": _start,
    "decoder": _decoder,
    "memory": _memory,
    "sample": _sample,
    "hours": _hours,
}
# Computed, on whatever machine.
NOT_MEASURED = ("hours",)
NEED_PHOTOS = ("overhead", "decoder", "sample")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.evaluation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; none named: all")
    parser.add_argument("--photos", type=Path, help="folder of photos")
    parser.add_argument("--dataset", default="imagenet", help="what the folder is, as fastcam evaluate takes it")
    parser.add_argument("--limit", type=int, help="take only so many photos, to try it out")
    parser.add_argument("--slice", type=int, default=24, help="photos per turn of `overhead`")
    parser.add_argument("--images", type=int, default=5000, help="images of `memory`")
    parser.add_argument("--workers", type=int, default=2, help="processes that read photos")
    parser.add_argument("--threads", type=int, default=2, help="threads of the network")
    parser.add_argument("--run", type=Path, help="keep the run of `sample` in this folder")
    parser.add_argument("--output", type=Path, default=RESULTS / "evaluation.json", help="JSON file")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; valid: {', '.join(PARTS)}")
    if options.photos is None and set(options.parts) & set(NEED_PHOTOS):
        parser.error(f"{', '.join(NEED_PHOTOS)} need --photos DIR")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(given)
    if len(options.parts) > 1:
        # What one part leaves in memory would be found by the next.
        others = [word for word in given if word not in PARTS]
        for part in options.parts:
            subprocess.run([sys.executable, "-m", "bench.evaluation", part, *others], check=True)
        return
    (part,) = options.parts
    found = PARTS[part](options)
    if part not in NOT_MEASURED:
        found = {"machine_info": cpu_machine(PACKAGES), **found}
    print(part, json.dumps(found, indent=1), flush=True)
    results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    kept = {name: found if name == part else results[name] for name in PARTS if name == part or name in results}
    options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
