"""The linear layer's kernels on a device, there and back, against the reference in float64."""

import pytest
import torch
from torch import Tensor

from fastcam import ops
from fastcam.ops import reference
from fastcam.ops.backend import use_backend

SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
SEEDS = pytest.mark.parametrize("seed", ["one_hot", "clrp", "sglrp"])
SHAPES = {
    # rows, inputs, outputs
    "resnet50-1": ((1,), 2048, 1000),
    "resnet50-4": ((4,), 2048, 1000),
    "resnet50-33": ((33,), 2048, 1000),
    "vgg16-256": ((256,), 25088, 512),
    "regnet-70": ((70,), 440, 1000),
    "positions": ((3, 49), 96, 130),
    "odd": ((7,), 37, 19),
    "one": ((1,), 1, 1),
}
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture(autouse=True)
def full_float32() -> object:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def problem(shape: tuple, signed: bool, dtype: torch.dtype) -> dict[str, Tensor | None]:
    rows, inputs, outputs = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    x = torch.randn(*rows, inputs, generator=generator, device="cuda")
    own = torch.randn(outputs, inputs, generator=generator, device="cuda") / inputs**0.5
    if outputs > 1:
        own[0] = -own[0].abs()
    return {
        "x": (x if signed else x.abs()).to(dtype),
        "weight": (1.5 * own).to(dtype),
        "bias": torch.randn(outputs, generator=generator, device="cuda").to(dtype),
        "positive": own.clamp(min=0),
        "negative": own.clamp(max=0) if signed else None,
    }


def wide(tensors: dict) -> dict:
    return {name: tensor.double() if isinstance(tensor, Tensor) else tensor for name, tensor in tensors.items()}


def assert_near(actual: Tensor, expected: Tensor, unit: float) -> None:
    """Compare by two tolerances, in units of rounding: the largest error and the root mean square."""
    error = (actual.double() - expected).abs()
    assert not actual.isnan().any()
    assert error.max() <= 8 * unit * expected.abs().max()
    assert error.square().mean().sqrt() <= 2 * unit * expected.square().mean().sqrt().clamp(min=1e-30)


@SIGNS
@DTYPES
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
@EVERY_SHAPE
def test_forward(shape: tuple, reciprocal: bool, dtype: torch.dtype, signed: bool) -> None:
    tensors = problem(shape, signed, dtype)
    y, gate = ops.relevance_linear(*tensors.values(), "none", reciprocal)
    assert (y.dtype, gate.dtype) == (dtype, torch.float32)
    # y is judged by the reference; Q by the y that the kernel rounded and a Z of the reference's, and that closely:
    # 16-bit x and float32 weights lose nothing.
    expected, inverse = reference.relevance_linear(**wide(tensors), activation="none", reciprocal=True)
    scale = shape[1] ** 0.5
    assert_near(y, expected, torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * scale)
    assert_near(gate, inverse if reciprocal else y.double() * inverse, torch.finfo(torch.float32).eps * scale)


@DTYPES
@pytest.mark.parametrize("activation", ["relu", "relu6", "silu", "hardswish"])
def test_activations(activation: str, dtype: torch.dtype) -> None:
    tensors = problem(SHAPES["resnet50-33"], True, dtype)
    tensors["weight"] *= 3
    y, gate = ops.relevance_linear(*tensors.values(), activation, False)
    expected, _ = reference.relevance_linear(**wide(tensors), activation=activation, reciprocal=False)
    assert_near(y, expected, torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * 64)
    _, inverse = reference.relevance_linear(**wide(tensors), activation="none", reciprocal=True)
    assert_near(gate, y.double() * inverse, torch.finfo(torch.float32).eps * 64)


def test_tf32_where_it_is_allowed() -> None:
    tensors = problem(SHAPES["resnet50-33"], True, torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = True
    y, gate = ops.relevance_linear(*tensors.values(), "none", True)
    expected, inverse = reference.relevance_linear(**wide(tensors), activation="none", reciprocal=True)
    assert_near(y, expected, 2**-10)
    assert_near(gate, inverse, 2**-10)
    halves = (tensors["x"], tensors["positive"], tensors["negative"])
    signal = torch.rand_like(gate)
    g = ops.relevance_linear_backward(signal, gate, *halves)
    assert_near(
        g,
        reference.relevance_linear_backward(signal.double(), gate.double(), *[t.double() for t in halves]),
        2**-10,
    )


def way_back(shape: tuple, targets: int, signed: bool, dtype: torch.dtype) -> dict[str, Tensor | None]:
    tensors = problem(shape, signed, dtype)
    _, gate = ops.relevance_linear(*tensors.values(), "none", True)
    return {
        "gate": gate,
        "x": tensors["x"] if signed else None,
        "positive": tensors["positive"],
        "negative": tensors["negative"],
    }


@SIGNS
@DTYPES
@pytest.mark.parametrize("targets", [1, 5])
@EVERY_SHAPE
def test_backward(shape: tuple, targets: int, dtype: torch.dtype, signed: bool) -> None:
    tensors = way_back(shape, targets, signed, dtype)
    signal = torch.randn(targets * shape[0][0], *shape[0][1:], shape[2], device="cuda").to(dtype)
    g = ops.relevance_linear_backward(signal, *tensors.values())
    expected = reference.relevance_linear_backward(signal.double(), **wide(tensors))
    assert_near(g, expected, torch.finfo(torch.float32).eps * max(shape[2], 4) ** 0.5)


@SIGNS
@DTYPES
@SEEDS
@pytest.mark.parametrize("targets", [1, 5])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES.values() if len(shape[0]) == 1], ids=str)
def test_seeded(shape: tuple, targets: int, seed: str, dtype: torch.dtype, signed: bool) -> None:
    tensors = way_back(shape, targets, signed, dtype)
    logits = (3 * torch.randn(*shape[0], shape[2], device="cuda")).to(dtype)
    chosen = torch.randint(shape[2], (shape[0][0], targets), device="cuda")
    g = ops.relevance_linear_seeded(logits, chosen, *tensors.values(), seed)
    expected = reference.relevance_linear_seeded(logits.double(), chosen, **wide(tensors), seed=seed)
    assert_near(g, expected, torch.finfo(torch.float32).eps * max(shape[2], 4) ** 0.5)


@DTYPES
def test_repeated_runs_agree_bit_for_bit(dtype: torch.dtype) -> None:
    for shape in (SHAPES["resnet50-4"], SHAPES["vgg16-256"]):
        tensors, back = problem(shape, False, dtype), way_back(shape, 1, False, dtype)
        signal = torch.randn_like(back["gate"])
        targets = torch.zeros(shape[0][0], 2, dtype=torch.int64, device="cuda")

        def everything(
            tensors: dict = tensors, back: dict = back, signal: Tensor = signal, targets: Tensor = targets
        ) -> list[Tensor]:
            y, gate = ops.relevance_linear(*tensors.values(), "none", True)
            seeded = [ops.relevance_linear_seeded(y, targets, *back.values(), seed) for seed in ("clrp", "sglrp")]
            return [y, gate, ops.relevance_linear_backward(signal, *back.values()), *seeded]

        first = everything()
        for _ in range(10):
            assert all(torch.equal(a, b) for a, b in zip(everything(), first, strict=True))


def test_every_element_is_written() -> None:
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        for shape in SHAPES.values():
            tensors, back = problem(shape, True, torch.bfloat16), way_back(shape, 1, True, torch.bfloat16)
            y, gate = ops.relevance_linear(*tensors.values(), "relu", False)
            assert not y.isnan().any()
            assert not gate.isnan().any()
            assert not ops.relevance_linear_backward(torch.randn_like(gate), *back.values()).isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


def test_float64_is_the_references() -> None:
    tensors = wide(problem(SHAPES["odd"], True, torch.float32))
    y, gate = ops.relevance_linear(*tensors.values(), "relu", False)
    expected = reference.relevance_linear(**tensors, activation="relu", reciprocal=False)
    assert torch.equal(y, expected[0])
    assert torch.equal(gate, expected[1])


def test_offsets_beyond_32_bits() -> None:
    # Rows of x 2^30 elements apart; weights of more than 2^31 elements, on the way back too.
    memory = torch.zeros(2**31 + 2**21, dtype=torch.float16, device="cuda")
    x = memory.as_strided((3, 64), (2**30, 1))
    tensors = problem(((3,), 64, 24), False, torch.float16)
    x.copy_(tensors["x"])
    expected = ops.relevance_linear(*tensors.values(), "none", False)
    actual = ops.relevance_linear(*{**tensors, "x": x}.values(), "none", False)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    del memory, x, tensors

    inputs, outputs = 2**20, 2**11 + 1
    positive = torch.zeros(outputs, inputs, device="cuda")
    positive[0], positive[-1] = torch.rand(2, inputs, device="cuda")
    gate = torch.zeros(1, outputs, device="cuda")
    gate[0, 0], gate[0, -1] = 2.0, 3.0
    g = ops.relevance_linear_backward(torch.ones_like(gate), gate, None, positive, None)
    torch.testing.assert_close(g[0], 2 * positive[0] + 3 * positive[-1])
    logits, targets = torch.ones_like(gate), torch.tensor([[outputs - 1]], device="cuda")
    g = ops.relevance_linear_seeded(logits, targets, gate, None, positive, None, "clrp")
    torch.testing.assert_close(g[0], 3 * positive[-1] - 2 * positive[0] / (outputs - 1))


def test_opcheck() -> None:
    tensors, back = problem(SHAPES["odd"], True, torch.bfloat16), way_back(SHAPES["odd"], 1, True, torch.bfloat16)
    torch.library.opcheck(ops.relevance_linear, (*tensors.values(), "relu", False))
    torch.library.opcheck(ops.relevance_linear_backward, (torch.randn_like(back["gate"]), *back.values()))
    targets = torch.zeros(7, 2, dtype=torch.int64, device="cuda")
    logits = torch.randn_like(back["gate"])
    torch.library.opcheck(ops.relevance_linear_seeded, (logits, targets, *back.values(), "clrp"))


def test_in_a_cuda_graph() -> None:
    tensors = problem(SHAPES["resnet50-4"], False, torch.bfloat16)
    targets = torch.zeros(4, 1, dtype=torch.int64, device="cuda")

    def both() -> tuple[Tensor, ...]:
        y, gate = ops.relevance_linear(*tensors.values(), "none", True)
        g = ops.relevance_linear_seeded(y, targets, gate, None, tensors["positive"], None, "clrp")
        return y, gate, g

    both()  # compiles outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = both()
    tensors["x"].copy_(torch.rand_like(tensors["x"]))
    targets.fill_(17)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, both(), strict=True))


def test_the_backend_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastcam_kernels import relevance_linear as kernel

    calls = []
    original = kernel.relevance_linear
    monkeypatch.setattr(kernel, "relevance_linear", lambda *args, **keys: calls.append(1) or original(*args, **keys))
    tensors = problem(SHAPES["odd"], False, torch.float32)
    ops.relevance_linear(*tensors.values(), "none", False)
    with use_backend("reference"):
        ops.relevance_linear(*tensors.values(), "none", False)
    assert calls == [1]
