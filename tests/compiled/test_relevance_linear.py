"""Ahead of time: the linear layer's kernels, there and back, compiled for chips that are not here."""

import re
from pathlib import Path

import pytest
import torch
import triton
from torch import Tensor

from fastcam_kernels import aot, relevance_linear, relevance_linear_backward
from fastcam_kernels.launch import Launch
from tests.compiled.shipped import compiler_of
from tests.compiled.spills import most_spills

SHIPPED = {**dict(relevance_linear.shipped()), **dict(relevance_linear_backward.shipped())}
PRODUCTS = [name for name in SHIPPED if "VECTOR" in SHIPPED[name].constants]
BY_MATRICES = [name for name in PRODUCTS if not SHIPPED[name].constants["VECTOR"]]
TABLE = Path(__file__).parents[2] / "bench" / "results" / f"aot-triton-{triton.__version__}.txt"
TARGETS = pytest.mark.parametrize("target", aot.TARGETS)

compiled = compiler_of(SHIPPED)


def weights(launch: Launch) -> dict[str, Tensor]:
    """The weights that a product reads, by their arguments' names."""
    names = ["weight", "positive"] + (["negative"] if launch.constants["SIGNED"] else [])
    return {name: launch.arguments[name] for name in names if name in launch.arguments}


def bytes_per_thread(launch: Launch, tensor: Tensor, target: str) -> int:
    block = launch.constants["BLOCK_K"] * launch.constants["BLOCK_C"]
    return block * tensor.element_size() // (aot.TARGETS[target].warp_size * launch.num_warps)


def test_names_fit_the_table() -> None:
    assert max(map(len, SHIPPED)) <= 61


@TARGETS
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills_within_the_chip(name: str, target: str) -> None:
    code = compiled(name, target)
    assert code.loads > 0
    assert code.stores > 0
    assert code.spills <= most_spills(name, target)
    assert code.stack <= 4 * most_spills(name, target)
    assert code.shared <= aot.SHARED_LIMIT[target]
    # What ptxas may give a thread is 255, and gfx942 gives 256 where a block has 512 threads.
    assert code.registers <= (256 if target == "gfx942" else 208)


@TARGETS
@pytest.mark.parametrize("name", PRODUCTS)
def test_weights_come_in_128_bits(name: str, target: str) -> None:
    code, launch = compiled(name, target), SHIPPED[name]
    loads = sum(bytes_per_thread(launch, tensor, target) // 16 for tensor in weights(launch).values())
    # On 64 lanes a warp some blocks have fewer bits a thread.
    assert loads >= 1 or target == "gfx942"
    assert code.wide_loads >= loads


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", BY_MATRICES)
def test_weights_of_matrix_products_come_asynchronously(name: str, target: str) -> None:
    code, launch = compiled(name, target), SHIPPED[name]
    loads = sum(bytes_per_thread(launch, tensor, target) // 16 for tensor in weights(launch).values())
    assert code.async_loads >= loads * (launch.num_stages - 1)


@TARGETS
@pytest.mark.parametrize("name", PRODUCTS)
def test_matrix_units_multiply_where_they_can(name: str, target: str) -> None:
    code, launch = compiled(name, target), SHIPPED[name]
    # NVIDIA's have no product of float32 as it is; with W and x of 16 bits, W+ is split instead.
    exact = launch.constants.get("POSITIVE_PRECISION", launch.constants["PRECISION"]) == "ieee"
    if launch.constants["VECTOR"] or (exact and target != "gfx942"):
        assert code.matrix_products == 0
    else:
        assert code.matrix_products > 0
    if target == "sm_90" and code.matrix_products:
        assert code.count("HGMMA") == code.matrix_products


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])  # gfx942's matrix units scatter a block's neighbours
@pytest.mark.parametrize("name", BY_MATRICES)
def test_results_are_stored_in_128_bits(name: str, target: str) -> None:
    code, launch = compiled(name, target), SHIPPED[name]
    columns = launch.constants["BLOCK_C" if "backward" in name else "BLOCK_K"]
    block = 4 * columns * launch.constants["BLOCK_R"]
    if block < 16 * 32 * launch.num_warps:
        assert code.wide_stores == 0
    else:
        assert code.wide_stores == code.stores


@pytest.mark.parametrize("name", [PRODUCTS[0], BY_MATRICES[0], BY_MATRICES[-1]], ids=["vector", "forward", "backward"])
def test_every_product_with_a_length_is_formed_in_64_bits(name: str) -> None:
    ttir = aot.intermediate(SHIPPED[name], "sm_90")
    # Rows times their length; what is added within a row is smaller.
    widths = re.findall(r"arith\.muli .* : tensor<[\dx]+(i\d+)>", ttir)
    assert len(widths) >= 1
    assert set(widths) == {"i64"}


def test_lengths_of_one_compile() -> None:
    # A launcher turns integers equal to one into constants, which are no tensors in the kernel.
    one = torch.empty((1, 1), device="meta")
    targets = torch.empty((1, 1), dtype=torch.int64, device="meta")
    launches = [*relevance_linear.plan(one, one, one[0], one, one, "none", True, zero_share=1e-6)[0]]
    launches += relevance_linear_backward.plan(one, one, one, one, one)[0]
    for seed in relevance_linear_backward.SEEDS:
        launches += relevance_linear_backward.plan_seeded(one, targets, one, one, one, one, seed)[0]
    parts = relevance_linear_backward.LinearBackwardConfig(vector=True, rows=1, inputs=16, outputs=16, parts=2)
    wide = torch.empty((1, 16), device="meta")
    launches += relevance_linear_backward.plan(wide, wide, None, wide.expand(16, 16), None, config=parts)[0]
    codes = aot.compile_launches({str(i): launch for i, launch in enumerate(launches)}, "sm_90")
    assert [code.spills for code in codes.values()] == [0] * len(launches)


@pytest.mark.parametrize("module", [relevance_linear, relevance_linear_backward], ids=["forward", "backward"])
def test_the_kept_table_is_that_of_these_kernels(module: object) -> None:
    if not TABLE.exists():
        pytest.skip(f"no table is kept for triton {triton.__version__}")
    operator = module.__name__.removeprefix("fastcam_kernels.")
    rows = TABLE.read_text().splitlines()[2:]
    names = [name for name in SHIPPED if name.startswith(f"{operator} ")]
    expected = [aot.row(name, target, compiled(name, target)) for name in names for target in aot.TARGETS]
    assert [row for row in rows if row.startswith(f"{operator} ")] == expected, (
        f"write it afresh: python -m fastcam_kernels.aot > bench/results/{TABLE.name}"
    )
