"""The kernels of the way back in the interpreter, against the reference. Outputs start as NaN."""

import mmap

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam_kernels import relevance_linear_backward as kernel
from fastcam_kernels.relevance_linear_backward import LinearBackwardConfig

SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
SEEDS = pytest.mark.parametrize("seed", kernel.SEEDS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: tuple[int, ...], inputs: int, outputs: int, signed: bool) -> dict[str, Tensor | None]:
    x, weight = draw(*rows, inputs, seed=1), draw(outputs, inputs, seed=2)
    x[..., 0] = 0
    return {
        "gate": draw(*rows, outputs, seed=3).abs(),
        "x": x if signed else None,
        "positive": weight.clamp(min=0),
        "negative": weight.clamp(max=0) if signed else None,
    }


def wide(tensors: dict) -> dict:
    return {name: tensor.double() if isinstance(tensor, Tensor) else tensor for name, tensor in tensors.items()}


def assert_near(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.float32
    assert actual.is_contiguous()
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=2e-6 * expected.abs().max().item())


SHAPES = {
    # rows, inputs, outputs, targets
    "one-row": ((1,), 37, 19, 1),
    "one-of-each": ((1,), 1, 1, 1),
    "two-targets": ((1,), 150, 70, 2),
    "three-images-three-targets": ((3,), 70, 40, 3),
    "seventy-rows": ((35,), 20, 33, 2),
    "positions": ((2, 3), 24, 9, 2),
}


@SIGNS
@pytest.mark.parametrize(("rows", "inputs", "outputs", "targets"), SHAPES.values(), ids=SHAPES.keys())
def test_kernel_equals_the_reference(
    rows: tuple[int, ...], inputs: int, outputs: int, targets: int, signed: bool
) -> None:
    tensors = problem(rows, inputs, outputs, signed)
    signal = draw(targets * rows[0], *rows[1:], outputs, seed=4)
    expected = reference.relevance_linear_backward(signal.double(), **wide(tensors))
    assert_near(kernel.relevance_linear_backward(signal, **tensors), expected)


@SEEDS
@SIGNS
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "targets"),
    [SHAPES[name] for name in ("one-row", "one-of-each", "two-targets", "three-images-three-targets")],
    ids=["one-row", "one-of-each", "two-targets", "three-images-three-targets"],
)
def test_seeds_equal_the_reference(
    rows: tuple[int, ...], inputs: int, outputs: int, targets: int, signed: bool, seed: str
) -> None:
    tensors = problem(rows, inputs, outputs, signed)
    logits = draw(*rows, outputs, seed=5)
    # Other targets in each image, the first and the last class among them, a logit of zero, negative ones.
    chosen = torch.arange(rows[0] * targets).view(rows[0], targets).mul(-7).remainder(outputs)
    logits[0, chosen[0, -1]] = 0
    expected = reference.relevance_linear_seeded(logits.double(), chosen, **wide(tensors), seed=seed)
    assert_near(kernel.relevance_linear_seeded(logits, chosen, **tensors, seed=seed), expected)


def config(**changes: int | bool) -> LinearBackwardConfig:
    return LinearBackwardConfig(**{"vector": False, "rows": 16, "inputs": 16, "outputs": 16, "parts": 1, **changes})


CUTS = {
    "small-blocks": config(),
    "parts": config(parts=3),
    "vectors": config(vector=True, rows=2, inputs=32, outputs=8),
    "parts-of-vectors": config(vector=True, rows=4, outputs=8, parts=5),
    "a-short-last-part": config(parts=2, elements=16),
}


@SIGNS
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_how_the_work_is_cut_makes_no_difference(cut: LinearBackwardConfig, signed: bool) -> None:
    tensors = problem((3,), 24, 40, signed)
    signal, logits, targets = draw(6, 40, seed=4), draw(3, 40, seed=5), torch.tensor([[0, 39], [5, 5], [17, 16]])
    expected = reference.relevance_linear_backward(signal.double(), **wide(tensors))
    assert_near(kernel.relevance_linear_backward(signal, **tensors, config=cut), expected)
    for seed in ("clrp", "sglrp"):
        expected = reference.relevance_linear_seeded(logits.double(), targets, **wide(tensors), seed=seed)
        assert_near(kernel.relevance_linear_seeded(logits, targets, **tensors, seed=seed, config=cut), expected)


def errors(actual: Tensor, truth: Tensor) -> float:
    return ((actual.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("classes", [2, 10, 500])
def test_the_shared_product_of_clrp_is_no_worse_than_the_direct_one(classes: int) -> None:
    # Every class's share of the sum is the same in truth up to a thousandth: what is left is a small difference.
    tensors = problem((4,), 64, classes, False)
    tensors["positive"] = 1 + 1e-3 * tensors["positive"]
    logits, targets = 10 + draw(4, classes, seed=5), torch.tensor([[0], [1], [1], [0]])
    tensors["gate"] = 1 + 1e-3 * tensors["gate"]
    truth = reference.relevance_linear_seeded(logits.double(), targets, **wide(tensors), seed="clrp")
    direct = reference.relevance_linear_seeded(logits, targets, **tensors, seed="clrp")
    actual = kernel.relevance_linear_seeded(logits, targets, **tensors, seed="clrp")
    assert truth.abs().max() < 0.1
    # Two or three roundings of terms of size 10: all that a sum in float32 can promise.
    unit = 10 * torch.finfo(torch.float32).eps / truth.square().mean().sqrt().item()
    assert errors(actual, truth) <= max(errors(direct, truth), 2 * unit)


@SIGNS
def test_sglrp_keeps_its_digits_where_a_network_is_sure(signed: bool) -> None:
    tensors = problem((3,), 24, 40, signed)
    logits = draw(3, 40, seed=5)
    targets = torch.tensor([[3], [0], [39]])
    logits.scatter_(1, targets, 30.0)
    truth = reference.relevance_linear_seeded(logits.double(), targets, **wide(tensors), seed="sglrp")
    assert 0 < truth.abs().max() < 1e-9  # 1 - p_t is 1e-11: 1 - float32(p_t) would be 0
    actual = kernel.relevance_linear_seeded(logits, targets, **tensors, seed="sglrp")
    assert errors(actual, truth) < 1e-5


@SEEDS
def test_a_target_that_is_no_class_gives_nan_in_its_row_alone(seed: str) -> None:
    tensors = problem((3,), 24, 9, False)
    targets = torch.tensor([[0, 9], [-1, 8], [2**40, 1]])
    g = kernel.relevance_linear_seeded(draw(3, 9), targets, **tensors, seed=seed).view(2, 3, 24)
    assert g.isnan().all(dim=2).tolist() == [[False, True, True], [True, False, False]]
    assert not g[0, 0].isnan().any()
    assert not g[1, 1:].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("images", [1, 3])
def test_16_bit_signals_logits_and_activations(dtype: torch.dtype, images: int) -> None:
    tensors = problem((images,), 24, 19, True)
    tensors["x"] = tensors["x"].to(dtype)
    signal, targets = draw(2 * images, 19, seed=4).to(dtype), torch.zeros(images, 1, dtype=torch.int64)
    expected = reference.relevance_linear_backward(signal.double(), **wide(tensors))
    assert_near(kernel.relevance_linear_backward(signal, **tensors), expected)
    logits = draw(images, 19, seed=5).to(dtype)
    for seed in kernel.SEEDS:
        expected = reference.relevance_linear_seeded(logits.double(), targets, **wide(tensors), seed=seed)
        assert_near(kernel.relevance_linear_seeded(logits, targets, **tensors, seed=seed), expected)


def test_nan_is_not_hidden() -> None:
    tensors = problem((3,), 24, 9, True)
    signal = draw(3, 9)
    signal[1, 4] = torch.nan
    g = kernel.relevance_linear_backward(signal, **tensors)
    assert g[1, 1:].isnan().all()
    assert not g[[0, 2]].isnan().any()


@SEEDS
@SIGNS
def test_any_layout(seed: str, signed: bool) -> None:
    def strange(tensor: Tensor) -> Tensor:
        return tensor.T.contiguous().T

    tensors = problem((3,), 24, 9, signed)
    layouts = {name: None if tensor is None else strange(tensor) for name, tensor in tensors.items()}
    logits, targets, signal = draw(3, 9), torch.tensor([[0, 1], [2, 3], [4, 5]]), draw(6, 9)
    actual = kernel.relevance_linear_seeded(strange(logits), strange(targets), **layouts, seed=seed)
    assert torch.equal(actual, kernel.relevance_linear_seeded(logits, targets, **tensors, seed=seed))
    actual = kernel.relevance_linear_backward(strange(signal), **layouts)
    assert torch.equal(actual, kernel.relevance_linear_backward(signal, **tensors))


def test_nothing() -> None:
    tensors = problem((0,), 24, 9, False)
    assert kernel.relevance_linear_backward(torch.empty(0, 9), **tensors).shape == (0, 24)
    for seed in kernel.SEEDS:
        targets = torch.empty(0, 3, dtype=torch.int64)
        assert kernel.relevance_linear_seeded(torch.empty(0, 9), targets, **tensors, seed=seed).shape == (0, 24)
    tensors = problem((2,), 24, 9, False)
    targets = torch.empty(2, 0, dtype=torch.int64)
    assert kernel.relevance_linear_seeded(torch.zeros(2, 9), targets, **tensors, seed="clrp").shape == (0, 24)


def test_offsets_beyond_32_bits() -> None:
    # W+ of more than 2^31 elements: address space alone, of which a few pages are touched. The first program of
    # many writes what is compared.
    inputs, outputs = 2**20, 2**11 + 1
    size = 4 * inputs * outputs
    reserved = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    positive = torch.frombuffer(reserved, dtype=torch.float32).view(outputs, inputs)
    positive[-1, :64] = draw(64, seed=2).abs()
    logits, targets = torch.full((1, outputs), 2.0), torch.tensor([[outputs - 1]])
    launches, g = kernel.plan_seeded(logits, targets, torch.ones(1, outputs), None, positive, None, "one_hot")
    (launch,) = launches
    kernel.target_kernel[(1,)](**launch.arguments, **launch.constants)
    torch.testing.assert_close(g[0, :64], 2 * positive[-1, :64])


GATE, P = torch.zeros(2, 3), torch.zeros(3, 4)
COMMON = {
    "gate-1d": ({"gate": GATE[0]}, ValueError, r"gate has shape \(3,\)"),
    "other-classes": ({"gate": GATE[:, :2]}, ValueError, r"gate has shape \(2, 2\); with positive \(3, 4\)"),
    "positive-1d": ({"positive": P[0]}, ValueError, r"positive has shape \(4,\)"),
    "no-inputs": ({"positive": P[:, :0]}, ValueError, r"positive has shape \(3, 0\)"),
    "negative": ({"negative": P[:2], "x": GATE}, ValueError, r"negative has shape \(2, 4\)"),
    "no-x": ({"negative": P}, ValueError, "x is None; with negative it is needed"),
    "other-x": ({"negative": P, "x": GATE}, ValueError, r"x has shape \(2, 3\); it must be \(2, 4\)"),
    "double-gate": ({"gate": GATE.double()}, TypeError, "gate is torch.float64; the kernel takes float32"),
    "half-weights": ({"positive": P.half()}, TypeError, "positive is torch.float16; the kernel takes float32"),
    "devices": ({"positive": P.to("meta")}, ValueError, "gate is on cpu and positive on meta"),
}
SIGNALS = {
    "other-batch": ({"signal": torch.zeros(3, 3)}, ValueError, r"signal has shape \(3, 3\).*must be \(T \* 2, 3\)"),
    "other-outputs": ({"signal": torch.zeros(2, 2)}, ValueError, r"signal has shape \(2, 2\)"),
    "double-signal": ({"signal": GATE.double()}, TypeError, "signal is torch.float64"),
    "meta": (
        {"signal": GATE.to("meta"), "gate": GATE.to("meta"), "positive": P.to("meta")},
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
}
TARGETS = torch.zeros(2, 1, dtype=torch.int64)
SEEDED = {
    "logits": ({"logits": GATE[:1]}, ValueError, r"logits has shape \(1, 3\) and gate \(2, 3\)"),
    "integer-logits": ({"logits": GATE.int()}, TypeError, "logits is torch.int32"),
    "targets-1d": ({"targets": TARGETS[0]}, ValueError, r"targets has shape \(1,\); it must be \(2, T\)"),
    "targets-int32": ({"targets": TARGETS.int()}, TypeError, "targets is torch.int32; int64 is needed"),
    "targets-elsewhere": ({"targets": TARGETS.to("meta")}, ValueError, "gate is on cpu and targets on meta"),
    "seed": ({"seed": "softmax"}, ValueError, "'softmax' given, one of 'one_hot', 'clrp', 'sglrp' is valid"),
}


@pytest.mark.parametrize(
    ("change", "error", "message"), [*COMMON.values(), *SIGNALS.values()], ids=[*COMMON.keys(), *SIGNALS.keys()]
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    good = {"signal": GATE, "gate": GATE, "x": None, "positive": P, "negative": None}
    with pytest.raises(error, match=message):
        kernel.relevance_linear_backward(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"), [*COMMON.values(), *SEEDED.values()], ids=[*COMMON.keys(), *SEEDED.keys()]
)
def test_bad_input_to_seeds_is_named(change: dict, error: type[Exception], message: str) -> None:
    good = {"logits": GATE, "targets": TARGETS, "gate": GATE, "x": None, "positive": P, "negative": None}
    with pytest.raises(error, match=message):
        kernel.relevance_linear_seeded(**{**good, "seed": "clrp", **change})
