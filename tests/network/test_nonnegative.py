"""What is claimed to be nowhere negative must not be, and what matters for speed must be claimed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastcam.network.cache import network_for
from fastcam.network.graph import is_tensor
from fastcam.network.network import Network


class Claims(nn.Module):
    """Operations that keep a sign and operations that lose it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        a = F.relu(x)
        b = F.max_pool2d(a, 2)
        c = F.pad(b, (1, 1, 1, 1), value=-1.0)
        d = torch.add(a, F.relu(-x), alpha=-2)
        e = torch.clamp(x, min=0, max=-1)
        f = F.hardtanh(x, -1, 1)
        g = torch.cat([a, a * torch.sigmoid(x)], dim=1)
        h = a + 0.5
        i = a * -1.0
        pooled = [F.adaptive_avg_pool2d(t, 1).flatten(1) for t in (c, d, e, f, h, i)]
        return self.head(torch.cat(pooled, dim=1)) + g.mean((1, 2, 3))[:, None]


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return network_for(Claims().eval(), torch.randn(2, 3, 8, 8))


def test_claims_hold_on_random_images(network: Network) -> None:
    claimed = sorted(network.nonnegative, key=lambda node: node.name)
    assert len(claimed) > 5
    for seed in range(5):
        images = 3 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        _, values = network.forward(images, claimed)
        for node in claimed:
            assert values[node].min() >= 0, node


def test_what_relu_leaves_is_claimed_and_what_lost_its_sign_is_not(network: Network) -> None:
    claims = {node.name: node in network.nonnegative for node in network.graph.nodes if is_tensor(node)}
    assert [claims[name] for name in ("relu", "max_pool2d", "cat", "add_1", "mul")] == [True] * 5
    assert [claims[name] for name in ("conv2d", "pad", "add", "clamp", "hardtanh", "mul_1")] == [False] * 6
