"""Ahead of time: the elementwise kernels of the z+ convolution, compiled for chips that are not here."""

import re
from pathlib import Path

import pytest
import triton

from fastcam_kernels import aot, relevance_gate
from tests.compiled.shipped import compiler_of

SHIPPED = dict(relevance_gate.shipped())
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"
FIRST = next(name for name in SHIPPED if " finish " in name)
PAIRS = [(name, "sm_90") for name in SHIPPED] + [(FIRST, "sm_80"), (FIRST, "sm_100")]

AMD = (FIRST, "gfx942")

compiled = compiler_of(SHIPPED, [*PAIRS, AMD])


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_compiles_without_spills_and_fills_the_multiprocessor(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert (code.spills, code.stack) == (0, 0)
    assert code.shared <= 2048
    # 64 registers: all threads of a multiprocessor are resident on half of its warps at least.
    assert code.registers <= 64


def test_compiles_for_amd_without_spills() -> None:
    code = compiled(*AMD)
    assert code.wide_loads > 0
    assert code.wide_stores > 0
    assert (code.spills, code.stack) == (0, 0)
    assert code.shared <= aot.SHARED_LIMIT[AMD[1]]


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_rows_move_in_128_bits(name: str, target: str) -> None:
    code = compiled(name, target)
    if "groups of 4" in name:  # 64 bits: a group's numbers
        assert code.count(r"LDG\b.*\.64") >= 4
        return
    constants, arguments = SHIPPED[name].constants, SHIPPED[name].arguments
    per_thread = constants["BLOCK_M"] * constants["BLOCK_K"] // (32 * SHIPPED[name].num_warps)
    rows = [arguments[key] for key in ("x", "c", "z") if key in arguments]
    assert code.wide_loads >= sum(per_thread * tensor.element_size() // 16 for tensor in rows)
    if " largest " not in name:
        assert code.wide_stores == code.count("STG") > 0


@pytest.mark.parametrize("name", [FIRST, "relevance_gate split 96 56x56 bfloat16"])
def test_addresses_are_formed_in_64_bits(name: str) -> None:
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    offsets = re.findall(r"tt\.addptr .* : tensor<(\d+)x\d+x!tt\.ptr<\w+>>, tensor<\d+x\d+x(i\d+)>", ttir)
    widths = [width for rows, width in offsets if rows != "1"]
    assert len(widths) >= 2
    assert widths.count("i64") >= (4 if name == FIRST else 2)


def test_the_kept_table_is_that_of_these_kernels() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = [row for row in TABLE.read_text().splitlines()[2:] if row.startswith("relevance_gate ")]
    write = f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    assert [row[:70].split() for row in rows] == [
        [*name.split(), target] for name in SHIPPED for target in aot.TARGETS
    ], write
    for name, target in PAIRS:
        assert aot.row(name, target, compiled(name, target)) in rows, write
