"""Score-CAM's benchmark: what it compares, and that it holds maps in fewer bits to the aims."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from bench import test_score_cpu as score


class Benchmark:
    """What the benchmarks use of pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, function: Callable[..., Any], *, rounds: int) -> Any:
        return function()


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.ModuleDict({"activation": nn.ReLU()})
        self.fc = nn.Linear(4, 300)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head["activation"](self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("compared", "names"),
    [
        pytest.param(
            score.test_score_cam_against_peers,
            {
                "fastcam",
                "fastcam, bfloat16",
                "grad-cam",
                "grad-cam, channels-last",
                "torchcam",
                "torchcam, channels-last",
            },
            id="float32",
        ),
        pytest.param(
            score.test_score_cam_in_bfloat16_against_torchcam,
            {"fastcam", "torchcam", "torchcam, channels-last"},
            id="bfloat16",
        ),
    ],
)
def test_peers_run_on_both_memory_layouts_in_interleaved_rounds(
    compared: Callable[..., None], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def compare(_: object, variants: dict[str, Callable[[], Any]], **setting: Any) -> None:
        assert {name.partition(", batches")[0] for name in variants} == names
        assert setting["yardstick"] in variants
        for run in variants.values():
            run()
        rounds.append(setting["rounds"])

    monkeypatch.setattr(fastcam.models, "efficientnet_lite0", lambda pretrained: Tiny())
    monkeypatch.setattr(score, "compare", compare)
    compared(Benchmark(), torch.randn(1, 3, 12, 12))
    assert rounds == [3]


@pytest.mark.parametrize("wrong", [None, *score.AIMS], ids=str)
def test_maps_in_fewer_bits_are_held_to_the_aims(
    wrong: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))

    def explain(model: nn.Module, photos: Tensor, *, method: str, precision: str | None) -> Tensor:
        assert len(photos) == 4
        off = torch.zeros_like(maps)
        off[3, 0, 0] = 2.0  # in one map of four
        return maps + off if (method, precision) == wrong else maps

    monkeypatch.setattr(fastcam, "explain", explain)
    benchmark = Benchmark()
    if wrong is None:
        score.test_agreement_with_float32(benchmark)
    else:
        with pytest.raises(AssertionError):
            score.test_agreement_with_float32(benchmark)
    assert set(benchmark.extra_info["correlation"]) == {", ".join(case) for case in score.AIMS}
