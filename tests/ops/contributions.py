"""z+ relevance from dense matrices of contributions in float64: each x_i w_ij written down, no convolution called."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def arguments(self) -> tuple[list[int], list[int], list[int], int]:
        return list(self.stride), list(self.padding), list(self.dilation), self.groups

    def size(self, image: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (
            (full + 2 * pad - step * (k - 1) - 1) // stride + 1
            for full, pad, step, k, stride in zip(image, self.padding, self.dilation, kernel, self.stride, strict=True)
        )
        return rows, columns


def matrix(weight: Tensor, image: tuple[int, int], geometry: Geometry) -> Tensor:
    """A convolution's weights as a matrix: (K, h, w, C, H, W), from every input to every output."""
    outputs, per_group, *kernel = weight.shape
    height, width = geometry.size(image, (kernel[0], kernel[1]))
    dense = torch.zeros(outputs, height, width, per_group * geometry.groups, *image, dtype=torch.float64)
    for k in range(outputs):
        first = k // (outputs // geometry.groups) * per_group
        for y in range(height):
            for x in range(width):
                for i in range(kernel[0]):
                    for j in range(kernel[1]):
                        row = y * geometry.stride[0] - geometry.padding[0] + i * geometry.dilation[0]
                        column = x * geometry.stride[1] - geometry.padding[1] + j * geometry.dilation[1]
                        if 0 <= row < image[0] and 0 <= column < image[1]:
                            dense[k, y, x, first : first + per_group, row, column] = weight[k, :, i, j].double()
    return dense


def denominators(x: Tensor, dense: Tensor) -> Tensor:
    """Z (N, outputs) = sum of the positive contributions. x (N, inputs), dense (outputs, inputs)."""
    return (x.double()[:, None] * dense).clamp(min=0).sum(2)


def relevance(x: Tensor, dense: Tensor, above: Tensor) -> Tensor:
    """R_i = sum_j max(x_i w_ij, 0) / Z_j R_j, nothing where Z_j is 0. above: R_j (T, N, outputs)."""
    positive = (x.double()[:, None] * dense).clamp(min=0)
    z = positive.sum(2)
    share = torch.where(z == 0, 0.0, above.double() / torch.where(z == 0, 1.0, z))
    return torch.einsum("tnj,nji->tni", share, positive)
