"""Hours for 50,000 images on one H200: of measured rates, or of a roofline until there are any.

The roofline: every convolution, linear layer, pooling and addition of ResNet-50 at 224 px takes the longer of two
times, its operations at a share of the dense bfloat16 peak, or its bytes at the same share of the memory's bandwidth.
Batch norms, ReLUs and additions are taken as fused into the convolutions, so that activations are written once and read
once; weights are read once a batch. Operators that make masks, perturbed images and maps are left out: they move an
input image or two for each pass, which itself moves a hundred times that.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torchvision.models import resnet50

from fastcam.attribution.cameras import sizes_of
from fastcam.attribution.method import Method
from fastcam.attribution.registry import methods
from fastcam.attribution.unfolding import Ucag
from fastcam.metrics.perturbation import step_counts
from fastcam.metrics.registry import METRICS

IMAGES, SIDE, BATCH = 50_000, 224, 256
# NVIDIA's data sheet of the H200 SXM: dense bfloat16, and HBM3e.
PEAK_FLOPS, BANDWIDTH = 989e12, 4.8e12
# Of both, what well-shaped layers come to.
ATTAINABLE = 0.5
CHANNELS = 2048
WIDTH = 2  # bytes of a bfloat16

aten = torch.ops.aten


@dataclass(frozen=True)
class Work:
    """What one operation does for a batch: FLOPs (two a multiplication), bytes moved."""

    name: str
    flops: int
    moved: int

    def seconds(self, share: float = ATTAINABLE) -> float:
        """The longer of computing and moving, at a share of the peaks."""
        return max(self.flops / (PEAK_FLOPS * share), self.moved / (BANDWIDTH * share))


class _Counting(TorchDispatchMode):
    """Notes what every operation does."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Work] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket
        if kind in _FUSED:
            return result
        if kind not in _OPERANDS:
            raise ValueError(f"{func}: an operation whose bytes are not known; add it to the tables of this file")
        operands = [args[place] for place in _OPERANDS[kind]]
        # An addition is the reading of its second operand by the convolution before it.
        out = [] if kind is aten.add_ else [result[0] if isinstance(result, tuple) else result]
        flops = flop_registry[kind](*args, **(kwargs or {}), out_val=result) if kind in flop_registry else 0
        self.found.append(Work(kind.__name__, flops, WIDTH * sum(t.numel() for t in (*operands, *out))))
        return result


# Which arguments are read.
_OPERANDS: Mapping[Any, tuple[int, ...]] = {
    aten.convolution: (0, 1),
    aten.addmm: (1, 2),
    aten.add_: (1,),
    aten.max_pool2d_with_indices: (0,),
    aten.mean: (0,),
}
_FUSED = {aten.native_batch_norm, aten.relu_, aten.view, aten.t, aten.empty}
# Behind layer4.
_HEAD = ("mean", "addmm")


def forward_work(batch: int = BATCH) -> list[Work]:
    """What ResNet-50 does with a batch, operation by operation."""
    with torch.device("meta"):
        model, images = resnet50().eval(), torch.empty(batch, 3, SIDE, SIDE)
    with torch.no_grad(), _Counting() as counting:
        model(images)
    return counting.found


def passes(text: str, numbers: Mapping[str, float]) -> float:
    """How many passes a method's own words come to: "1 + samples x channels that are not 0" with 35 and 2048: 71681.

    What stands behind a comma or a semicolon says more about them: where they go, or what else is run.
    """
    words = re.split("[,;]", text)[0]
    return sum(math.prod(_factor(factor, numbers) for factor in term.split(" x ")) for term in words.split(" + "))


def _factor(words: str, numbers: Mapping[str, float]) -> float:
    first = words.split()[0]
    if not first.isdecimal() and first not in numbers:
        raise ValueError(f"{words!r}: neither a number nor one of {', '.join(numbers)}")
    return int(first) if first.isdecimal() else numbers[first]


@dataclass(frozen=True)
class Cost:
    """Passes per image of a method at layer4, or at the image where it has no layer.

    backwards: passes to the image; to_layer: those that end at layer4, behind which there are a mean and a linear
    layer. area: of the images they run on, in terms of the model's.
    """

    forwards: float
    backwards: float
    to_layer: float
    area: float = 1.0

    def seconds(self, forward: float, head: float) -> float:
        """A backward pass counts as two forward passes: the z+ rule's convolution and its transpose."""
        return self.area * (forward * (self.forwards + 2 * self.backwards) + 2 * head * self.to_layer)


def cost_of(method: Method) -> Cost:
    """The passes that `fastcam methods` tells for one class; every channel and group counts as not 0."""
    numbers = {name: float(value) for name, value in method.options.items() if type(value) in (int, float)}
    forwards, backwards = (
        passes(text, {**numbers, "channels": CHANNELS, "targets": 1}) for text in (method.forwards, method.backwards)
    )
    area = 1.0
    if "times the side" in method.forwards:
        sizes = sizes_of((SIDE, SIDE), int(numbers["steps"]), numbers["largest"])
        area = sum(height * width for height, width in sizes) / (len(sizes) * SIDE**2)
    to_image = method.layer != "last" or "before it" in method.backwards
    return Cost(forwards, backwards if to_image else 0, 0 if to_image else backwards, area)


def ucag_row(method: str, forward: float, seconds: float, measured: float | None) -> dict[str, Any]:
    """UCAG of a method at its defaults: the image once, then the method on each enlarged patch.

    forward, seconds: of an image's forward pass and of the method on an image. measured: images per second of UCAG
    itself.
    """
    with torch.device("meta"):
        grid = Ucag(resnet50(), method=method).grid(SIDE, SIDE)
    patches, (height, width) = len(grid.tops), grid.size
    total = 1 / measured if measured else forward + patches * seconds * height * width / SIDE**2
    return {
        "forwards": f"1 + {patches} at {width / SIDE:.2g} times the side",
        "backwards": str(patches),
        "hours": total * IMAGES / 3600,
        "measured": measured is not None,
    }


def metric_passes(name: str) -> tuple[int, int]:
    """Forward passes per map that a metric takes alone, and how often it asks for another map.

    Scores that all maps of an image share are left out: of the image itself, of a blurred and of an empty one.
    """
    metric = METRICS[name]
    again = int("explain" in metric.needs)
    if "step" in metric.options:
        return len(step_counts(SIDE * SIDE, metric.options["step"])) - 2, again
    # Coherency compares two maps and asks for no score.
    return int("baseline" in metric.options and name != "coherency"), again


def measured_rates(folder: Path) -> dict[str, Any]:
    """Images per second of methods on ResNet-50 in bfloat16, from a finished run of `bench.gpu` in the folder.

    "forward": the stock model's own pass. Empty where there is no such file.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("gpu-*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for part in ("methods", "families") for row in results.get(part, {}).get("rows", [])]
        for row in sorted(rows, key=lambda row: row["batch"]):
            if row["model"] == "resnet50" and row["layer"] in ("layer4", None):
                for name, variant in (
                    (row["method"], "fastcam, bfloat16"),
                    ("forward", "stock forward, bfloat16 autocast"),
                ):
                    if variant in row["images_per_s"]:
                        found[name] = row["images_per_s"][variant]
        if found:
            found = {"file": path.name, "gpu": results["machine"]["gpu"], "images_per_s": found}
            break
    return found


def hours(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Hours per method and metric. measured: what `measured_rates` found."""
    work = forward_work()
    rates: Mapping[str, float] = measured.get("images_per_s", {})
    estimated = sum(w.seconds() for w in work) / BATCH
    forward = 1 / rates["forward"] if "forward" in rates else estimated
    head = sum(w.seconds() for w in work if w.name in _HEAD) / BATCH
    per_method = {
        m.name: 1 / rates[m.name] if m.name in rates else cost_of(m).seconds(forward, head) for m in methods()
    }
    found: dict[str, Any] = {
        "model": "resnet50",
        "layer": "layer4",
        "side": SIDE,
        "images": IMAGES,
        "source": f"measured on {measured['gpu']}" if measured else "estimated from the roofline, not measured",
        "measured": dict(measured),
        "peak_flops": PEAK_FLOPS,
        "bandwidth": BANDWIDTH,
        "attainable": ATTAINABLE,
        "batch": BATCH,
        "channels": CHANNELS,
        "flops_per_image": sum(w.flops for w in work) / BATCH,
        "bytes_per_image": sum(w.moved for w in work) / BATCH,
        "forward_images_per_s": 1 / forward,
        "methods": {},
        "metrics": {},
    }
    for method in methods():
        found["methods"][method.name] = {
            "forwards": method.forwards,
            "backwards": method.backwards,
            "hours": per_method[method.name] * IMAGES / 3600,
            "measured": method.name in rates,
        }
    found["methods"]["ucag of grad_cam"] = ucag_row("grad_cam", forward, per_method["grad_cam"], rates.get("ucag"))
    for name in METRICS:
        alone, again = metric_passes(name)
        seconds = alone * forward + again * per_method["grad_cam"]
        found["metrics"][name] = {"forwards": alone, "maps": again, "hours": seconds * IMAGES / 3600}
    return found
