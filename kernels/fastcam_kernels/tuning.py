"""Which algorithm and which block sizes serve a layer: a table measured on the device, or a computed default.

tables/DEVICE.json holds what was measured on a device of that name (as `torch.cuda.get_device_name` gives it, a
slash written as a dash): an object that maps the key of an operator and a layer to a choice,

    {"relevance_conv bfloat16 C=256 K=64 1x1 stride=1x1 groups=1 56x56 batch=64 nonnegative":
        {"algorithm": "triton", "positions": 128, "outputs": 64, "channels": 64, "num_warps": 8, "num_stages": 3}}

It is read once per process. A device without a table and a layer that its table lacks get the operator's default.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

ALGORITHMS = ("triton", "composition")
TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Choice:
    """How one layer is computed.

    Attributes:
        algorithm: "triton", the operator's own kernel; "composition", a library's convolution between
            elementwise kernels.
        positions, outputs, channels: a program of the operator's own kernel makes a block of `positions` times
            `outputs` results and takes `channels` terms of each sum a step. The composition reads none of them.
    """

    algorithm: str
    positions: int = 64
    outputs: int = 64
    channels: int = 64
    num_warps: int = 4
    num_stages: int = 3

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm is {self.algorithm!r}; one of {', '.join(map(repr, ALGORITHMS))} is valid")
        for name in ("positions", "outputs", "channels", "num_warps"):
            value = getattr(self, name)
            if type(value) is not int or value < 1 or value & (value - 1):
                raise ValueError(f"{name} is {value!r}; a power of two is needed")
        if type(self.num_stages) is not int or self.num_stages < 1:
            raise ValueError(f"num_stages is {self.num_stages!r}; a positive integer is needed")


@dataclass(frozen=True)
class Layer:
    """What a choice depends on.

    size: height and width of the convolution's input, also on the way back. tf32: float32 numbers may be multiplied
    as TF32.
    """

    dtype: torch.dtype
    batch: int
    channels: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    size: tuple[int, int]
    signed: bool
    tf32: bool = False

    @property
    def positions(self) -> int:
        """Positions of the output over the batch, up to its margins."""
        rows, columns = (-(-side // step) for side, step in zip(self.size, self.stride, strict=True))
        return self.batch * rows * columns

    def key(self, operator: str) -> str:
        """The layer's name in a table. Batches up to a power of two share an entry."""
        number = "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")
        return (
            f"{operator} {number} C={self.channels} K={self.outputs}"
            f" {_by(self.kernel)} stride={_by(self.stride)} groups={self.groups} {_by(self.size)}"
            f" batch={1 << max(self.batch - 1, 0).bit_length()} {'signed' if self.signed else 'nonnegative'}"
        )


def choose(operator: str, layer: Layer, device: torch.device, default: Callable[[Layer], Choice]) -> Choice:
    """Return the table's choice for `operator` at `layer` on this device, or else `default(layer)`.

    Raises:
        ValueError: the device's table holds something that is no choice; the message names file and entry.
    """
    found = _table(table_path(device)).get(layer.key(operator))
    return default(layer) if found is None else found


def table_path(device: torch.device) -> Path:
    """Return where the table of a device stands, or would stand."""
    return TABLES / f"{_name(device)}.json"


@cache
def _name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name.replace("/", "-")


@cache
def _table(path: Path) -> Mapping[str, Choice]:
    return read_table(path) if path.exists() else {}


def read_table(path: Path) -> dict[str, Choice]:
    """Return a table's choices by key.

    Raises:
        ValueError: the file is no JSON object, or holds something that is no choice; the message names it.
    """
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path} holds no JSON object, which a table is")
    return {key: _choice(entry, f"{path}, entry {key!r}") for key, entry in entries.items()}


def _choice(entry: Any, where: str) -> Choice:
    names = [field.name for field in fields(Choice)]
    if not isinstance(entry, dict) or not {"algorithm"} <= entry.keys() <= set(names):
        raise ValueError(f"{where}: {entry!r} is no choice; 'algorithm' is needed, and of {names} others may stand")
    try:
        return Choice(**entry)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
