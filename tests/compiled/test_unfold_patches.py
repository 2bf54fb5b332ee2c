"""Ahead of time: every configuration that ships, compiled for chips that are not here."""

import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot, unfold_patches
from tests.compiled.shipped import compiler_of

SHIPPED = dict(unfold_patches.shipped())
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"

compiled = compiler_of(SHIPPED)


@cache
def intermediate(name: str) -> str:
    return aot.intermediate(SHIPPED[name], "sm_90")


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert (code.spills, code.stack) == (0, 0)
    # Everything stays in the registers of the thread that stores it.
    assert code.shared == 0
    # At 168 registers three blocks of 128 threads still fit a multiprocessor.
    assert code.registers <= 168


@pytest.mark.parametrize("target", aot.NVIDIA_TARGETS)
@pytest.mark.parametrize("name", SHIPPED)
def test_rows_are_stored_as_wide_as_their_length_is_aligned(name: str, target: str) -> None:
    launch = SHIPPED[name]
    item_size = launch.arguments["output"].element_size()
    # 16, 8, 4 or 2 bytes divide the rows' length; below four bytes there is nothing narrower than one element.
    width = max(math.gcd(16, launch.arguments["row_length"] * item_size), item_size)
    code = compiled(name, target)
    assert code.count("STG") == 16 // width
    assert code.wide_stores == (code.count("STG") if width == 16 else 0)
    if width == 8:
        assert code.count(r"STG\b.*\.64") == code.count("STG")


@pytest.mark.parametrize("name", SHIPPED)
def test_taps_along_the_row_are_loaded_once_per_element(name: str) -> None:
    # The walk has one place that loads rows: taps along x per element of a thread, and the two offsets.
    launch = SHIPPED[name]
    elements = launch.constants["BLOCK"] // (32 * launch.num_warps)
    taps = 4 if launch.constants["CUBIC"] else 2
    assert compiled(name, "sm_90").loads == elements * taps + 2


@pytest.mark.parametrize("name", SHIPPED)
def test_addresses_are_formed_in_64_bits(name: str) -> None:
    ttir = intermediate(name)
    # The start of a row of the crop and of the output. (Offsets within a row may be 32 bits wide.)
    starts = re.findall(r"tt\.addptr %\w+, %\w+ : !tt\.ptr<\w+>, (i\d+)", ttir)
    assert starts.count("i64") == 2
    assert starts.count("i32") == 2  # tops and lefts


def test_offsets_within_a_row_are_as_wide_as_they_must_be() -> None:
    offsets = torch.empty(4, dtype=torch.int64, device="meta")
    for stride, wide in ((2**30 - 1, False), (2**30, True)):
        images = torch.empty(1, device="meta").as_strided((2, 3, 8, 8), (1, stride, 8, 1))
        launch, _ = unfold_patches.plan(images, offsets, offsets, (1, 1), (9, 9), "bicubic")
        assert launch.constants["WIDE"] == wide
        ttir = aot.intermediate(launch, "sm_90")
        taps = re.findall(r"tt\.addptr %\w+, %x_\w+ : .*, tensor<\d+x(i\d+)>", ttir)
        assert taps == 4 * ["i64" if wide else "i32"]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_walk_carries_three_rows(name: str) -> None:
    # What the interpreter cannot show: triton once took the rows, zero at first, for a single variable.
    ttir = intermediate(name)
    walk = re.findall(r"scf\.while .* -> \((.*)\) \{", ttir)[0]
    assert walk.count("tensor<") == (3 if SHIPPED[name].constants["CUBIC"] else 2)


def test_strides_beyond_32_bits_compile() -> None:
    huge = torch.empty(1, device="meta").as_strided((2, 3, 8, 8), (2**40, 2**34, 2**33, 2**35))
    offsets = torch.empty(4, dtype=torch.int32, device="meta")
    launch, _ = unfold_patches.plan(huge, offsets, offsets, (4, 4), (9, 9), "bicubic")
    assert aot.compile_launch(launch, "sm_90").spills == 0


@pytest.mark.parametrize("mode", unfold_patches.MODES)
def test_arguments_of_one_compile(mode: str) -> None:
    # They reach the kernel as constants, which are no tensors.
    offset = torch.empty(1, dtype=torch.int64, device="meta")
    launch, _ = unfold_patches.plan(torch.empty((1, 1, 1, 1), device="meta"), offset, offset, (1, 1), (1, 1), mode)
    assert aot.compile_launch(launch, "sm_90").spills == 0


def test_programs_fill_the_device_and_cover_every_row() -> None:
    for name, launch in SHIPPED.items():
        assert launch.programs >= 4 * 132, name
        assert launch.arguments["bands"] * launch.arguments["rows"] >= launch.arguments["height"]
        assert launch.arguments["strips"] * launch.constants["BLOCK"] >= launch.arguments["row_length"]


def test_the_kept_table_is_that_of_this_kernel() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = TABLE.read_text().splitlines()[2:]
    expected = [aot.row(name, target, compiled(name, target)) for name in SHIPPED for target in aot.TARGETS]
    assert [row for row in rows if row.startswith("unfold_patches ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
