"""Tests and measurements on a machine with an NVIDIA GPU.

    PYTHONPATH=.:kernels python -m bench.gpu --output results.json [--parts tests,ceilings,kernels]

First the GPU tests: if one fails, nothing is measured. Then the two ceilings, copy bandwidth and bfloat16
matrix products, then each kernel against the eager and the compiled reference. Each finished part is written at
once, and a part that the output file already holds is not run again: an interrupted run goes on where it was.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PARTS = ("tests", "ceilings", "kernels")
SHAPES = {"layer2": (512, 28, 28), "layer4": (2048, 7, 7)}
BATCHES = (1, 32, 256)
SIZE = (224, 224)


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Return p20, p50 and p80, by linear interpolation between the sorted samples."""
    ordered = sorted(samples)

    def at(fraction: float) -> float:
        place = fraction * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return {"p20": at(0.2), "p50": at(0.5), "p80": at(0.8)}


def cam_map_bytes(*, batch: int, channels: int, source: tuple[int, int], item_size: int) -> int:
    """Return what cam_map must move: activations and float32 weights once in, float32 maps once out."""
    positions = source[0] * source[1]
    read = batch * channels * positions * item_size + batch * channels * 4
    return read + batch * SIZE[0] * SIZE[1] * 4


def copies_past_cache(one: int, cache: int) -> int:
    """Return how many sets of inputs of `one` byte length to rotate, so that none is found in the L2 cache."""
    return max(2, math.ceil(3 * cache / one) + 1)


def replay_of(call: Callable[[int], object], copies: int, calls: int) -> Callable[[], None]:
    """Return a replay of one CUDA graph of `calls` calls that walk through the copies of the inputs."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for copy in range(min(copies, 3)):
            call(copy)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            call(number % copies)
    return graph.replay


def measure(variants: dict[str, Callable[[int], object]], copies: int, *, rounds: int = 30) -> dict[str, Any]:
    """Return microseconds a call for each variant; the variants take turns, so that drift hits all alike."""
    calls = max(copies, 10)
    replays = {name: replay_of(call, copies, calls) for name, call in variants.items()}
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 3):
        for name, replay in replays.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            replay()
            end.record()
            end.synchronize()
            if turn >= 3:  # the first turns warm up
                samples[name].append(start.elapsed_time(end) * 1000 / calls)
    return {name: percentiles(values) for name, values in samples.items()}


def l2_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def ceilings() -> dict[str, float]:
    """Measure copy bandwidth in bytes/s, read and write counted, and bfloat16 products in FLOP/s."""
    size = 2**30
    source = [torch.randint(255, (size,), dtype=torch.uint8, device="cuda") for _ in range(2)]
    target = torch.empty_like(source[0])
    copied = measure({"copy": lambda i: target.copy_(source[i])}, 2)["copy"]
    side = 8192
    left = [torch.randn(side, side, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    out = torch.empty_like(left[0])
    product = measure({"mm": lambda i: torch.mm(left[i], left[1 - i], out=out)}, 2)["mm"]
    return {
        "copy_bytes_per_s": 2 * size / copied["p50"] * 1e6,
        "bf16_flop_per_s": 2 * side**3 / product["p50"] * 1e6,
    }


def cam_map_rows(copy_bytes_per_s: float) -> Iterator[dict[str, Any]]:
    """Measure cam_map's kernel, the eager and the compiled reference for one target, ReLU and min-max."""
    from fastcam.ops import cam_map, reference
    from fastcam.ops.backend import use_backend

    for layer, (channels, height, width) in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                for batch in BATCHES:
                    moved = cam_map_bytes(
                        batch=batch, channels=channels, source=(height, width), item_size=dtype.itemsize
                    )
                    shape = (batch, channels, height, width)
                    one = math.prod(shape) * dtype.itemsize
                    copies = copies_past_cache(one, l2_bytes())
                    inputs = [
                        (
                            torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=layout),
                            torch.randn(batch, 1, channels, device="cuda"),
                        )
                        for _ in range(copies)
                    ]
                    # Afresh for each shape: after eight of them torch.compile would quietly run eagerly.
                    torch.compiler.reset()
                    compiled = torch.compile(reference.cam_map, dynamic=False, fullgraph=True)
                    variants: dict[str, Callable[[int], object]] = {
                        "kernel": lambda i, x=inputs: cam_map(*x[i], list(SIZE), True, True),
                        "eager": lambda i, x=inputs: reference.cam_map(*x[i], SIZE, True, True),
                        "compiled": lambda i, x=inputs, f=compiled: f(*x[i], SIZE, True, True),
                    }
                    with use_backend("triton"):
                        expected = variants["eager"](0)
                        torch.testing.assert_close(variants["kernel"](0), expected, rtol=0, atol=1e-4)
                        with watched() as conditions:
                            microseconds = measure(variants, copies)
                    least = moved / copy_bytes_per_s * 1e6
                    yield {
                        "operator": "cam_map",
                        "layer": layer,
                        "shape": shape,
                        "size": SIZE,
                        "dtype": str(dtype),
                        "layout": str(layout),
                        "bytes": moved,
                        "roofline_us": least,
                        "kernel_of_roofline": least / microseconds["kernel"]["p50"],
                        "us": microseconds,
                        "conditions": conditions,
                    }
                    del inputs, variants, expected
                    torch.cuda.empty_cache()


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Fill the dictionary with clocks, power and temperature during the block; null where NVML has none."""
    fields = ("sm_mhz", "memory_mhz", "watts", "celsius")
    seen: dict[str, list[float]] = {field: [] for field in fields}
    result: dict[str, Any] = dict.fromkeys((*fields, "power_limit_watts", "clock_event_reasons"))
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # absent, or a driver without it: the measurement stands without these numbers
        yield result
        return

    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(handle, *arguments)
        except pynvml.NVMLError:
            return None

    done = threading.Event()

    def watch() -> None:
        over = False
        while not over:
            values = (
                ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
                ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
                ask(pynvml.nvmlDeviceGetPowerUsage),
                ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            )
            for field, value in zip(fields, values, strict=True):
                if value is not None:
                    seen[field].append(value / 1000 if field == "watts" else value)
            over = done.wait(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        done.set()
        thread.join()
        limit = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit)
        result["power_limit_watts"] = None if limit is None else limit / 1000
        result["clock_event_reasons"] = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        for field, values in seen.items():
            if values:
                ordered = sorted(values)
                middle = percentiles(ordered)["p50"]
                result[field] = {"min": ordered[0], "median": middle, "max": ordered[-1]}


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on and with."""
    import triton

    driver = None
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # as above
        pass
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "gpu": torch.cuda.get_device_name(0),
        "capability": torch.cuda.get_device_capability(0),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def run_tests() -> dict[str, Any]:
    """Run the GPU tests; raise SystemExit if they are not green."""
    started = time.time()
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/gpu"], check=False).returncode
    if code != 0:
        raise SystemExit(f"the GPU tests ended with {code}: nothing is measured")
    return {"passed": True, "seconds": time.time() - started}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON file, gone on with if it exists")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; valid: {', '.join(PARTS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device; there is none")
    results = json.loads(options.output.read_text()) if options.output.exists() else {}

    def keep(part: str, value: Any) -> None:
        results[part] = value
        options.output.write_text(json.dumps(results, indent=1) + "\n")

    here = machine()
    before = results.get("machine", here)
    changed = [key for key in here if key != "time" and here[key] != before.get(key)]
    if changed:
        raise SystemExit(f"{options.output} was begun with another {', '.join(changed)}: choose another --output")
    keep("machine", before)
    if "tests" in options.parts and "tests" not in results:
        keep("tests", run_tests())
    needed = "ceilings" in options.parts or "kernels" in options.parts
    if needed and "ceilings" not in results:
        keep("ceilings", ceilings())
    if "kernels" in options.parts and not results.get("kernels", {}).get("complete"):
        rows: list[dict[str, Any]] = []
        for row in cam_map_rows(results["ceilings"]["copy_bytes_per_s"]):
            rows.append(row)
            print(row["layer"], row["dtype"], row["layout"], row["shape"], row["us"], flush=True)
            keep("kernels", {"complete": False, "rows": rows})
        keep("kernels", {"complete": True, "rows": rows})


if __name__ == "__main__":
    main()
