"""Ahead of time: every configuration that ships, compiled for chips that are not here."""

import re
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot, cam_map
from fastcam_kernels.launch import Launch
from tests.compiled.shipped import compiler_of
from tests.compiled.spills import most_spills

SHIPPED = dict(cam_map.shipped())
SUMS = [name for name in SHIPPED if " sum " in name]
FINISHES = [name for name in SHIPPED if " finish " in name]
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"

compiled = compiler_of(SHIPPED)


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert code.spills <= most_spills(name, target)
    assert code.stack <= 4 * most_spills(name, target)
    assert code.shared <= aot.SHARED_LIMIT[target]
    # At 168 registers three blocks of 128 threads still fit a multiprocessor.
    assert code.registers <= 168


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", SUMS)
def test_activations_come_in_128_bits_where_the_layout_allows(name: str, target: str) -> None:
    code = compiled(name, target)
    if "layer4 nchw" in name:
        assert code.wide_loads == 0  # rows of 49 numbers start at any address
        return
    if "layer3 nchw" in name and target == "gfx942":
        # Groups of four positions (196 = 4 * 49): triton's buffer loads keep the hint of 16, not that of 4.
        assert code.wide_loads == 0
        return
    launch = SHIPPED[name]
    block = launch.constants["BLOCK_K"] * launch.constants["BLOCK_P"]
    item_size = launch.arguments["activations"].element_size()
    loads = block * item_size // (16 * aot.TARGETS[target].warp_size * launch.num_warps)
    if loads == 0:
        # On 64 lanes a warp a small block has 64 bits a thread.
        assert target == "gfx942"
        assert code.count(r"\w+_load_dwordx2") >= 1
        return
    assert code.wide_loads >= loads
    if launch.constants["PER_POSITION"]:
        assert code.wide_loads == code.loads


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", [name for name in FINISHES if "224" in name])
def test_maps_are_stored_in_as_many_bits_as_a_thread_has(name: str, target: str) -> None:
    launch, code = SHIPPED[name], compiled(name, target)
    block = launch.constants["BLOCK_Y"] * launch.constants["BLOCK_X"]
    threads = aot.TARGETS[target].warp_size * launch.num_warps
    size = block * launch.arguments["maps"].element_size() // threads
    if size < 16:
        assert target == "gfx942"
        assert code.count(r"\w+_store_dwordx2") == code.stores == 1
    else:
        assert code.wide_stores == code.stores == size // 16


@pytest.mark.parametrize("name", [SUMS[0], SUMS[-1]], ids=["per-channel", "per-position"])
def test_every_product_with_a_stride_is_formed_in_64_bits(name: str) -> None:
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    # %a..., %w...: the addresses into activations and weights; a block's offsets or one number for all of it.
    offsets = re.findall(r"%[aw]\w* = tt\.addptr .* : .*, (?:tensor<[\dx]+)?(i\d+)>?", ttir)
    assert len(offsets) >= 5
    assert set(offsets) == {"i64"}


@pytest.mark.parametrize("name", [SUMS[0], FINISHES[0]], ids=["sum", "finish"])
def test_the_start_of_every_map_is_formed_in_64_bits(name: str) -> None:
    # Inside a map 32 bits do: the launcher refuses sides above 32,767.
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    starts = re.findall(r"tt\.addptr %\w+, %\w+ : !tt\.ptr<\w+>, (i\d+)", ttir)
    assert len(starts) >= 2
    assert set(starts) == {"i64"}


def test_strides_beyond_32_bits_compile() -> None:
    huge = torch.empty(1, device="meta").as_strided((2, 64, 8, 8), (2**40, 2**33, 8, 1))
    (launch, *_), _ = cam_map.plan(huge, torch.empty((2, 1, 64), device="meta"), (8, 8), True, True, flat_tolerance=0.0)
    code = aot.compile_launch(launch, "sm_90")
    assert code.spills == 0


def test_intermediate_arguments_are_specialised_as_the_launcher_would() -> None:
    launch = SHIPPED["cam_map sum batch=32 layer2 nchw float32 targets=1"]
    ttir = aot.intermediate(launch, "sm_90")
    signature = ttir[: ttir.index("{\n", ttir.index("tt.func"))]
    assert re.search(r"%activations: !tt.ptr<f32> \{tt.divisibility = 16 : i32\}", signature)
    assert "%stride_aw" not in signature  # one, hence a constant
    assert re.search(r"%channels: i32 \{tt.divisibility = 16 : i32\}", signature)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_a_spill_would_be_seen(target: str) -> None:
    # The reading of machine code must be able to fail: sixteen times the block does not fit the registers.
    launch = SHIPPED["cam_map sum batch=32 layer2 nhwc float32 targets=1"]
    larger = Launch(
        kernel=launch.kernel,
        programs=1,
        arguments=launch.arguments,
        constants={**launch.constants, "BLOCK_P": launch.constants["BLOCK_P"] * 16},
        num_warps=launch.num_warps,
    )
    code = aot.compile_launch(larger, target)
    assert code.spills > 0
    assert code.stack > 0


def test_the_kept_table_is_that_of_these_kernels() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = TABLE.read_text().splitlines()[2:]
    expected = [aot.row(name, target, compiled(name, target)) for name in SHIPPED for target in aot.TARGETS]
    assert [row for row in rows if row.startswith("cam_map ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
