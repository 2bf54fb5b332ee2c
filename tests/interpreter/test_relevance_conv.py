"""The z+ convolution's kernels in the interpreter, against the reference.

Outputs start as NaN: what is not written shows.
"""

import json
import mmap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam_kernels import relevance_conv as kernel
from fastcam_kernels import tuning
from fastcam_kernels.relevance_conv import Geometry
from fastcam_kernels.tuning import Choice
from tests.ops.contributions import Geometry as Case
from tests.ops.test_relevance_conv import ACTIVATIONS, CASES, SIGNS, draw, halves, problem

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
SHARE = 1e-6
# Big blocks: the interpreter's time goes by steps, not by elements.
BIG = Choice("triton", positions=64, outputs=16, channels=64)
COMPOSITION = Choice("composition")
ALGORITHMS = pytest.mark.parametrize("choice", [BIG, COMPOSITION], ids=["triton", "composition"])


def of(case: Case) -> Geometry:
    return Geometry(case.stride, case.padding, case.dilation, case.groups)


def tensors(case: str, signed: bool) -> tuple[list[Tensor | None], Case]:
    """x, weight, bias, W+, W- in float32, and the geometry."""
    x, weight, folded, bias, _, geometry = problem(case, signed)
    return [None if t is None else t.float() for t in (x, folded, bias, *halves(weight, signed))], geometry


def run(
    operands: list[Tensor | None],
    geometry: Case,
    residual: Tensor | None = None,
    activation: str = "relu",
    reciprocal: bool = False,
    choice: Choice | None = BIG,
) -> tuple[Tensor, Tensor]:
    return kernel.relevance_conv(
        *operands, residual, of(geometry), activation, reciprocal, zero_share=SHARE, choice=choice
    )


def assert_equals_the_reference(
    operands: list[Tensor | None],
    geometry: Case,
    residual: Tensor | None = None,
    activation: str = "relu",
    reciprocal: bool = False,
    choice: Choice | None = BIG,
) -> tuple[Tensor, Tensor]:
    wide = [None if t is None else t.double() for t in (*operands, residual)]
    expected_y, expected_q = reference.relevance_conv(*wide, *geometry.arguments(), activation, reciprocal)
    y, q = run(operands, geometry, residual, activation, reciprocal, choice)
    assert (y.dtype, q.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(y.double(), expected_y, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(q.double(), expected_q, rtol=1e-5, atol=2e-5, equal_nan=True)
    return y, q


@SIGNS
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_the_reference(case: str, signed: bool) -> None:
    y, q = assert_equals_the_reference(*tensors(case, signed))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert q.is_contiguous(memory_format=torch.channels_last)


@SIGNS
@pytest.mark.parametrize("case", ["1x1-stride-2", "3x3", "3x3-groups", "3x3-depthwise", "3x3-depthwise-multiplier"])
def test_composition_equals_the_reference(case: str, signed: bool) -> None:
    assert_equals_the_reference(*tensors(case, signed), choice=COMPOSITION)


@ALGORITHMS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, choice: Choice) -> None:
    operands, geometry = tensors("2x2", signed=False)
    operands[1] = 6 * operands[1]  # past relu6's and hardswish's bends
    y, _ = assert_equals_the_reference(operands, geometry, activation=activation, choice=choice)
    assert y.max() > 5.9


@ALGORITHMS
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("case", ["1x1", "3x3-stride-2", "3x3-depthwise"])
def test_a_residual(case: str, activation: str, choice: Choice) -> None:
    operands, geometry = tensors(case, signed=case == "1x1")
    c = torch.nn.functional.conv2d(*operands[:3], *geometry.arguments())
    residual = draw(*c.shape, seed=7).float()
    if case == "3x3-depthwise":
        residual = residual.contiguous(memory_format=torch.channels_last)
    y, q = assert_equals_the_reference(operands, geometry, residual, activation, choice=choice)
    if activation == "relu":
        assert (y == 0).any()
        assert (q[y == 0] == 0).all()


@ALGORITHMS
@SIGNS
def test_the_reciprocal(signed: bool, choice: Choice) -> None:
    assert_equals_the_reference(*tensors("2x2", signed), reciprocal=True, choice=choice)


@ALGORITHMS
def test_no_bias(choice: Choice) -> None:
    operands, geometry = tensors("1x1-groups", signed=False)
    operands[2] = None
    assert_equals_the_reference(operands, geometry, choice=choice)


def layer(channels: int, outputs: int, size: tuple[int, int], kernel: int, case: Case, batch: int = 2) -> list[Tensor]:
    """x >= 0, weight, bias, W+, None, drawn at random."""
    weight = draw(outputs, channels // case.groups, kernel, kernel, seed=1).float()
    x = draw(batch, channels, *size, seed=2).clamp(min=0).float()
    return [x, weight, draw(outputs, seed=3).float(), weight.clamp(min=0), None]


CUT = {
    # C, K, size, kernel, geometry, choice
    "several-blocks-of-all": (40, 36, (3, 5), 1, Case(), Choice("triton", 16, 16, 16)),
    "several-blocks-of-taps": (20, 36, (4, 5), 2, Case(), Choice("triton", 16, 16, 16)),
    "steps-through-few-channels": (3, 20, (5, 5), 3, Case(padding=(1, 1)), Choice("triton", 16, 16, 16)),
    "wide-groups": (40, 60, (3, 3), 1, Case(groups=2), Choice("triton", 32, 16, 16)),
    "packed-groups-with-some-left": (15, 25, (3, 3), 2, Case(groups=5), Choice("triton", 32, 16, 16)),
    "packed-groups-of-one-output": (24, 8, (3, 3), 1, Case(groups=8), Choice("triton", 32, 16, 16)),
    "depthwise": (20, 20, (4, 3), 2, Case(groups=20), Choice("triton", 16, 8, 1)),
    "depthwise-multiplier": (7, 21, (4, 3), 2, Case(groups=7), Choice("triton", 16, 8, 1)),
    "one-input-channel": (1, 5, (4, 4), 3, Case(), Choice("triton", 16, 16, 16)),
    "fifteen-channels-one-tap": (15, 5, (4, 4), 1, Case(), Choice("triton", 64, 16, 16)),
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT.keys())
def test_how_the_work_is_cut_makes_no_difference(cut: tuple) -> None:
    channels, outputs, size, side, case, choice = cut
    assert_equals_the_reference(layer(channels, outputs, size, side, case), case, choice=choice)


LAYERS = {
    "1x1": (8, 8, (5, 4), 1, Case()),
    "3x3": (4, 4, (4, 4), 3, Case(padding=(1, 1))),
    "depthwise": (6, 6, (4, 4), 3, Case(padding=(1, 1), groups=6)),
    "groups": (8, 8, (4, 4), 2, Case(groups=4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_default_choice(kind: str) -> None:
    channels, outputs, size, side, case = LAYERS[kind]
    operands = layer(channels, outputs, size, side, case)
    assert_equals_the_reference(operands, case, choice=None)


def slice_of_channels(x: Tensor) -> Tensor:
    wide = torch.full((x.shape[0], x.shape[1] + 3, *x.shape[2:]), torch.nan).to(memory_format=torch.channels_last)
    view = wide[:, 1 : 1 + x.shape[1]]
    return view.copy_(x)


LAYOUTS = {
    "nchw": Tensor.contiguous,
    "nhwc": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice-of-channels": slice_of_channels,
    "every-other-row": lambda x: torch.stack([x, x * torch.nan], dim=3).flatten(2, 3)[:, :, ::2],
    "one-image-repeated": lambda x: x[:1].expand(x.shape),
}


@ALGORITHMS
@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(layout: object, kind: str, choice: Choice) -> None:
    channels, outputs, size, side, case = LAYERS[kind]
    operands = layer(channels, outputs, size, side, case)
    operands[0] = layout(operands[0])
    assert_equals_the_reference(operands, case, choice=choice)
    if kind == "3x3":
        last = [None if t is None or t.ndim < 4 else t.contiguous(memory_format=torch.channels_last) for t in operands]
        assert_equals_the_reference([operands[0], last[1], operands[2], last[3], None], case, choice=choice)


def graded(signed: bool) -> tuple[list[Tensor | None], Tensor]:
    """Z = 1e3 and 1e-9 times shares of 0.5, 2 and 0 floors, 1: 5 positions an image, so that blocks hold several."""
    shares = torch.tensor([1.0, 2 * SHARE, 0.5 * SHARE, 0.0, 0.25 * SHARE])
    z = torch.stack([1e3 * shares, 1e-9 * shares, 7.0 * shares.flip(0), 0 * shares])
    x = torch.zeros(4, 16, 1, 5)
    x[:, 3, 0] = -z if signed else z
    weight = torch.zeros(2, 16, 1, 1)
    weight[:, 3] = torch.tensor([1.0, 0.5]).view(2, 1, 1) * (-1 if signed else 1)
    operands = [x, weight, torch.tensor([3.0, 2.0]), weight.clamp(min=0), weight.clamp(max=0) if signed else None]
    return operands, z.view(4, 1, 1, 5) * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)


@ALGORITHMS
@SIGNS
@pytest.mark.parametrize("positions", [16, 4], ids=["images-share-a-block", "blocks-share-an-image"])
@pytest.mark.parametrize("form", ["gate", "reciprocal", "residual"])
def test_the_threshold_is_relative_to_each_image(form: str, positions: int, signed: bool, choice: Choice) -> None:
    operands, z = graded(signed)
    if choice is not COMPOSITION:
        choice = Choice("triton", positions=max(16, positions), outputs=16, channels=16)
    if positions == 4:  # 5 positions in 2 blocks
        operands[0], z = operands[0].repeat(1, 1, 4, 1), z.repeat(1, 1, 4, 1)
    residual = torch.full_like(z, 0.25) if form == "residual" else None
    reciprocal = form == "reciprocal"
    y, q = run(operands, Case(), residual, "none", reciprocal, choice)
    numerator = torch.ones_like(z) if reciprocal else y - (0.25 if form == "residual" else 0)
    counts = z > SHARE * z.amax(dim=(1, 2, 3), keepdim=True)
    # In the channel of half the weights, 2 floors are the floor itself.
    sure = ~torch.isclose(z, SHARE * z.amax(dim=(1, 2, 3), keepdim=True), rtol=1e-3, atol=0)
    assert not q.isnan().any()
    assert (q[sure & ~counts] == 0).all()
    torch.testing.assert_close(q[sure & counts], (numerator / z)[sure & counts], rtol=1e-5, atol=0)
    assert (sure & counts).any(dim=(1, 2, 3)).tolist() == [True, True, True, False]


@ALGORITHMS
def test_an_image_behind_a_fainter_one_in_its_block(choice: Choice) -> None:
    x = torch.zeros(3, 16, 1, 5)
    x[0, 0] = 1e-9  # no residue beside its own largest
    x[1, 0, 0] = torch.tensor([1, 1e-7, 0.5, 1e-7, 0.5])
    weight = torch.ones(1, 16, 1, 1)
    _, q = run([x, weight, None, weight, None], Case(), choice=choice)
    assert q[:, 0, 0].tolist() == [[1] * 5, [1, 0, 1, 0, 1], [0] * 5]


def test_one_program_looks_after_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "processors", lambda device: 1)
    x = torch.zeros(3, 16, 8, 8)
    x[:, 0] = 1
    x[1, 0, 0, 0] = 1e8  # all others of image 1 are residues
    weight = torch.ones(2, 16, 1, 1)
    choice = Choice("triton", positions=16, outputs=16, channels=16)
    operands = [x, weight, None, weight, None]
    launches, _ = kernel.plan(*operands, None, of(Case()), "relu", False, zero_share=SHARE, tf32=False, choice=choice)
    assert launches[1].constants["BLOCKS_PER_PROGRAM"] == 2
    _, q = run(operands, Case(), choice=choice)
    expected = torch.ones(3, 2, 8, 8)
    expected[1] = 0
    expected[1, :, 0, 0] = 1
    assert torch.equal(q, expected)


@ALGORITHMS
@pytest.mark.parametrize("kind", ["3x3", "depthwise"])
@SIGNS
def test_nan_is_not_hidden(signed: bool, kind: str, choice: Choice) -> None:
    channels, outputs, size, side, case = LAYERS[kind]
    operands = layer(channels, outputs, size, side, case)
    operands[4] = operands[1].clamp(max=0) if signed else None
    operands[0][1, 2, 0, 0] = torch.nan
    y, q = run(operands, case, activation="relu6", choice=choice)
    expected_y, expected_q = reference.relevance_conv(*operands, None, *case.arguments(), "relu6", False)
    torch.testing.assert_close(y, expected_y, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert y[1].isnan().any()
    assert q[y.isnan()].isnan().all()
    torch.testing.assert_close(q[0], expected_q[0], rtol=1e-5, atol=2e-5)


@ALGORITHMS
def test_no_images(choice: Choice) -> None:
    operands = layer(4, 6, (5, 5), 3, Case(), batch=0)
    y, q = run(operands, Case(), choice=choice)
    assert y.shape == q.shape == (0, 6, 3, 3)


def test_float16() -> None:
    operands = [None if t is None else t.half() for t in layer(8, 8, (5, 4), 1, Case())]
    y, q = run(operands, Case())
    assert (y.dtype, q.dtype) == (torch.float16, torch.bfloat16)
    wide = [None if t is None else t.double() for t in operands]
    expected_y, expected_q = reference.relevance_conv(*wide, None, *Case().arguments(), "relu", False)
    torch.testing.assert_close(y.double(), expected_y, rtol=2**-10, atol=1e-4)
    # The interpreter cuts bfloat16 off where a device rounds.
    torch.testing.assert_close(q.double(), expected_q, rtol=2**-6, atol=1e-3)


@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
def test_offsets_beyond_32_bits(kind: str) -> None:
    # Address space alone, of which a few pages are touched. Strides that fit 32 bits, offsets that do not.
    channels, outputs, _, side, case = LAYERS[kind]
    reserved = mmap.mmap(
        -1, 4 * (2**31 + 2**12), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    memory = torch.frombuffer(reserved, dtype=torch.float32)
    operands = layer(channels, outputs, (3, 3), side, case, batch=3)
    if kind == "1x1":  # one row of one image: its positions are counted through, from stride to stride
        row = operands[0][:1, :, :1]
        apart = memory.as_strided(row.shape, (64, 1, 64, 2**30)).copy_(row)
        torch.testing.assert_close(run([apart, *operands[1:]], case), run([row, *operands[1:]], case), rtol=0, atol=0)
    for strides in ((2**30, 1, 3 * channels, channels), (64, 1, 2**30, channels), (64, 1, channels, 2**30)):
        x = memory.as_strided(operands[0].shape, strides)
        x.copy_(operands[0])
        expected = run(operands, case)
        actual = run([x, *operands[1:]], case)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_runs_agree_bit_for_bit() -> None:
    operands, geometry = tensors("3x3", signed=True)
    first = run(operands, geometry)
    assert all(torch.equal(a, b) for a, b in zip(run(operands, geometry), first, strict=True))


def test_the_devices_table_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channels, outputs, size, side, case = LAYERS["1x1"]
    operands = layer(channels, outputs, size, side, case)
    described = kernel.describe(operands[0], operands[1], of(case), tf32=False, signed=False)
    table = {described.key("relevance_conv"): {"algorithm": "triton", "positions": 16, "outputs": 16, "channels": 16}}
    (tmp_path / "cpu.json").write_text(json.dumps(table))
    monkeypatch.setattr(tuning, "TABLES", tmp_path)
    planned = []
    plan = kernel.plan
    monkeypatch.setattr(kernel, "plan", lambda *a, **k: planned.append(k["choice"]) or plan(*a, **k))
    assert_equals_the_reference(operands, case, choice=None)
    assert planned == [Choice("triton", 16, 16, 16)]
    # Twice as many images are another entry, which the table lacks: the default for full float32 composes.
    more = [operands[0].repeat(2, 1, 1, 1), *operands[1:]]
    assert_equals_the_reference(more, case, choice=None)
    assert len(planned) == 1


X, W = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)
GEOMETRY = Geometry((1, 1), (0, 0), (1, 1), 1)
GROUPS = Geometry((1, 1), (0, 0), (1, 1), 3)
ROOM = torch.zeros(2, 6, 3, 3)
BAD = {
    # x, weight, bias, positive, negative, residual, geometry, activation, reciprocal
    "x-3d": ((X[0], W, None, W, None, None, GEOMETRY, "relu", False), ValueError, r"x has shape \(4, 5, 5\)"),
    "empty": (
        (X[:, :, :0], W, None, W, None, None, GEOMETRY, "relu", False),
        ValueError,
        r"x has shape \(2, 4, 0, 5\)",
    ),
    "float64": ((X.double(), W, None, W, None, None, GEOMETRY, "relu", False), TypeError, "x is torch.float64"),
    "weight-dtype": ((X, W.half(), None, W, None, None, GEOMETRY, "relu", False), TypeError, "weight is torch.float16"),
    "positive-dtype": (
        (X, W, None, W.bfloat16(), None, None, GEOMETRY, "relu", False),
        TypeError,
        "positive is torch.bfloat16; with torch.float32",
    ),
    "negative-dtype": (
        (X.half(), W.half(), None, W.half(), W.bfloat16(), None, GEOMETRY, "relu", False),
        TypeError,
        "negative is torch.bfloat16; torch.float16, as positive",
    ),
    "weight-channels": (
        (X, W[:, :3], None, W, None, None, GEOMETRY, "relu", False),
        ValueError,
        r"weight has shape \(6, 3, 3, 3\); \(K, 4, kh, kw\)",
    ),
    "groups": ((X, W, None, W, None, None, GROUPS, "relu", False), ValueError, "groups is 3; a divisor of the 4"),
    "positive-shape": (
        (X, W, None, W[:3], None, None, GEOMETRY, "relu", False),
        ValueError,
        r"positive has shape \(3, 4, 3, 3\); that of weight",
    ),
    "negative-shape": ((X, W, None, W, W[:3], None, GEOMETRY, "relu", False), ValueError, "negative has shape"),
    "bias-shape": ((X, W, torch.zeros(5), W, None, None, GEOMETRY, "relu", False), ValueError, r"bias .*\(6,\) is"),
    "bias-dtype": ((X, W, torch.zeros(6).double(), W, None, None, GEOMETRY, "relu", False), TypeError, "bias is"),
    "residual-shape": (
        (X, W, None, W, None, X, GEOMETRY, "relu", False),
        ValueError,
        r"residual has shape \(2, 4, 5, 5\); that of the output, \(2, 6, 3, 3\)",
    ),
    "residual-dtype": (
        (X, W, None, W, None, ROOM.half(), GEOMETRY, "relu", False),
        TypeError,
        "residual is torch.float16; torch.float32",
    ),
    "residual-relu6": (
        (X, W, None, W, None, ROOM, GEOMETRY, "relu6", False),
        ValueError,
        "a residual takes activation 'none' or 'relu' and no reciprocal",
    ),
    "residual-reciprocal": ((X, W, None, W, None, ROOM, GEOMETRY, "relu", True), ValueError, "reciprocal=True"),
    "activation": (
        (X, W, None, W, None, None, GEOMETRY, "gelu", False),
        ValueError,
        "activation: 'gelu' given, one of",
    ),
    "too-small": (
        (X[:, :, :2], W, None, W, None, None, GEOMETRY, "relu", False),
        ValueError,
        r"x has shape \(2, 4, 2, 5\): smaller",
    ),
    "stride": (
        (X, W, None, W, None, None, Geometry((0, 1), (0, 0), (1, 1), 1), "relu", False),
        ValueError,
        r"stride is \(0, 1\); two numbers of at least 1",
    ),
    "padding": (
        (X, W, None, W, None, None, Geometry((1, 1), (0, -1), (1, 1), 1), "relu", False),
        ValueError,
        r"padding is \(0, -1\); two numbers of at least 0",
    ),
    "too-many-positions": (
        (X[:1, :, :1, :1].expand(1, 4, 2**16, 2**16), W, None, W, None, None, GEOMETRY, "relu", False),
        ValueError,
        "65534 x 65534 positions of the output",
    ),
    "devices": ((X, W, None, W.to("meta"), None, None, GEOMETRY, "relu", False), ValueError, "positive is on meta"),
    "bias-device": (
        (X, W, torch.zeros(6).to("meta"), W, None, None, GEOMETRY, "relu", False),
        ValueError,
        "bias is on",
    ),
    "meta": (
        (X.to("meta"), W.to("meta"), None, W.to("meta"), None, None, GEOMETRY, "relu", False),
        ValueError,
        "run on CUDA devices; the tensors are on meta",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernel.relevance_conv(*arguments, zero_share=SHARE)


def test_joined_weights_are_kept_until_they_change() -> None:
    first, second = draw(4, 2, 3, 3, seed=1), draw(4, 2, 3, 3, seed=2)
    made = kernel.joined(first, second, dim=0, groups=2)
    assert torch.equal(made, torch.cat([first[:2], second[:2], first[2:], second[2:]]))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert kernel.joined(first, second, dim=0, groups=2) is made
    assert kernel.joined(first, second, dim=0, groups=1) is not made
    assert torch.equal(kernel.joined(first, second, dim=1, groups=1), torch.cat([first, second], dim=1))
    second.mul_(2)
    assert torch.equal(kernel.joined(first, second, dim=1, groups=1), torch.cat([first, second], dim=1))
    first.mul_(2)
    assert torch.equal(kernel.joined(first, second, dim=1, groups=1), torch.cat([first, second], dim=1))
    assert torch.equal(kernel.joined(first, second, dim=0, groups=1), torch.cat([first, second]))
    other = draw(4, 2, 3, 3, seed=3)
    assert torch.equal(kernel.joined(first, other, dim=0, groups=1), torch.cat([first, other]))
    kept = len(kernel._joined)
    del first
    assert len(kernel._joined) == kept - 1


def test_joined_weights_of_inference_mode_are_not_kept() -> None:
    with torch.inference_mode():
        first, second = torch.ones(2, 2, 1, 1), torch.ones(2, 2, 1, 1)
        kernel.joined(first, second, dim=0, groups=1)
        second.mul_(2)
        assert torch.equal(kernel.joined(first, second, dim=0, groups=1), torch.cat([first, second]))
