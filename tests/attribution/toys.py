"""Small models whose maps can be worked out by hand, and what their tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.network.network import Network


class TwoChannels(nn.Module):
    """A0 = x, A1 = relu(5 - x), A2 = 0; logits 2 a0 - a1, a1 - a0, 3 a1 of the means a."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(1, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.0, 5.0, -1.0]))
            self.fc.weight.copy_(torch.tensor([[2.0, -1.0, 9.0], [-1.0, 1.0, 9.0], [0.0, 3.0, 9.0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.conv(x))).flatten(1))


def two_by_two() -> Tensor:
    """x = [[1, 2], [3, 4]]: A0 = x, A1 = [[4, 3], [2, 1]], both of mean 2.5; logits 2.5, 0, 7.5."""
    return torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)


def min_max(maps: Tensor) -> Tensor:
    """Per map to [0, 1]; a flat map gives zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1), 0)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres; (..., h, w) with four axes."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def layer_of(model: nn.Module, images: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Logits and what a module returned, with their graph."""
    held = {}
    handle = model.get_submodule(name).register_forward_hook(lambda *call: held.update(output=call[2]))
    logits = model(images)
    handle.remove()
    return logits, held["output"]


def gradients_of(model: nn.Module, images: Tensor, name: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A (N, K, h, w) and dy_t / dA (N, T, K, h, w), by autograd."""
    logits, activation = layer_of(model, images, name)
    columns = [logits.gather(1, column[:, None]).sum() for column in targets.T]
    return activation.detach(), torch.stack(
        [torch.autograd.grad(y, activation, retain_graph=True)[0] for y in columns], 1
    )


@contextmanager
def watched() -> Iterator[dict[str, list[int]]]:
    """Batches of all forward runs of networks, whole ("forward") and in part ("run_from")."""
    seen: dict[str, list[int]] = {"forward": [], "run_from": []}
    forward, run_from = Network.forward, Network.run_from

    def watched_forward(self: Network, images: Tensor, *args: object, **kwargs: object) -> object:
        seen["forward"].append(len(images))
        return forward(self, images, *args, **kwargs)

    def watched_run_from(self: Network, feeds: dict, outputs: object) -> object:
        seen["run_from"].append(len(next(iter(feeds.values()))))
        return run_from(self, feeds, outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "forward", watched_forward)
        patch.setattr(Network, "run_from", watched_run_from)
        yield seen
