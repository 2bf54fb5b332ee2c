from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastcam
from fastcam.metrics.batch import Batch
from fastcam.network.cache import network_for
from fastcam.network.portions import fitted, shrunk


class Largest(TorchDispatchMode):
    """The most inputs that a convolution is given at a time; not the kernels of 3 x 3 that are packed for it."""

    images = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(func) and args[0].shape[-1] > 3:
            self.images = max(self.images, len(args[0]))
        return func(*args, **(kwargs or {}))


def net() -> nn.Module:
    torch.manual_seed(0)
    trunk = (nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.ReLU())
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)).eval()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("score_cam", {}),
        ("ss_cam", {"samples": 1}),
        ("is_cam", {"samples": 1}),
        ("abs_cam", {}),
        ("group_cam", {}),
        ("rise", {"masks": 16}),
        ("ablation_cam", {}),
        ("smooth_grad_cam_pp", {"samples": 4}),
        ("ucag", {"patches": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fills_a_device_can_be_made_smaller(method: str, options: dict[str, Any]) -> None:
    model, images = net(), torch.rand(2, 3, 24, 24)
    settings = {**options, "layer": "1"} if method != "rise" else options

    def explain() -> object:
        if method == "ucag":
            return fastcam.ucag(model, images, method="grad_cam", **settings)
        return fastcam.explain(model, images, method=method, **settings)

    explain()
    found = {}
    for name, context in {"whole": nullcontext(), "shrunk": shrunk(10**9)}.items():
        with context, Largest() as seen:
            explain()
        found[name] = seen.images
    assert found["whole"] > 2
    # The images themselves, or one input made of them.
    assert found["shrunk"] <= 2


@pytest.mark.parametrize(("divisor", "expected"), [(1, 8), (2, 4), (3, 2), (8, 1), (128, 1)], ids=str)
def test_a_forward_pass_of_masked_images(divisor: int, expected: int) -> None:
    model, images = net(), torch.rand(2, 3, 24, 24)
    assert Batch(model, images).batch_size == 8
    network = network_for(model, images)
    with shrunk(divisor) as shrinking:
        assert network.portion(torch.device("cpu")) == expected
        assert Batch(model, images).batch_size == expected
        assert Batch(model, images, batch_size=5).batch_size == 5
        assert shrinking.largest == expected
    with shrunk(divisor):
        assert network.portion(torch.device("cuda")) == 128 // divisor
    assert fitted(8) == 8
