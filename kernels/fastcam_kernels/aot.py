"""Compile planned launches for chips that are not here, and read what the compiler made of them.

    python -m fastcam_kernels.aot [OPERATOR...]

prints one line per shipped configuration and chip; bench/results/aot-triton-VERSION.txt keeps that table, so
that a change of the kernels or of Triton shows as a difference. The launches come from the operators' own
`plan`, on meta tensors: what is compiled here is what the launcher would run, with the same block sizes and
the same arguments specialised in the same way (integers equal to one; integers and addresses divisible by 16;
on AMD's chips also tensors that offsets of 32 bits reach).
"""

import re
import struct
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastcam_kernels.launch import Launch

TARGETS = {
    **{
        name: GPUTarget("cuda", capability, 32)
        for name, capability in {"sm_80": 80, "sm_90": 90, "sm_100": 100}.items()
    },
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
NVIDIA_TARGETS = tuple(name for name, target in TARGETS.items() if target.backend == "cuda")
# The machine code that Triton makes for them, as `nvdisasm --binary` calls it.
_MACHINES = {"sm_80": "SM80", "sm_90": "SM90a", "sm_100": "SM100a"}
# Modules of this package, each with a function `shipped`.
OPERATORS = (
    "cam_map",
    "masked_inputs",
    "perturbed_inputs",
    "unfold_patches",
    "fold_patches",
    "relevance_conv",
    "relevance_gate",
    "relevance_conv_backward",
    "relevance_linear",
    "relevance_linear_backward",
)
# Bytes of shared memory that one block may have (CUDA C++ programming guide, technical specifications; for
# gfx942 the local data share of a compute unit, AMD Instinct MI300 instruction set architecture).
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}

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
class Names:
    """What instructions are called: regular expressions that match from the start of a name.

    loads: from global memory, to registers or straight to shared memory; wide_loads: those that bring 128 bits a
        thread, or a whole tile; async_loads: those wide ones that go straight to shared memory.
    stores: to global memory; wide_stores: those of 128 bits a thread, or of a whole tile.
    matrix_products: products of small matrices, of any generation of the chip's matrix units.
    """

    loads: str
    wide_loads: str
    async_loads: str
    stores: str
    wide_stores: str
    matrix_products: str


NVIDIA = Names(
    loads=r"LDG\b|LDGSTS\b|UTMALDG",
    wide_loads=r"(LDG|LDGSTS)\b.*\.128|UTMALDG",
    async_loads=r"LDGSTS\b.*\.128|UTMALDG",
    stores=r"STG\b|UTMASTG",
    wide_stores=r"STG\b.*\.128|UTMASTG",
    matrix_products=r"[HD]MMA|HGMMA|UTC\w*MMA",
)
AMD = Names(
    loads=r"(global|buffer|flat)_load_",
    wide_loads=r"(global|buffer|flat)_load_(lds_)?dwordx4",
    # gfx942 has them for 32 bits a thread only; of 128 bits they come with gfx950.
    async_loads=r"(global|buffer)_load_lds_dwordx4",
    stores=r"(global|buffer|flat)_store_",
    wide_stores=r"(global|buffer|flat)_store_dwordx4",
    matrix_products=r"v_s?mfma",
)


@dataclass(frozen=True)
class Compiled:
    """What the assembler reports and what stands in the machine code of one kernel for one chip.

    registers: per thread; on AMD's chips vector registers, those of the matrix units (accumulation registers)
        included, of which a thread may have 512.
    stack: bytes per thread of memory that is not in registers (AMD: the private segment).
    spills: registers that went to memory: on NVIDIA's chips the loads and stores of local memory in the code, on AMD's
        the vector registers that the compiler reports. (A scalar register that does not fit there is kept in a vector
        register's lane.)
    """

    registers: int
    stack: int
    shared: int
    spills: int
    instructions: Mapping[str, int]
    names: Names

    def count(self, pattern: str) -> int:
        """Return how many instructions' names match the regular expression from their start."""
        return sum(number for name, number in self.instructions.items() if re.match(pattern, name))

    @property
    def loads(self) -> int:
        """Loads from global memory, to registers or straight to shared memory."""
        return self.count(self.names.loads)

    @property
    def wide_loads(self) -> int:
        """Those that bring 128 bits a thread, or a whole tile."""
        return self.count(self.names.wide_loads)

    @property
    def async_loads(self) -> int:
        """Those wide ones that go straight to shared memory, while the program does something else."""
        return self.count(self.names.async_loads)

    @property
    def stores(self) -> int:
        """Stores to global memory."""
        return self.count(self.names.stores)

    @property
    def wide_stores(self) -> int:
        """Stores to global memory of 128 bits a thread, or of a whole tile."""
        return self.count(self.names.wide_stores)

    @property
    def matrix_products(self) -> int:
        """Instructions of the matrix units (tensor cores), of any generation."""
        return self.count(self.names.matrix_products)


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compile what `launch` would run, for the chip `target` (a key of TARGETS), and read the result.

    Raises:
        RuntimeError: in a process where the kernels are interpreted; they cannot be compiled there.
    """
    return compile_launches({"": launch}, target)[""]


def compile_launches(launches: Mapping[str, Launch], target: str) -> dict[str, Compiled]:
    """Compile many launches, named, and read the results, in much less time than one by one.

    Raises:
        RuntimeError: in a process where the kernels are interpreted; they cannot be compiled there.
    """
    if not all(isinstance(launch.kernel, triton.JITFunction) for launch in launches.values()):
        raise RuntimeError("kernels under TRITON_INTERPRET=1 cannot be compiled: run this in a process without it")
    kernels = [_compile(launch, target) for launch in launches.values()]
    read = _read_amd if TARGETS[target].backend == "hip" else partial(_read_nvidia, target=target)
    return dict(zip(launches, read(kernels), strict=True))


def intermediate(launch: Launch, target: str) -> str:
    """Return Triton's own representation (TTIR) of `launch`: where the width of address arithmetic shows."""
    return str(_compile(launch, target).asm["ttir"])


def _compile(launch: Launch, target: str) -> Any:
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **launch.options}
    return triton.compile(_source(launch, TARGETS[target]), target=TARGETS[target], options=options)


def _source(launch: Launch, target: GPUTarget) -> Any:
    values = {**launch.arguments, **launch.constants}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(launch.constants)
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        value = values[name]
        if name in launch.constants:
            signature[name] = "constexpr"
        elif isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[(index,)] = _properties(value, target)
        elif value == 1:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            assert isinstance(value, int)
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes)


def _properties(tensor: Tensor, target: GPUTarget) -> list[list[Any]]:
    """What the launcher tells the compiler about a tensor's address."""
    properties: list[list[Any]] = [["tt.divisibility", 16]] if tensor.data_ptr() % 16 == 0 else []
    if target.backend == "hip" and tensor.untyped_storage().size() < 2**31:
        properties.append(["tt.pointer_range", 32])
    return properties


def _read_nvidia(kernels: Sequence[Any], *, target: str) -> list[Compiled]:
    return [
        Compiled(
            **_resources(kernel.asm["cubin"]),
            # Triton asks for its shared memory at launch, so that the cubin does not show it.
            shared=kernel.metadata.shared,
            spills=sum(number for name, number in instructions.items() if name.startswith(("LDL", "STL"))),
            instructions=instructions,
            names=NVIDIA,
        )
        for kernel, instructions in zip(
            kernels, _disassemble([_code(kernel.asm["cubin"]) for kernel in kernels], _MACHINES[target]), strict=True
        )
    ]


def _resources(cubin: bytes) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        told = _run("cuobjdump", "--dump-resource-usage", path)
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", told)}
    return {"registers": numbers["REG"], "stack": numbers["STACK"]}


def _disassemble(codes: Sequence[bytes], machine: str) -> list[Counter[str]]:
    """The instructions of each kernel, all read by one process: it takes half a second to start."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(codes))
        listing = _run("nvdisasm", "--binary", machine, "--no-dataflow", path)
    ends = list(accumulate(map(len, codes)))
    instructions: list[Counter[str]] = [Counter() for _ in codes]
    for address, name in re.findall(
        r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", listing, re.MULTILINE
    ):
        instructions[bisect_right(ends, int(address, 16))][name] += 1
    return instructions


def _code(cubin: bytes) -> bytes:
    """The machine code of a cubin's one kernel: its section `.text.NAME` (a cubin is an ELF file of 64 bits)."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, index_of_names = struct.unpack_from("<3H", cubin, 0x3A)
    # Where the name stands, type, flags, address, offset, size.
    sections = [struct.unpack_from("<2I4Q", cubin, headers + i * size) for i in range(count)]
    names = sections[index_of_names][4]
    (code,) = (
        cubin[section[4] : section[4] + section[5]]
        for section in sections
        if cubin[names + section[0] :].startswith(b".text.")
    )
    return code


def _run(tool: str, *arguments: str | Path) -> str:
    """What one of NVIDIA's tools says, of those that come with Triton."""
    import triton.backends.nvidia as nvidia

    command = [Path(nvidia.__path__[0]) / "bin" / tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _read_amd(kernels: Sequence[Any]) -> list[Compiled]:
    return [_read_assembly(kernel.asm["amdgcn"], kernel.metadata.shared) for kernel in kernels]


def _read_assembly(assembly: str, shared: int) -> Compiled:
    # The kernel's own numbers stand in its metadata, at the end; one kernel a module.
    numbers = {key: int(value) for key, value in re.findall(r"^ *(?:- )?\.(\w+): +(\d+)$", assembly, re.MULTILINE)}
    return Compiled(
        registers=numbers["vgpr_count"],
        stack=numbers["private_segment_fixed_size"],
        shared=shared,
        spills=numbers["vgpr_spill_count"],
        # Directives start with a point, labels at the start of the line.
        instructions=Counter(re.findall(r"^\t([a-z]\w*)", assembly, re.MULTILINE)),
        names=AMD,
    )


def shipped(operators: Sequence[str] = OPERATORS) -> Iterator[tuple[str, Launch]]:
    """Yield every configuration that ships, of the operators named, as (name, launch)."""
    for operator in operators:
        yield from import_module(f"fastcam_kernels.{operator}").shipped()


def row(name: str, target: str, code: Compiled) -> str:
    """Return one line of the table."""
    return (
        f"{name:62} {target:7} {code.registers:4} {code.stack:5} {code.shared:6} {code.spills:6}"
        f" {code.loads:5} {code.wide_loads:10} {code.async_loads:5} {code.stores:6} {code.wide_stores:10}"
        f" {code.matrix_products:6}"
    )


def main() -> None:
    """Print the table: one line per configuration and chip, of all operators or of those named."""
    print(
        f"triton {triton.__version__}, fp fusion on; loads, stores: of global memory; async: of 128 bit, straight to"
        " shared memory; matrix: instructions of the matrix units"
    )
    print(f"{'configuration':62} chip    regs stack shared spills loads of 128 bit async stores of 128 bit matrix")
    for operator in sys.argv[1:] or OPERATORS:
        launches = dict(shipped([operator]))
        codes = {target: compile_launches(launches, target) for target in TARGETS}
        for name in launches:
            for target in TARGETS:
                print(row(name, target, codes[target][name]), flush=True)


if __name__ == "__main__":
    main()
