"""Ahead of time: every configuration that ships, compiled for chips that are not here; and which one serves what."""

import re
from pathlib import Path

import pytest
import torch
import triton

from fastcam_kernels import aot
from fastcam_kernels import relevance_conv_backward as kernel
from fastcam_kernels.launch import Launch
from tests.compiled.shipped import compiler_of
from tests.compiled.spills import most_spills

SHIPPED = dict(kernel.shipped())
PRODUCTS = [name for name, launch in SHIPPED.items() if launch.kernel is kernel.product_kernel]
DEPTHWISE = [name for name, launch in SHIPPED.items() if launch.kernel is kernel.depthwise_kernel]
ELEMENTWISE = [name for name in SHIPPED if name not in PRODUCTS + DEPTHWISE]
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"
ON_EVERY_CHIP = pytest.mark.parametrize("target", aot.TARGETS)
ON_NVIDIAS = pytest.mark.parametrize("target", aot.NVIDIA_TARGETS)

compiled = compiler_of(SHIPPED)


def reduces(name: str) -> bool:
    return name.endswith((" weights", " parts"))


def test_names_fit_the_table() -> None:
    assert all(name.startswith("relevance_conv_backward ") and len(name) <= 61 for name in SHIPPED)
    assert len(SHIPPED) == len(list(kernel.shipped()))


@ON_EVERY_CHIP
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert code.spills <= most_spills(name, target)
    assert code.stack <= 4 * most_spills(name, target)
    assert code.shared <= aot.SHARED_LIMIT[target]
    # Two blocks of 128 threads fit a multiprocessor's registers, whatever they hold; on gfx942 one wave a unit does.
    if target in aot.NVIDIA_TARGETS:
        assert code.registers * 32 * SHIPPED[name].num_warps <= 65536 // 2
    else:
        assert code.registers <= 512


@ON_EVERY_CHIP
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_run_on_tensor_cores(name: str, target: str) -> None:
    code = compiled(name, target)
    if " fp32" in name and target in aot.NVIDIA_TARGETS:
        assert code.matrix_products == 0  # exact products have none; AMD's matrix units multiply float32 exactly
        return
    assert code.matrix_products > 0
    if target == "sm_90":
        assert code.count("HGMMA") == code.matrix_products
    if target == "sm_100":
        assert code.count("UTCHMMA") > 0


@ON_NVIDIAS
@pytest.mark.parametrize("name", PRODUCTS)
def test_operands_come_in_128_bits_straight_to_shared_memory(name: str, target: str) -> None:
    code = compiled(name, target)
    launch = SHIPPED[name]
    asynchronous = code.count(r"LDGSTS\b.*\.128")
    # What one step reads of the signal, and of the gate where S is formed on the way.
    block = launch.constants["BLOCK_P"] * launch.constants["BLOCK_K"] * (2 if launch.constants["GATED"] else 1)
    step = block * launch.arguments["signal"].element_size() // (16 * 32 * launch.num_warps)
    assert step >= 1
    assert asynchronous >= step * (launch.num_stages - 1)
    if " tf32" in name and target != "sm_80":
        return  # these tensor cores want W transposed, number by number
    if launch.constants["GROUPED"] and launch.arguments["input_units"] * launch.constants["INPUT_UNIT"] < 8:
        return  # rows of W as long as a group are shorter than 128 bits
    assert code.wide_loads == code.loads


@ON_NVIDIAS
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_signals_come_in_128_bits(name: str, target: str) -> None:
    launch = SHIPPED[name]
    block = launch.constants["BLOCK_P"] * launch.constants["BLOCK_C"] * (2 if launch.constants["GATED"] else 1)
    step = block * launch.arguments["signal"].element_size() // (16 * 32 * launch.num_warps)
    assert step >= 1
    assert compiled(name, target).wide_loads >= step


@ON_NVIDIAS
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_launches_load_in_128_bits(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.wide_loads == code.loads


@ON_NVIDIAS
@pytest.mark.parametrize("name", [name for name in SHIPPED if not reduces(name)])
def test_signals_are_stored_in_128_bits(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.wide_stores == code.count("STG")
    assert code.wide_stores > 0


@pytest.mark.parametrize(
    "name", [PRODUCTS[0], next(n for n in PRODUCTS if "3x3/2" in n), DEPTHWISE[1], ELEMENTWISE[0]], ids=str
)
def test_every_offset_is_formed_in_64_bits(name: str) -> None:
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    offsets = re.findall(r"tt\.addptr .* : tensor<\d+x\d+x!tt\.ptr<\w+>>, tensor<\d+x\d+x(i\d+)>", ttir)
    assert len(offsets) >= 2
    assert set(offsets) == {"i64"}


def test_the_offset_of_a_target_is_formed_in_64_bits() -> None:
    ttir = aot.intermediate(SHIPPED["relevance_conv_backward gate bf16"], "sm_90")
    offsets = re.findall(r"tt\.addptr .* : tensor<\d+x!tt\.ptr<\w+>>, tensor<\d+x(i\d+)>", ttir)
    assert len(offsets) == 3
    assert set(offsets) == {"i64"}


LAYERS_OF_ONE = {
    "product": kernel._Layer(1, 1, 1),
    "taps": kernel._Layer(16, 16, 1, kernel=3),
    "depthwise": kernel._Layer(16, 16, 1, groups=16),
}


@pytest.mark.parametrize("layer", LAYERS_OF_ONE.values(), ids=LAYERS_OF_ONE.keys())
def test_arguments_that_are_one_compile(layer: object) -> None:
    # The compiler makes constants of them, of another kind than numbers.
    problem = layer.problem(1, torch.bfloat16, signed=True, residual=True, reduce=True)
    launches, _ = kernel.plan(problem, kernel.triton_config(problem, exact=False), tf32=False)
    if layer is LAYERS_OF_ONE["product"]:
        product = torch.empty((1, 2, 1, 1), dtype=torch.bfloat16, device="meta")
        config = kernel.elementwise_config(problem, "composition")
        finish, _ = kernel.plan_finish(problem, product, product[:, 1:], config)
        launches = (*launches, finish[0], kernel.plan_gate(problem)[0])
    codes = aot.compile_launches({str(i): launch for i, launch in enumerate(launches)}, "sm_90")
    assert [code.spills for code in codes.values()] == [0] * len(launches)


def test_a_spill_would_be_seen() -> None:
    # The reading of machine code must be able to fail: two accumulators of 128 x 128 do not fit four warps.
    launch = SHIPPED[next(name for name in PRODUCTS if name.endswith("bf16 signed"))]
    larger = Launch(
        kernel=launch.kernel,
        programs=1,
        arguments=launch.arguments,
        constants={**launch.constants, "BLOCK_P": 128, "BLOCK_C": 128},
        num_warps=4,
    )
    assert aot.compile_launch(larger, "sm_80").spills > 0


CHOICES = {
    # layer, dtype, tf32: algorithm, whether a launch of its own forms S
    "1x1": (kernel._Layer(256, 64, 56), torch.bfloat16, False, "triton", False),
    "1x1/2": (kernel._Layer(1024, 2048, 14, stride=2), torch.bfloat16, False, "triton", False),
    "1x1-tf32": (kernel._Layer(256, 64, 56), torch.float32, True, "triton", False),
    "1x1-exact": (kernel._Layer(256, 64, 56), torch.float32, False, "composition", True),
    "3x3": (kernel._Layer(128, 128, 28, kernel=3), torch.bfloat16, False, "composition", True),
    "3x3-tf32": (kernel._Layer(128, 128, 28, kernel=3), torch.float32, True, "composition", True),
    "grouped": (kernel._Layer(128, 128, 56, kernel=3, groups=32), torch.bfloat16, False, "triton", True),
    "grouped-exact": (kernel._Layer(128, 128, 56, kernel=3, groups=32), torch.float32, False, "composition", True),
    "depthwise-3x3": (kernel._Layer(96, 96, 112, kernel=3, groups=96), torch.bfloat16, False, "triton", False),
    "depthwise-5x5": (kernel._Layer(96, 96, 112, kernel=5, groups=96), torch.bfloat16, False, "triton", True),
    "depthwise-exact": (kernel._Layer(96, 96, 112, kernel=3, groups=96), torch.float32, False, "triton", False),
}


@pytest.mark.parametrize(("layer", "dtype", "tf32", "algorithm", "gate_first"), CHOICES.values(), ids=CHOICES.keys())
def test_which_algorithm_serves(
    layer: object, dtype: torch.dtype, tf32: bool, algorithm: str, gate_first: bool
) -> None:
    problem = layer.problem(32, dtype, signed=False, residual=False, reduce=False)
    config = kernel.choose(problem, tf32=tf32)
    assert (config.algorithm, config.gate_first) == (algorithm, gate_first)


def test_small_problems_are_cut_into_more_programs() -> None:
    layer = kernel._Layer(1024, 256, 14)
    few, many = (
        kernel.choose(layer.problem(batch, torch.bfloat16, signed=False, residual=False, reduce=False), tf32=False)
        for batch in (1, 64)
    )
    assert few.positions * few.channels < many.positions * many.channels


def test_the_kept_table_is_that_of_these_kernels() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    rows = TABLE.read_text().splitlines()[2:]
    expected = [aot.row(name, target, compiled(name, target)) for name in SHIPPED for target in aot.TARGETS]
    assert [row for row in rows if row.startswith("relevance_conv_backward ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
