"""Ahead of time: the z+ convolution's kernels as they ship, compiled for chips that are not here.

The first launch of each layer for sm_90, one of each kind for the other chips, the second launch of each kind: a
compilation takes a second. The kept table holds all.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot, relevance_conv
from fastcam_kernels.tuning import Choice
from tests.compiled.shipped import compiler_of

SHIPPED = dict(relevance_conv.shipped())
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"
EVERYWHERE = [
    "relevance_conv sums 1x1 256-64 56x56 bfloat16",
    "relevance_conv sums 3x3 128-128 28x28 bfloat16",
    "relevance_conv sums 3x3 depthwise 144 bfloat16 relu6",
]
CLEARING = [
    "relevance_conv clear 1x1 24-144 56x56 bfloat16 relu6 signed",
    "relevance_conv clear 3x3 128-128 28x28 bfloat16",
    "relevance_conv clear 3x3 depthwise 144 bfloat16 relu6",
]
# These differ from others in numbers alone.
TWINS = {
    "relevance_conv sums 1x1 512-128 28x28 bfloat16",
    "relevance_conv sums 3x3 256-256 stride 2 bfloat16",
    "relevance_conv sums 3x3 256-256 56x56 bfloat16",
    "relevance_conv sums 5x5 depthwise 240 bfloat16 relu6",
}
HERE = [name for name in SHIPPED if " sums " in name and name not in TWINS] + CLEARING
PAIRS = [(name, "sm_90") for name in HERE] + [(name, chip) for name in EVERYWHERE for chip in ("sm_80", "sm_100")]
PRODUCTS = [(name, target) for name, target in PAIRS if "depthwise" not in name]

AMD = [(name, "gfx942") for name in EVERYWHERE]

compiled = compiler_of(SHIPPED, PAIRS + AMD)


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert (code.spills, code.stack) == (0, 0)
    # Two blocks to a multiprocessor.
    assert 2 * code.shared <= aot.SHARED_LIMIT[target]
    if target == "sm_90":
        # At 168 registers three blocks of 128 threads fit a multiprocessor.
        assert code.registers <= 168


@pytest.mark.parametrize(("name", "target"), AMD)
def test_compiles_for_amd_without_spills(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert (code.spills, code.stack) == (0, 0)
    assert code.shared <= aot.SHARED_LIMIT[target]
    assert (code.matrix_products > 0) is ("depthwise" not in name)


@pytest.mark.parametrize(("name", "target"), PRODUCTS)
def test_16_bit_sums_run_on_tensor_cores(name: str, target: str) -> None:
    code = compiled(name, target)
    if "float32" in name:
        assert code.matrix_products == 0  # full precision, no TF32
    else:
        assert code.matrix_products > 0
    if target == "sm_90" and "float32" not in name:
        assert code.count("HGMMA") == code.matrix_products


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_rows_come_in_128_bits_where_the_layout_allows(name: str, target: str) -> None:
    code = compiled(name, target)
    constants = SHIPPED[name].constants
    item_size = SHIPPED[name].arguments["x"].element_size()
    threads = 32 * SHIPPED[name].num_warps
    if constants["KIND"] == "few channels":
        assert code.wide_loads <= 4  # three channels start anywhere; what is left may be the bias
        return
    depthwise = constants["KIND"] == "depthwise"
    x = constants["BLOCK_M"] * constants["BLOCK_K" if depthwise else "BLOCK_C"] * item_size // (16 * threads)
    w = (
        0
        if depthwise or constants["PACKED"]
        else constants["BLOCK_C"] * constants["BLOCK_K"] * item_size // (16 * threads)
    )
    weights = ("sums" in name) + 1 + constants["SIGNED"]
    assert x >= 1
    assert code.wide_loads >= x + w * weights


@pytest.mark.parametrize(("name", "target"), [pair for pair in PAIRS if " sums " in pair[0]])
def test_outputs_are_stored_in_128_bits(name: str, target: str) -> None:
    code = compiled(name, target)
    # All but the block's smallest Z.
    assert code.wide_stores == code.count("STG") - 1 > 0


@pytest.mark.parametrize("name", EVERYWHERE)
def test_addresses_are_formed_in_64_bits(name: str) -> None:
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    # Blocks of addresses, not the rows of biases.
    offsets = re.findall(r"tt\.addptr .* : tensor<(\d+)x(\d+)x!tt\.ptr<\w+>>, tensor<\d+x\d+x(i\d+)>", ttir)
    blocks = [(rows, columns, width) for rows, columns, width in offsets if "1" not in (rows, columns)]
    assert len(blocks) >= 3
    assert {width for *_, width in blocks} == {"i64"}


def test_strides_beyond_32_bits_compile() -> None:
    huge = torch.empty(1, dtype=torch.bfloat16, device="meta").as_strided((2, 64, 8, 8), (2**40, 1, 2**33, 64))
    weight = torch.empty((64, 64, 3, 3), dtype=torch.bfloat16, device="meta")
    launches, _ = relevance_conv.plan(
        huge,
        weight,
        None,
        weight,
        None,
        None,
        relevance_conv.Geometry((1, 1), (1, 1), (1, 1), 1),
        "relu",
        reciprocal=False,
        zero_share=1e-6,
        tf32=False,
        choice=Choice("triton", 64, 64, 32),
    )
    code = aot.compile_launch(launches[0], "sm_90")
    assert code.spills == 0


def test_a_spill_would_be_seen() -> None:
    launch = SHIPPED["relevance_conv sums 1x1 256-64 56x56 bfloat16"]
    larger = replace(launch, num_warps=4)
    assert aot.compile_launch(larger, "sm_80").spills > 0


def test_the_kept_table_is_that_of_these_kernels() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = [row for row in TABLE.read_text().splitlines()[2:] if row.startswith("relevance_conv ")]
    write = f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    assert [row[:70].split() for row in rows] == [
        [*name.split(), target] for name in SHIPPED for target in aot.TARGETS
    ], write
    for name, target in PAIRS:
        assert aot.row(name, target, compiled(name, target)) in rows, write
