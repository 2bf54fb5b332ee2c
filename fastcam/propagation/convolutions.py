"""The convolutions of a network that relevance passes through, as shapes: what there is to tune and to measure."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.network.cache import network_for
from fastcam.network.graph import shape
from fastcam.network.layers import LayerName, find_layers
from fastcam.network.units import Geometry, Unit
from fastcam.propagation.propagate import find_route


@dataclass(frozen=True)
class Convolution:
    """One convolution with what is folded into it; several layers of a network may be alike.

    size: height and width of its input. signed: whether its input may be negative.
    """

    channels: int
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    geometry: Geometry
    activation: str
    signed: bool

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.geometry.output_size(self.size, self.kernel)

    def products(self, batch: int) -> int:
        """Multiplications of one product with its weights; forward takes two of these products, back one."""
        rows, columns = self.output_size
        taps = self.kernel[0] * self.kernel[1] * self.channels // self.geometry.groups
        return batch * rows * columns * self.outputs * taps

    def forward_bytes(self, batch: int, item: int) -> int:
        """What the forward pass must move: x and both weights in, y and its gate out."""
        rows, columns = self.output_size
        return item * (self._read(batch) + 2 * self._weights() + 2 * batch * self.outputs * rows * columns)

    def backward_bytes(self, batch: int, item: int) -> int:
        """What the way back must move: signal, gate and W+ in (and x and W- where signed), G out."""
        rows, columns = self.output_size
        written = batch * self.channels * self.size[0] * self.size[1]
        signs = self._weights() + self._read(batch) if self.signed else 0
        return item * (2 * batch * self.outputs * rows * columns + self._weights() + signs + written)

    def _read(self, batch: int) -> int:
        """How many numbers of x any output depends on: of a 1x1 convolution of stride 2, a quarter."""
        g = self.geometry
        axes = zip(self.size, self.output_size, self.kernel, g.stride, g.padding, g.dilation, strict=True)
        rows, columns = (
            len({o * stride + k * dilation - pad for o in range(out) for k in range(taps)} & {*range(full)})
            for full, out, taps, stride, pad, dilation in axes
        )
        return batch * self.channels * rows * columns

    def _weights(self) -> int:
        return self.outputs * self.channels // self.geometry.groups * self.kernel[0] * self.kernel[1]


def convolutions(model: nn.Module, images: Tensor, layer: LayerName = None) -> Counter[Convolution]:
    """The convolutions behind `layer` on the way of relevance, with how often each kind occurs.

    images: (N, C, H, W), of the size that the model is run at; their values do not matter.
    layer: None: the images, so that every convolution is behind it.
    """
    with torch.inference_mode(False), torch.no_grad():
        network = network_for(model, images)
        found = (
            [network.graph.images] if layer is None else [one.node for one in find_layers(network.graph, model, layer)]
        )
        route = find_route(network, found)
    units = [step.unit for step in route.plan.steps if step.node in route.rules and step.unit is not None]
    return Counter(_shape(unit, unit.input not in network.nonnegative) for unit in units if unit.geometry is not None)


def _shape(unit: Unit, signed: bool) -> Convolution:
    assert unit.geometry is not None
    outputs, per_group, *kernel = shape(unit.weight)
    rows, columns = unit.geometry.shift
    size = shape(unit.input)
    return Convolution(
        channels=per_group * unit.geometry.groups,
        outputs=outputs,
        size=(size[2], size[3]),
        kernel=(kernel[0] + rows, kernel[1] + columns),
        geometry=unit.geometry,
        activation=unit.activation_name,
        signed=signed,
    )
