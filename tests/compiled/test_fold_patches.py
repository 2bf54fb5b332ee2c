"""Ahead of time: every configuration that ships, compiled for chips that are not here."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot, fold_patches
from tests.compiled.shipped import compiler_of

SHIPPED = dict(fold_patches.shipped())
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
    # One tile, rearranged once for its store.
    assert code.shared <= 32 * 32 * 8
    # At 128 registers four blocks of 128 threads still fit a multiprocessor: the gathers wait for the caches.
    assert code.registers <= 128


@pytest.mark.parametrize("target", aot.NVIDIA_TARGETS)
@pytest.mark.parametrize("name", [name for name in SHIPPED if "batch=256" in name and "224x224" in name])
def test_maps_are_stored_in_128_bits(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.wide_stores == code.count("STG")


@pytest.mark.parametrize("name", SHIPPED)
def test_addresses_are_formed_in_64_bits(name: str) -> None:
    ttir = intermediate(name)
    # Tiles of addresses: two rows and two columns around each pixel. Within an output map 32 bits do: the launcher
    # refuses sides above 32,767.
    tiles = re.findall(r"%([a-z_]+)\w* = tt\.addptr .*, tensor<[\dx]+x(i\d+)>", ttir)
    assert len([width for name, width in tiles if not name.startswith("out")]) == 6
    assert {width for name, width in tiles if not name.startswith("out")} == {"i64"}
    # One address: the start of an image's and target's maps and confidences, and of the output. From there the
    # pointers move by one patch at a time, and by the patch through tops and lefts.
    starts = re.findall(r"tt\.addptr %(maps|confidences|output), %\w+ : !tt\.ptr<\w+>, (i\d+)", ttir)
    assert starts == [("maps", "i64"), ("confidences", "i64"), ("output", "i64")]


def test_strides_beyond_32_bits_compile() -> None:
    huge = torch.empty(1, device="meta").as_strided((2, 4, 3, 8, 8), (2**40, 2**36, 2**35, 2**34, 2**33))
    offsets = torch.empty(4, dtype=torch.int32, device="meta")
    launch, _ = fold_patches.plan(huge, huge[..., 0, 0], offsets, offsets, (4, 4), (9, 9))
    assert aot.compile_launch(launch, "sm_90").spills == 0


def test_arguments_of_one_compile() -> None:
    # They reach the kernel as constants, which are no tensors.
    offset = torch.empty(1, dtype=torch.int64, device="meta")
    maps = torch.empty((1, 1, 1, 1, 1), device="meta")
    launch, _ = fold_patches.plan(maps, maps[..., 0, 0], offset, offset, (1, 1), (1, 1))
    assert aot.compile_launch(launch, "sm_90").spills == 0


def test_the_kept_table_is_that_of_this_kernel() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = TABLE.read_text().splitlines()[2:]
    expected = [aot.row(name, target, compiled(name, target)) for name in SHIPPED for target in aot.TARGETS]
    assert [row for row in rows if row.startswith("fold_patches ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
