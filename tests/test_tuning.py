"""Choices of algorithm and block sizes: tables, their errors, and the computed default."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastcam_kernels import tuning
from fastcam_kernels.relevance_conv import default_choice
from fastcam_kernels.tuning import Choice, Layer, choose

CPU = torch.device("cpu")
LAYER = Layer(
    dtype=torch.bfloat16,
    batch=48,
    channels=256,
    outputs=64,
    kernel=(1, 1),
    stride=(1, 1),
    groups=1,
    size=(56, 56),
    signed=False,
)
KEY = "relevance_conv bfloat16 C=256 K=64 1x1 stride=1x1 groups=1 56x56 batch=64 nonnegative"
DEFAULT = Choice("composition")


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tuning, "TABLES", tmp_path)
    return tmp_path


def test_the_key_names_operator_and_layer() -> None:
    assert LAYER.key("relevance_conv") == KEY
    float32 = replace(LAYER, dtype=torch.float32, signed=True, stride=(2, 1))
    assert float32.key("x") == "x float32 C=256 K=64 1x1 stride=2x1 groups=1 56x56 batch=64 signed"
    assert replace(float32, tf32=True).key("x").startswith("x tf32 ")


@pytest.mark.parametrize(("batch", "bucket"), [(0, 1), (1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_batches_share_an_entry_up_to_a_power_of_two(batch: int, bucket: int) -> None:
    assert f" batch={bucket} " in replace(LAYER, batch=batch).key("x")


def test_a_table_is_used_for_its_operator_layer_and_device(tables: Path) -> None:
    entry = {"algorithm": "triton", "positions": 128, "outputs": 32, "channels": 16, "num_warps": 8, "num_stages": 4}
    (tables / "cpu.json").write_text(json.dumps({KEY: entry}))
    assert choose("relevance_conv", LAYER, CPU, lambda layer: DEFAULT) == Choice("triton", 128, 32, 16, 8, 4)
    assert choose("relevance_conv_backward", LAYER, CPU, lambda layer: DEFAULT) == DEFAULT
    assert choose("relevance_conv", replace(LAYER, outputs=65), CPU, lambda layer: DEFAULT) == DEFAULT
    assert choose("relevance_conv", LAYER, torch.device("meta"), lambda layer: DEFAULT) == DEFAULT


def test_a_table_is_found_by_the_devices_name(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test/1")
    (tables / "NVIDIA Test-1.json").write_text(json.dumps({KEY: {"algorithm": "triton"}}))
    tuning._name.cache_clear()
    assert choose("relevance_conv", LAYER, torch.device("cuda", 7), lambda layer: DEFAULT) == Choice("triton")
    tuning._name.cache_clear()


def test_a_table_is_read_once(tables: Path) -> None:
    path = tables / "cpu.json"
    path.write_text(json.dumps({KEY: {"algorithm": "triton"}}))
    assert choose("relevance_conv", LAYER, CPU, lambda layer: DEFAULT) == Choice("triton")
    path.unlink()
    assert choose("relevance_conv", LAYER, CPU, lambda layer: DEFAULT) == Choice("triton")


def test_no_table_gives_the_default_of_the_layer(tables: Path) -> None:
    asked = []
    assert choose("relevance_conv", LAYER, CPU, lambda layer: asked.append(layer) or DEFAULT) == DEFAULT
    assert asked == [LAYER]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"algorithm": "cudnn"}, "algorithm is 'cudnn'; one of 'triton', 'composition'"),
        ({"algorithm": "triton", "positions": 48}, "positions is 48; a power of two"),
        ({"algorithm": "triton", "num_warps": 0}, "num_warps is 0; a power of two"),
        ({"algorithm": "triton", "channels": "64"}, "channels is '64'; a power of two"),
        ({"algorithm": "triton", "num_stages": 0}, "num_stages is 0; a positive integer"),
        ({"algorithm": "triton", "rows": 4}, "is no choice"),
        ({"positions": 64}, "is no choice; 'algorithm' is needed"),
        ("triton", "is no choice"),
    ],
    ids=str,
)
def test_a_bad_entry_is_named(tables: Path, entry: object, message: str) -> None:
    (tables / "cpu.json").write_text(json.dumps({KEY: entry}))
    with pytest.raises(ValueError, match=f"cpu.json, entry .*{message}"):
        choose("relevance_conv", LAYER, CPU, lambda layer: DEFAULT)


def kinds() -> dict[str, tuple[Layer, str]]:
    """Layers by name, with the algorithm that the default should pick."""
    three = replace(LAYER, kernel=(3, 3), outputs=256)
    depthwise = replace(three, channels=144, outputs=144, groups=144)
    full = {"dtype": torch.float32}
    return {
        "1x1": (LAYER, "triton"),
        "1x1-stride-2": (replace(LAYER, stride=(2, 2)), "triton"),
        "3x3": (three, "composition"),
        "stem": (replace(three, channels=3, kernel=(7, 7)), "triton"),
        "depthwise": (depthwise, "triton"),
        "depthwise-float32": (replace(depthwise, **full), "triton"),
        "narrow-groups": (replace(three, groups=32), "triton"),
        "wide-groups": (replace(three, groups=2), "composition"),
        "1x1-float32": (replace(LAYER, **full), "composition"),
        "1x1-tf32": (replace(LAYER, **full, tf32=True), "triton"),
        "3x3-tf32": (replace(three, **full, tf32=True), "composition"),
    }


@pytest.mark.parametrize("kind", kinds())
def test_the_default_algorithm(kind: str) -> None:
    layer, algorithm = kinds()[kind]
    assert default_choice(layer, 132).algorithm == algorithm


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("outputs", [1, 8, 24, 64, 1000])
def test_default_blocks_fit_a_matrix_product(kind: str, outputs: int) -> None:
    layer = kinds()[kind][0]
    if layer.groups == 1:
        layer = replace(layer, outputs=outputs)
    choice = default_choice(layer, 132)
    assert choice.positions >= 16
    if not kind.startswith("depthwise"):
        assert min(choice.outputs, choice.channels) >= 16
    # 128 x 64 with 8 warps, 64 x 64 with 4: half of the registers of a thread hold both accumulators.
    assert 2 * choice.positions * choice.outputs <= 64 * 32 * choice.num_warps


def test_default_blocks_grow_with_the_batch() -> None:
    assert default_choice(LAYER, 132).positions == 128
    assert default_choice(LAYER, 132).num_warps == 8
    assert default_choice(replace(LAYER, batch=1), 132).positions == 64


def test_loops_over_several_taps_keep_to_four_warps() -> None:
    for layer, _ in kinds().values():
        if layer.kernel != (1, 1):
            assert default_choice(layer, 132).num_warps == 4
