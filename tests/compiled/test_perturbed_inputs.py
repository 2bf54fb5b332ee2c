"""Ahead of time: every configuration that ships, compiled for chips that are not here."""

import re
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot, perturbed_inputs
from tests.compiled.shipped import compiler_of

SHIPPED = dict(perturbed_inputs.shipped())
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"

compiled = compiler_of(SHIPPED)


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert (code.spills, code.stack) == (0, 0)
    assert code.shared <= aot.SHARED_LIMIT[target]
    # At 128 registers four blocks of 128 threads fit a multiprocessor: enough stores under way.
    assert code.registers <= 128


@pytest.mark.parametrize("target", aot.NVIDIA_TARGETS)
@pytest.mark.parametrize("name", SHIPPED)
def test_images_move_in_128_bits_where_the_layout_allows(name: str, target: str) -> None:
    code = compiled(name, target)
    if " 299 " in name:
        assert code.wide_stores == 0  # 299 * 299 * 3 numbers: images start at any address
        return
    assert code.count("STG") == code.wide_stores == SHIPPED[name].constants["BLOCK_S"]
    assert code.wide_loads >= (0 if " nchw " in name else 2)


@pytest.mark.parametrize("name", [name for name in SHIPPED if " nchw " in name])
def test_every_product_with_a_stride_is_formed_in_64_bits(name: str) -> None:
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    added = re.findall(r"%(image|other|position)\w* = tt\.addptr .* : .*, (?:tensor<[\dx]+)?(i\d+)>?", ttir)
    assert {variable for variable, _ in added} == {"image", "other", "position"}
    assert {kind for _, kind in added} == {"i64"}
    # The start of a step's image, then the position inside it: images end below 2^31.
    stored = re.findall(r"%out\w* = tt\.addptr .* : .*, tensor<[\dx]+(i\d+)>", ttir)
    assert stored == ["i64", "i32"]


def test_strides_beyond_32_bits_compile() -> None:
    huge = torch.empty(1, device="meta").as_strided((2, 3, 8, 8), (2**40, 2**33, 8, 1))
    rank = torch.empty((2, 64), dtype=torch.int32, device="meta")
    launch, _ = perturbed_inputs.plan(huge, huge, rank, torch.empty(4, dtype=torch.int64, device="meta"))
    assert aot.compile_launch(launch, "sm_90").spills == 0


def test_the_kept_table_is_that_of_these_kernels() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = TABLE.read_text().splitlines()[2:]
    expected = [aot.row(name, target, compiled(name, target)) for name in SHIPPED for target in aot.TARGETS]
    assert [row for row in rows if row.startswith("perturbed_inputs ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
