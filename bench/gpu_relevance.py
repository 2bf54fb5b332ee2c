"""The z+ convolutions of three networks on a GPU: Triton, the composition, the table's choice, PyTorch's best.

For each kind of layer, forward (y and its gate) and the way back are timed apart. What is sampled is what takes the
most time by its roofline; totals weigh each layer by how often it occurs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_model

from bench.gpu_machine import measurable, watched
from bench.gpu_results import Job
from fastcam.network.units import Geometry
from fastcam.propagation.convolutions import Convolution, convolutions
from fastcam.propagation.tuning import (
    Problem,
    agrees,
    backward,
    backward_problem,
    forward,
    layer_of,
    make_problem,
    reference_backward,
    reference_forward,
)
from fastcam_kernels import relevance_conv, relevance_conv_backward
from fastcam_kernels.launch import processors
from fastcam_kernels.timing import Call, copies_past_cache, l2_bytes, measure
from fastcam_kernels.tuning import Choice

# Behind the first stage: "all of ResNet-50's layers 2-4", and the same of the others.
NETWORKS = {"resnet50": "layer1", "vgg16_bn": "features.6", "densenet121": "features.pool0"}
BATCHES = (256, 32, 1)
MOST = 18
DTYPE = torch.bfloat16


def layers(network: str) -> Counter[Convolution]:
    """The convolutions of a network, captured on the CPU."""
    model = get_model(network, weights=None).eval()
    return convolutions(model, torch.zeros(2, 3, 224, 224), NETWORKS[network])


def sampled(counted: Counter[Convolution], roofline: Callable[[Convolution], float]) -> list[Convolution]:
    """The kinds that take the most time together, at most MOST of them."""
    return sorted(counted, key=lambda conv: -roofline(conv) * counted[conv])[:MOST]


def roofline_us(conv: Convolution, batch: int, copy_bytes_per_s: float, flop_per_s: float) -> tuple[float, float]:
    """The least microseconds of forward and way back: by bytes or by operations, whichever is more."""
    operations = 2 * conv.products(batch) / flop_per_s * 1e6
    item = DTYPE.itemsize
    signed = 2 if conv.signed else 1
    return (
        max(conv.forward_bytes(batch, item) / copy_bytes_per_s * 1e6, 2 * operations),
        max(conv.backward_bytes(batch, item) / copy_bytes_per_s * 1e6, signed * operations),
    )


def work(row: dict[str, Any], way: str) -> tuple[float, float]:
    """Operations and bytes of a row, "forward" or "backward"."""
    layer = {**row["layer"], "geometry": Geometry(**{k: _pair(v) for k, v in row["layer"]["geometry"].items()})}
    conv = Convolution(**{key: _pair(value) for key, value in layer.items()})
    products = 2 if way == "forward" or conv.signed else 1
    moved = conv.forward_bytes if way == "forward" else conv.backward_bytes
    return 2.0 * products * conv.products(row["batch"]), float(moved(row["batch"], DTYPE.itemsize))


def _pair(value: Any) -> Any:
    """What JSON made of a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _torch_epilogue(c: Tensor, z: Tensor, bias: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    y = c.float() + bias.float().view(1, -1, 1, 1)
    y = {"relu": torch.relu, "relu6": F.relu6, "none": lambda v: v}[activation](y)
    z = z.float()
    floor = z.amax(dim=(1, 2, 3), keepdim=True) * 1e-6
    return y.to(c.dtype), torch.where(z > floor, y / z, 0.0).to(c.dtype)


def _torch_gated(signal: Tensor, gate: Tensor) -> Tensor:
    return signal * gate


def torch_variants(conv: Convolution, inputs: list[Problem]) -> tuple[Call, Call]:
    """PyTorch's best: one cuDNN convolution with stacked weights, channels-last, compiled elementwise parts."""
    g = conv.geometry
    stacked = [torch.cat([p.weight, p.positive]).contiguous(memory_format=torch.channels_last) for p in inputs]
    epilogue = torch.compile(_torch_epilogue, dynamic=False)
    gated = torch.compile(_torch_gated, dynamic=False)

    def ahead(i: int) -> object:
        p = inputs[i]
        both = F.conv2d(p.x, stacked[i], None, g.stride, g.padding, g.dilation, g.groups)
        return epilogue(*both.chunk(2, dim=1), p.bias, conv.activation)

    def back(i: int) -> object:
        p = inputs[i]
        s = gated(p.signal, p.gate)
        found, _, _ = torch.ops.aten.convolution_backward(
            s,
            p.x,
            p.positive,
            None,
            g.stride,
            g.padding,
            g.dilation,
            False,
            [0, 0],
            g.groups,
            [True, False, False],
        )
        return found

    return ahead, back


def variants(conv: Convolution, inputs: list[Problem]) -> tuple[dict[str, Call], dict[str, Call]]:
    """What is compared, forward and back."""
    first = inputs[0]
    layer = layer_of(conv, len(first.x), first.x.dtype)
    triton_forward = replace(relevance_conv.default_choice(layer, processors(first.x.device)), algorithm="triton")
    problem = backward_problem(conv, first)
    triton_backward = relevance_conv_backward.triton_config(problem, exact=False)
    composed = Choice("composition")
    ahead: dict[str, Call] = {
        "triton": lambda i: forward(conv, inputs[i], triton_forward),
        "composition": lambda i: forward(conv, inputs[i], composed),
        "choice": lambda i: forward(conv, inputs[i], None),
        "reference": lambda i: reference_forward(conv, inputs[i]),
    }
    back: dict[str, Call] = {
        "triton": lambda i: backward(conv, inputs[i], triton_backward),
        "composition": lambda i: backward(conv, inputs[i], composed),
        "choice": lambda i: backward(conv, inputs[i], None),
        "reference": lambda i: reference_backward(conv, inputs[i]),
    }
    if not conv.signed and conv.geometry.groups == 1:
        ahead["torch"], back["torch"] = torch_variants(conv, inputs)
    return ahead, back


def wrong(runs: dict[str, Call], expected: Any) -> dict[str, str]:
    """Of the variants that are checked, those whose result is not the reference's: their time would say nothing."""
    found = {}
    for name in ("triton", "composition", "choice"):
        if name in runs and not agrees(runs[name](0), expected):
            found[name] = "not what the reference gives"
    return found


def jobs(copy_bytes_per_s: float, flop_per_s: float) -> Iterator[Job]:
    """The sampled layers of every network, the largest batch first: there a GPU is used for what it has."""
    counted = {network: layers(network) for network in NETWORKS}
    for batch, network in product(BATCHES, NETWORKS):
        kinds = counted[network]
        least = {conv: roofline_us(conv, batch, copy_bytes_per_s, flop_per_s) for conv in kinds}
        whole = sum(sum(least[conv]) * count for conv, count in kinds.items())
        for conv in sampled(kinds, lambda conv, least=least: sum(least[conv])):  # type: ignore[misc]
            setting = {
                "network": network,
                "batch": batch,
                "count": kinds[conv],
                "layer": asdict(conv),
                "dtype": str(DTYPE),
                "roofline_us": dict(zip(("forward", "backward"), least[conv], strict=True)),
                "share_of_roofline": sum(least[conv]) * kinds[conv] / whole,
            }
            yield Job(f"{network} {batch} {described(conv)}", partial(_row, conv, batch, setting))


def described(conv: Convolution) -> str:
    """A name for one kind of layer."""
    g = conv.geometry
    sides = "x".join(map(str, conv.kernel)), "x".join(map(str, conv.size))
    more = [f"{key}={value}" for key, value in asdict(g).items()]
    signs = "signed" if conv.signed else "nonnegative"
    return f"{conv.channels}-{conv.outputs} {sides[0]} at {sides[1]} {' '.join(more)} {conv.activation} {signs}"


def _row(conv: Convolution, batch: int, setting: dict[str, Any]) -> dict[str, Any]:
    first = make_problem(conv, batch, DTYPE, "cuda")
    copies = copies_past_cache(first.bytes, l2_bytes())
    inputs = [first, *(make_problem(conv, batch, DTYPE, "cuda") for _ in range(copies - 1))]
    # Afresh for each shape: after eight of them torch.compile would quietly run eagerly.
    torch.compiler.reset()
    runs = dict(zip(("forward", "backward"), variants(conv, inputs), strict=True))
    expected = {"forward": reference_forward(conv, first), "backward": reference_backward(conv, first)}
    failed: dict[str, str] = {}
    for way, calls in runs.items():
        good, said = measurable(calls)
        said |= wrong(good, expected[way])
        runs[way] = {name: call for name, call in good.items() if name not in said}
        failed |= {f"{way}, {name}": error for name, error in said.items()}
    with watched() as conditions:
        timed = {way: measure(calls, copies, rounds=9) for way, calls in runs.items()}
    return {**setting, "us": timed, "failed": failed, "conditions": conditions}


def totals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network and batch: microseconds of all layers measured, weighed by their counts, of every variant.

    share_of_roofline: how much of the whole network's least time the layers measured have. A variant that is missing
    from a layer has no total.
    """
    found = []
    for network, batch in dict.fromkeys((row["network"], row["batch"]) for row in rows):
        measured = [row for row in rows if (row["network"], row["batch"]) == (network, batch)]
        share = sum(row["share_of_roofline"] for row in measured)
        found.append({"network": network, "batch": batch, "share_of_roofline": share, "total": _total(measured)})
    return found


def _total(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = set.intersection(*({*row["us"]["forward"]} & {*row["us"]["backward"]} for row in measured))

    def taken(row: dict[str, Any], name: str) -> float:
        return float(row["us"]["forward"][name]["p50"] + row["us"]["backward"][name]["p50"])

    found: dict[str, Any] = {}
    for name in sorted(names):
        found[name] = {"us": sum(taken(row, name) * row["count"] for row in measured)}
        if "composition" in names:
            against = sorted(taken(row, "composition") / taken(row, name) for row in measured)
            found[name]["times_composition"] = {
                "least": against[0],
                "median": against[len(against) // 2],
                "most": against[-1],
            }
    return found
