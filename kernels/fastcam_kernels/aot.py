"""Compile planned launches for chips that are not here, and read what the compiler made of them.

    python -m fastcam_kernels.aot [OPERATOR...]

prints one line per shipped configuration and chip; bench/results/aot-triton-VERSION.txt keeps that table, so
that a change of the kernels or of Triton shows as a difference. The launches come from the operators' own
`plan`, on meta tensors: what is compiled here is what the launcher would run, with the same block sizes and
the same arguments specialised in the same way (integers equal to one; integers and addresses divisible by 16).
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastcam_kernels.launch import Launch

TARGETS = {
    name: GPUTarget("cuda", capability, 32) for name, capability in {"sm_80": 80, "sm_90": 90, "sm_100": 100}.items()
}
# Modules of this package, each with a function `shipped`.
OPERATORS = ("cam_map", "relevance_conv", "relevance_gate")
# Bytes of shared memory that one block may have (CUDA C++ programming guide, technical specifications).
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}

_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Compiled:
    """What the assembler reports and what stands in the machine code of one kernel for one chip."""

    registers: int
    stack: int
    shared: int
    instructions: Mapping[str, int]

    def count(self, pattern: str) -> int:
        """Return how many instructions' names match the regular expression from their start."""
        return sum(number for name, number in self.instructions.items() if re.match(pattern, name))

    @property
    def spills(self) -> int:
        """Loads and stores of local memory: registers that did not fit."""
        return self.count(r"LDL|STL")

    @property
    def loads(self) -> int:
        """Loads from global memory, to registers or straight to shared memory."""
        return self.count(r"LDG\b|LDGSTS\b|UTMALDG")

    @property
    def wide_loads(self) -> int:
        """Those that bring 128 bits a thread, or a whole tile."""
        return self.count(r"(LDG|LDGSTS)\b.*\.128|UTMALDG")

    @property
    def wide_stores(self) -> int:
        """Stores to global memory of 128 bits a thread."""
        return self.count(r"STG\b.*\.128")

    @property
    def matrix_products(self) -> int:
        """Tensor-core instructions, of any generation."""
        return self.count(r"HMMA|HGMMA|DMMA|UTCHMMA")


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compile what `launch` would run, for the chip `target` ("sm_80", ...), and read the result.

    Raises:
        RuntimeError: in a process where the kernels are interpreted; they cannot be compiled there.
    """
    if not isinstance(launch.kernel, triton.JITFunction):
        raise RuntimeError("kernels under TRITON_INTERPRET=1 cannot be compiled: run this in a process without it")
    return _read(_compile(launch, target))


def intermediate(launch: Launch, target: str) -> str:
    """Return Triton's own representation (TTIR) of `launch`: where the width of address arithmetic shows."""
    return str(_compile(launch, target).asm["ttir"])


def _compile(launch: Launch, target: str) -> Any:
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **launch.options}
    return triton.compile(_source(launch), target=TARGETS[target], options=options)


def _source(launch: Launch) -> Any:
    values: dict[str, Any] = {**launch.arguments, **launch.constants}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(launch.constants)
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        value = values[name]
        if name in launch.constants:
            signature[name] = "constexpr"
        elif isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            if value.data_ptr() % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        elif value == 1:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes)


@cache
def _cuobjdump() -> str:
    import triton.backends.nvidia as nvidia

    return os.fspath(Path(nvidia.__path__[0]) / "bin" / "cuobjdump")


def _read(compiled: Any) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        dump = subprocess.run(
            [_cuobjdump(), "--dump-resource-usage", "--dump-sass", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", dump)}
    instructions: dict[str, int] = {}
    for name in re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", dump, re.MULTILINE):
        instructions[name] = instructions.get(name, 0) + 1
    return Compiled(
        registers=numbers["REG"],
        stack=numbers["STACK"],
        # Triton asks for its shared memory at launch, so that the cubin does not show it.
        shared=compiled.metadata.shared,
        instructions=instructions,
    )


def shipped(operators: Sequence[str] = OPERATORS) -> Iterator[tuple[str, Launch]]:
    """Yield every configuration that ships, of the operators named, as (name, launch)."""
    for operator in operators:
        yield from import_module(f"fastcam_kernels.{operator}").shipped()


def row(name: str, target: str, code: Compiled) -> str:
    """Return one line of the table."""
    return (
        f"{name:62} {target:7} {code.registers:4} {code.stack:5} {code.shared:6} {code.spills:6}"
        f" {code.loads:5} {code.wide_loads:10} {code.count('STG'):6} {code.wide_stores:10}"
    )


def main() -> None:
    """Print the table: one line per configuration and chip, of all operators or of those named."""
    print(f"triton {triton.__version__}, fp fusion on; spills: LDL and STL; loads, stores: of global memory")
    print(f"{'configuration':62} chip    regs stack shared spills loads of 128 bit stores of 128 bit")
    for name, launch in shipped(sys.argv[1:] or OPERATORS):
        for target in TARGETS:
            print(row(name, target, compile_launch(launch, target)), flush=True)


if __name__ == "__main__":
    main()
