"""Ahead of time: every configuration that ships, compiled for chips that are not here."""

import re
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot, masked_inputs
from fastcam_kernels.launch import Launch
from tests.compiled.shipped import compiler_of
from tests.compiled.spills import most_spills

SHIPPED = dict(masked_inputs.shipped())
WRITES = [name for name in SHIPPED if " write " in name]
SEARCHES = [name for name in SHIPPED if " search " in name]
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"

compiled = compiler_of(SHIPPED)


def test_both_ways_of_searching_ship() -> None:
    assert SEARCHES
    assert {SHIPPED[name].constants["SEARCH"] for name in WRITES} == {True, False}


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert code.spills <= most_spills(name, target)
    assert code.stack <= 4 * most_spills(name, target)
    # At 168 registers three blocks of 128 threads still fit a multiprocessor.
    assert code.registers <= 168
    # Enough to bring a few pairs' extremes together, too little for a tile: no line changes its layout on its way.
    assert code.shared <= 256


@pytest.mark.parametrize("target", aot.NVIDIA_TARGETS)
@pytest.mark.parametrize("name", WRITES)
def test_lines_move_in_128_bits_where_the_layout_allows(name: str, target: str) -> None:
    code = compiled(name, target)
    if " 299 " in name:
        assert code.wide_stores == 0  # 299 * 3 numbers: lines start at any address
        return
    # Four lines are under way at once, and of a baseline as many.
    assert code.count("STG") == code.wide_stores == 4
    lines = 0 if " nchw " in name else 8 if "baseline" in name else 4
    extremes = 8 if SHIPPED[name].constants["SEARCH"] else 0  # image and channel indices of pairs, side by side
    assert lines <= code.wide_loads <= lines + extremes


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_addresses_of_images_and_output_are_formed_in_64_bits(layout: str) -> None:
    ttir = aot.intermediate(SHIPPED[f"masked_inputs write 256 layer4 224 {layout} bfloat16"], "sm_90")
    lines = re.findall(r"%x\d\w* = tt\.addptr %image\w*, .* : .*, tensor<[\dx]+(i\d+)>", ttir)
    stored = re.findall(r"tt\.addptr %out\w*, .* : .*, tensor<[\dx]+(i\d+)>", ttir)
    assert len(lines) == 4
    assert set(lines) == {"i64"}
    # The start of a pair's mask, the column inside a row (alone in 32 bits), and four lines.
    assert sorted(stored) == ["i32", *["i64"] * 5]


def plan_of(activations: torch.Tensor) -> Launch:
    images = torch.empty((2, 3, 32, 32), dtype=torch.bfloat16, device="meta", memory_format=torch.channels_last)
    index = torch.empty(2, dtype=torch.int64, device="meta")
    launches, _ = masked_inputs.plan(images, activations, index, index, None, flat_tolerance=0.0)
    return launches[-1]


@pytest.mark.parametrize("strides", [(2**40, 2**33, 8, 1), (64, 2**33, 2**31, 1)], ids=["planes", "rows"])
def test_strides_beyond_32_bits_compile(strides: tuple[int, ...]) -> None:
    launch = plan_of(torch.empty(1, dtype=torch.bfloat16, device="meta").as_strided((2, 64, 8, 8), strides))
    assert launch.constants["WIDE_PLANES"] == (strides[2] > 8)
    assert aot.compile_launch(launch, "sm_90").spills == 0
    ttir = aot.intermediate(launch, "sm_90")
    inside_planes = re.findall(r"%(?:upper_left|lower_left|top|bottom)\w* = tt\.addptr .*, tensor<[\dx]+(i\d+)>", ttir)
    assert len(inside_planes) >= 4
    assert set(inside_planes) == {"i64" if strides[2] > 8 else "i32"}


def test_the_kept_table_is_that_of_these_kernels() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = TABLE.read_text().splitlines()[2:]
    expected = [aot.row(name, target, compiled(name, target)) for name in SHIPPED for target in aot.TARGETS]
    assert [row for row in rows if row.startswith("masked_inputs ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
