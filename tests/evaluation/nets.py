"""A model that runs name, as package.module:function; one instance, so that a process captures it once."""

from functools import cache

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(4)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        return self.fc(self.pool2(self.relu2(self.conv2(x))).flatten(1))


class InTheDark(Tiny):
    """Its logits for a black image are not finite."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x.mean(dim=(1, 2, 3)).unsqueeze(1) > -1.9)


@cache
def in_the_dark() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return InTheDark()


@cache
def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny()
