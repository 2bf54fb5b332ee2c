"""What figures were measured on, and under which conditions."""

import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.gpu_results import CODE, digest
from fastcam_kernels.timing import Call, measure, percentiles


def machine() -> dict[str, Any]:
    """Return what all rows of a file share: figures of another of these are another file's."""
    import triton

    return {
        "gpu": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def conditions_of_run(commit: str | None = None) -> dict[str, Any]:
    """Return what may change between the runs that fill a file. commit: of the sources, where git does not know it."""
    driver = None
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # absent, or a driver without it: the measurement stands without this
        pass
    return {
        "driver": driver,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "commit": commit or _commit(),
        "code": digest(CODE),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _commit() -> str | None:
    """What git has checked out; None without git, or outside a repository, as a copy of its files is."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def device_is_lost() -> bool:
    """Whether nothing more runs on the device in this process, as after an illegal access."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def measurable(variants: Mapping[str, Call]) -> tuple[dict[str, Call], dict[str, str]]:
    """Call each variant once; return those that run, and of the others what they said."""
    run: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for name, call in variants.items():
        try:
            call(0)
            torch.cuda.synchronize()
        except Exception as error:
            if device_is_lost():
                raise
            failed[name] = f"{type(error).__name__}: {error}"[:300]
        else:
            run[name] = call
    return run, failed


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


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Fill the dictionary with clocks, power, temperature and energy of the block; null where NVML has none.

    joules is the difference of the device's energy counter: its sensor samples a quarter of the time, so that it says
    something of blocks of several seconds only.
    """
    fields = ("sm_mhz", "memory_mhz", "watts", "celsius")
    seen: dict[str, list[float]] = {field: [] for field in fields}
    result: dict[str, Any] = dict.fromkeys((*fields, "power_limit_watts", "clock_event_reasons", "joules"))
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # as above
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
    before = ask(pynvml.nvmlDeviceGetTotalEnergyConsumption)
    thread.start()
    try:
        yield result
    finally:
        done.set()
        thread.join()
        after = ask(pynvml.nvmlDeviceGetTotalEnergyConsumption)
        limit = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit)
        result["joules"] = None if before is None or after is None else (after - before) / 1000
        result["power_limit_watts"] = None if limit is None else limit / 1000
        result["clock_event_reasons"] = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        for field, values in seen.items():
            if values:
                ordered = sorted(values)
                middle = percentiles(ordered)["p50"]
                mean = statistics.fmean(values)
                result[field] = {"min": ordered[0], "median": middle, "mean": mean, "max": ordered[-1]}
