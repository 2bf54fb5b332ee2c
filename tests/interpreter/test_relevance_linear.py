"""The forward kernels in the interpreter, against the reference. Outputs start as NaN: what is not written shows."""

import mmap
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam_kernels import relevance_linear as kernel

SIGNS = pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
ZERO_SHARE = 1e-6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(shape: tuple[int, ...], outputs: int, signed: bool) -> dict[str, Tensor | None]:
    x = draw(*shape, seed=1)
    weight = draw(outputs, shape[-1], seed=2)
    # A batch norm folded in, so that W+ is not that of `weight`; an output with no positive weight: Z = 0.
    own = -weight
    own[0] = -own[0].abs()
    return {
        "x": x if signed else x.abs(),
        "weight": weight,
        "bias": draw(outputs, seed=3),
        "positive": own.clamp(min=0),
        "negative": own.clamp(max=0) if signed else None,
    }


def run(tensors: dict, activation: str = "none", reciprocal: bool = False, **changes) -> tuple[Tensor, Tensor]:
    config = None
    if changes:
        x, (outputs, inputs) = tensors["x"], tensors["weight"].shape
        config = kernel.default_config(
            images=x.shape[0],
            rows=x.numel() // inputs,
            outputs=outputs,
            inputs=inputs,
            exact=x.dtype == torch.float32,
            signed=tensors["negative"] is not None,
            multiprocessors=132,
        )
        config = replace(config, **changes)
    return kernel.relevance_linear(
        **tensors, activation=activation, reciprocal=reciprocal, zero_share=ZERO_SHARE, config=config
    )


def assert_equals_reference(
    actual: tuple[Tensor, Tensor], tensors: dict, activation: str = "none", reciprocal: bool = False
) -> None:
    wide = {name: tensor if tensor is None else tensor.double() for name, tensor in tensors.items()}
    y, gate = reference.relevance_linear(**wide, activation=activation, reciprocal=reciprocal)
    # The reference's threshold for float64 is another; Z itself, from a reciprocal gate, tells what is below this one.
    _, inverse = reference.relevance_linear(**wide, activation=activation, reciprocal=True)
    z = torch.where(inverse == 0, 0.0, 1 / inverse)
    largest = z.flatten(1).amax(dim=1).view(-1, *[1] * (z.dim() - 1))
    gate = torch.where(z <= ZERO_SHARE * largest, 0.0, gate)
    assert actual[0].dtype == tensors["x"].dtype
    assert actual[1].dtype == torch.float32
    assert actual[0].is_contiguous()
    assert actual[1].is_contiguous()
    scale = y.abs().max()
    torch.testing.assert_close(actual[0].double(), y, rtol=1e-5, atol=2e-6 * scale.item())
    torch.testing.assert_close(actual[1].double(), gate, rtol=1e-5, atol=2e-6 * gate.abs().max().item())


SHAPES = {
    # rows multiplied elementwise, then by matrix products; lengths that fill no block
    "one-row": ((1, 37), 19),
    "one-of-each": ((1, 1), 1),
    "three-rows": ((3, 150), 70),
    "nine-rows": ((9, 40), 70),
    "seventy-rows": ((70, 33), 5),
    "positions": ((2, 3, 24), 9),
}


@SIGNS
@pytest.mark.parametrize("reciprocal", [False, True], ids=["gate", "reciprocal"])
@pytest.mark.parametrize(("shape", "outputs"), SHAPES.values(), ids=SHAPES.keys())
def test_kernel_equals_the_reference(shape: tuple[int, ...], outputs: int, reciprocal: bool, signed: bool) -> None:
    tensors = problem(shape, outputs, signed)
    assert_equals_reference(run(tensors, "none", reciprocal), tensors, "none", reciprocal)


@pytest.mark.parametrize("with_bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("activation", kernel.ACTIVATIONS)
def test_activations(activation: str, with_bias: bool) -> None:
    tensors = problem((2, 3, 24), 9, True)
    tensors["weight"] = 3 * tensors["weight"]  # beyond 6, where relu6 and hardswish bend
    if not with_bias:
        tensors["bias"] = None
    assert_equals_reference(run(tensors, activation), tensors, activation)


CUTS = {
    "parts": {"inputs": 16, "parts": 3},
    "parts-of-vectors": {"inputs": 16, "parts": 3, "vector": True, "rows": 4, "outputs": 4},
    "a-short-last-part": {"inputs": 16, "parts": 2},
    "small-blocks": {"rows": 16, "outputs": 16, "inputs": 16},
    "gate-in-steps": {"elements": 16, "programs_per_image": 1},
    "gate-in-programs": {"elements": 16, "programs_per_image": 3},
    "more-programs-than-steps": {"elements": 64, "programs_per_image": 4},
}


@SIGNS
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_how_the_work_is_cut_makes_no_difference(cut: dict, signed: bool) -> None:
    tensors = problem((3, 2, 40), 21, signed)
    assert_equals_reference(run(tensors, "relu", **cut), tensors, "relu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [2, 6], ids=["vector", "split"])
@SIGNS
def test_16_bit_inputs_lose_nothing_of_float32_weights(dtype: torch.dtype, rows: int, signed: bool) -> None:
    tensors = problem((rows, 40), 21, signed)
    tensors["x"] = tensors["x"].to(dtype)
    y, gate = run(tensors, "none", reciprocal=True)
    assert y.dtype == dtype
    wide = {name: tensor if tensor is None else tensor.double() for name, tensor in tensors.items()}
    expected_y, expected_gate = reference.relevance_linear(**wide, activation="none", reciprocal=True)
    torch.testing.assert_close(gate.double(), expected_gate, rtol=2e-6, atol=0)
    # The interpreter cuts numbers off where the device rounds them.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected_y, rtol=eps, atol=eps)


def test_the_gate_is_that_of_the_rounded_activation() -> None:
    tensors = problem((6, 40), 21, False)
    tensors["x"] = tensors["x"].half()
    y, gate = run(tensors)
    _, inverse = run(tensors, reciprocal=True)
    torch.testing.assert_close(gate, y.float() * inverse, rtol=1e-6, atol=0)


def test_a_small_denominator_counts_against_its_own_image() -> None:
    x = torch.zeros(2, 2, 40)
    x[0, 0, 0], x[0, 1, 0], x[1, 0, 0], x[1, 1, 0] = 1.0, 1e-3, 1e-9, 1e-9
    weight = torch.zeros(3, 40)
    weight[:, 0] = torch.tensor([1.0, 5e-7, 2e-4])
    tensors = {"x": x, "weight": weight, "bias": None, "positive": weight, "negative": None}
    for changes in ({}, {"elements": 16, "programs_per_image": 2}, {"elements": 1, "programs_per_image": 3}):
        _, gate = run(tensors, **changes)
        # At the second position of the first image Z is 1e-3 of the first's.
        expected = [[[True, False, True], [True, False, False]], [[True, False, True], [True, False, True]]]
        assert (gate != 0).tolist() == expected
        torch.testing.assert_close(gate[gate != 0], torch.ones(7))


def test_a_logit_of_zero_keeps_its_reciprocal() -> None:
    x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, -1.0]])
    tensors = {"x": x, "weight": weight, "bias": None, "positive": weight.clamp(min=0), "negative": None}
    y, gate = run(tensors, reciprocal=True)
    assert (y.item(), gate.item()) == (0.0, 0.5)


def test_an_image_without_positive_inputs_has_a_gate_of_zeros() -> None:
    tensors = problem((6, 40), 21, False)
    tensors["x"][2] = 0
    for reciprocal in (False, True):
        _, gate = run(tensors, "none", reciprocal)
        assert gate[2].eq(0).all()
        assert gate.isfinite().all()


@pytest.mark.parametrize("rows", [2, 6], ids=["vector", "matrix"])
def test_nan_is_not_hidden_and_stays_in_its_image(rows: int) -> None:
    tensors = problem((rows, 40), 21, True)
    tensors["x"][1, 7] = torch.nan
    y, gate = run(tensors, "relu")
    assert y[1].isnan().all()
    assert gate[1].isnan().all()
    assert not y[0].isnan().any()
    assert not gate[0].isnan().any()


def test_no_threshold_holds_beside_a_nan() -> None:
    tensors = problem((2, 2, 24), 9, False)
    tensors["x"][0, 0, 7] = torch.nan
    tensors["bias"] = tensors["bias"].abs() + 10  # a > 0 over Z = 0 at the first output
    _, gate = run(tensors, "relu")
    _, expected = reference.relevance_linear(**tensors, activation="relu", reciprocal=False)
    assert gate[0, 1, 0] == torch.inf
    torch.testing.assert_close(gate, expected, rtol=1e-5, atol=0, equal_nan=True)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def between(tensor: Tensor) -> Tensor:
    """Return the same values with rows that do not follow each other."""
    wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), torch.nan)
    wide[..., 2 : 2 + tensor.shape[-1]] = tensor
    return wide[..., 2 : 2 + tensor.shape[-1]]


@pytest.mark.parametrize("layout", [transposed, between], ids=["transposed", "rows-apart"])
@pytest.mark.parametrize("shape", [(3, 24), (9, 24), (3, 2, 24)], ids=str)
def test_layouts(shape: tuple[int, ...], layout: object) -> None:
    tensors = problem(shape, 9, True)
    strange = {name: layout(tensor) if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    assert_equals_reference(run(strange), tensors)


def test_no_images() -> None:
    y, gate = run(problem((0, 24), 9, False))
    assert (y.shape, gate.shape) == ((0, 9), (0, 9))


def test_offsets_beyond_32_bits() -> None:
    # Address space alone, of which a few pages are touched.
    reserved = mmap.mmap(
        -1, 2 * (2**31 + 64), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    x = torch.frombuffer(reserved, dtype=torch.float16).as_strided((3, 24), (2**30, 1))
    tensors = problem((3, 24), 9, False)
    x.copy_(tensors["x"])
    near = {**tensors, "x": x.clone()}
    for changes in ({}, {"vector": False, "rows": 16, "outputs": 16, "inputs": 32}):
        actual, expected = run({**tensors, "x": x}, **changes), run(near, **changes)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


X, W, B = torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3)
BAD = {
    "x-1d": ({"x": X[0]}, ValueError, r"x has shape \(4,\)"),
    "no-inputs": ({"x": X[:, :0], "weight": W[:, :0]}, ValueError, r"x has shape \(2, 0\)"),
    "other-inputs": ({"weight": W[:, :3]}, ValueError, r"weight has shape \(3, 3\).*must be \(K, 4\)"),
    "no-outputs": ({"weight": W[:0]}, ValueError, r"weight has shape \(0, 4\)"),
    "positive": ({"positive": W[:2]}, ValueError, r"positive has shape \(2, 4\); it must be that of weight, \(3, 4\)"),
    "negative": ({"negative": W[:2]}, ValueError, r"negative has shape \(2, 4\)"),
    "bias": ({"bias": B[:2]}, ValueError, r"bias has shape \(2,\); it must be \(3,\)"),
    "activation": ({"activation": "tanh"}, ValueError, "'tanh' given, one of 'none', 'relu'"),
    "double": ({"x": X.double()}, TypeError, "x is torch.float64; the kernel takes float32, float16 and bfloat16"),
    "integers": ({"weight": W.int()}, TypeError, "weight is torch.int32"),
    "devices": ({"positive": W.to("meta")}, ValueError, "x is on cpu and positive on meta"),
    "meta": (
        {"x": X.to("meta"), "weight": W.to("meta"), "positive": W.to("meta"), "bias": None},
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
    "an-image-too-large": (
        {"x": X[:, :1].expand(2, 4).as_strided((1, 2**30, 4), (0, 0, 1))},
        ValueError,
        "results of one image",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    good = {"x": X, "weight": W, "bias": B, "positive": W, "negative": None, "activation": "relu", "reciprocal": False}
    with pytest.raises(error, match=message):
        kernel.relevance_linear(**{**good, **change}, zero_share=ZERO_SHARE)
