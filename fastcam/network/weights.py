"""A model's weights, prepared: folded, clamped, in the dtype and layout in which they are used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fastcam.network.graph import Graph, aten
from fastcam.network.precision import Precision
from fastcam.network.units import Unit
from fastcam.ops.packing import keep

T = TypeVar("T")


@dataclass(frozen=True)
class Affine:
    """A layer's weight and bias, with the batch norm behind it folded in."""

    weight: Tensor
    bias: Tensor | None


class Weights:
    """The tensors that a graph's operations read, made once per precision and kept.

    state: the model's parameters and buffers by name; they are shared, detached and never written to.
    """

    def __init__(self, graph: Graph, state: Mapping[str, Tensor], precision: Precision) -> None:
        self.precision = precision
        self.graph = graph
        self._state = {**graph.constants, **state}
        self._statistics = {
            source
            for node in graph.nodes
            if node.target is aten.batch_norm.default
            for source in node.all_input_nodes[1:]
        }
        self._made: dict[tuple[object, ...], object] = {}

    def value(self, node: fx.Node) -> Tensor:
        """The tensor of a weight, in the forward dtype (a batch norm's own in at least float32)."""

        def make() -> Tensor:
            tensor, dtype = self._raw(node), self.precision.forward
            if node in self._statistics and dtype.itemsize < 4:
                dtype = torch.float32
            return tensor.to(dtype) if tensor.dtype.is_floating_point else tensor

        return self._once((node, "value"), make)

    def affine(self, unit: Unit) -> Affine:
        """W' = W gamma / sigma, b' = (b - mu) gamma / sigma + beta, folded in float64 and rounded once."""

        def make() -> Affine:
            weight = self._raw(unit.weight)
            bias = None if unit.bias is None else self._raw(unit.bias)
            if unit.norm is not None:
                weight, bias = self._fold(unit.norm, weight.double(), bias)
            # Rounded to the forward dtype even where the arithmetic is wider: 16-bit weights are 16-bit.
            dtype, compute = self.precision.forward, self.precision.compute
            return Affine(
                self._laid_out(_shifted(weight.to(dtype).to(compute), unit)),
                None if bias is None else bias.to(dtype).to(compute),
            )

        return self._once((unit.weight, unit.bias, unit.norm, _shift(unit), "affine"), make)

    def wide(self, unit: Unit) -> Affine:
        """`affine`, rounded as it is, in at least float32."""
        narrow = self.affine(unit)
        dtype = torch.promote_types(narrow.weight.dtype, torch.float32)

        def make() -> Affine:
            return Affine(narrow.weight.to(dtype), None if narrow.bias is None else narrow.bias.to(dtype))

        return self._once((unit.weight, unit.bias, unit.norm, "wide"), make)

    def positive(self, unit: Unit) -> Tensor:
        """W+ = max(W, 0) of the layer's own weight, unfolded: folding would mix up signs where gamma < 0."""
        return self._once(
            (unit.weight, _shift(unit), "positive"), lambda: self._signal(self._raw(unit.weight).clamp(min=0), unit)
        )

    def negative(self, unit: Unit) -> Tensor:
        """W- = min(W, 0) of the layer's own weight."""
        return self._once(
            (unit.weight, _shift(unit), "negative"), lambda: self._signal(self._raw(unit.weight).clamp(max=0), unit)
        )

    def implied_bias(self, norm: fx.Node) -> Tensor:
        """beta - mu gamma / sigma: what a batch norm with fixed statistics makes of zeros."""

        def make() -> Tensor:
            variance = self._raw(norm.all_input_nodes[-1])
            identity = variance.new_ones(len(variance), 1, 1, 1, dtype=torch.float64)
            return self._fold(norm, identity, None)[1].to(self.precision.forward)

        return self._once((norm, "implied bias"), make)

    def changed(
        self, unit: Unit, name: str, change: Callable[[Tensor], Tensor], *, parameter: float = 0.0, folded: bool = False
    ) -> Tensor:
        """The layer's weight, `folded` with its batch norm or its own, made into what a rule takes.

        name: of the change; one tensor is kept for each, that of the last `parameter`.
        """
        key = (unit.weight, unit.norm if folded else None, _shift(unit), name)
        known = self._made.get(key)
        if known is None or cast("tuple[float, Tensor]", known)[0] != parameter:
            weight = self._raw(unit.weight)
            if folded and unit.norm is not None:
                weight, _ = self._fold(unit.norm, weight.double(), None)
            known = self._made[key] = (parameter, self._signal(change(weight), unit))
        return cast("tuple[float, Tensor]", known)[1]

    def folded(self, unit: Unit) -> Tensor:
        """W' of `affine` for signals."""
        if self.precision.forward.itemsize >= 4:
            return self.affine(unit).weight
        return self.changed(unit, "folded", lambda weight: weight, folded=True)

    def scale(self, norm: fx.Node) -> Tensor:
        """gamma / sigma of a batch norm, (K,), in at least float32."""

        def make() -> Tensor:
            wide = torch.promote_types(self.precision.signal, torch.float32)
            return self._norm_scale(norm).to(wide)

        return self._once((norm, "scale"), make)

    def _fold(self, norm: fx.Node, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        _, _, beta, mean, *_ = norm.args
        one = weight.new_ones(weight.shape[0])
        scale = self._norm_scale(norm)
        shift = (0.0 if bias is None else bias.double()) - self._double(mean, 0 * one)
        return weight * scale.view(-1, 1, 1, 1), shift * scale + self._double(beta, 0 * one)

    def _norm_scale(self, norm: fx.Node) -> Tensor:
        _, gamma, _, _, variance, _, _, eps, *_ = norm.args
        assert isinstance(variance, fx.Node)
        reciprocal = torch.rsqrt(self._raw(variance).double() + float(str(eps)))
        return self._double(gamma, torch.ones_like(reciprocal)) * reciprocal

    def _double(self, node: object, absent: Tensor) -> Tensor:
        return self._raw(node).double() if isinstance(node, fx.Node) else absent

    def _signal(self, weight: Tensor, unit: Unit) -> Tensor:
        dtype = self.precision.signal
        if weight.dim() != 4:
            return weight.to(torch.promote_types(dtype, torch.float32)).contiguous()
        return self._laid_out(_shifted(weight.to(dtype).to(self.precision.compute_signal), unit))

    def _laid_out(self, weight: Tensor) -> Tensor:
        if weight.dim() != 4:
            return weight.contiguous()
        weight = weight.contiguous(memory_format=self.precision.memory_format)
        return keep(weight) if self._are_finite() else weight

    def _are_finite(self) -> bool:
        """Whether no weight on the CPU is NaN or infinite."""

        def look() -> bool:
            floating = (t for t in self._state.values() if t.device.type == "cpu" and t.is_floating_point())
            return all(bool(t.isfinite().all()) for t in floating)

        return self._once(("finite",), look)

    def _raw(self, node: fx.Node) -> Tensor:
        if node.op == "placeholder":
            return self._state[self.graph.weights[node]]
        compute = cast("Callable[..., Tensor]", node.target)
        return compute(*fx.map_arg(node.args, self._raw), **fx.map_arg(node.kwargs, self._raw))

    def _once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        # Two threads may both make a tensor: the same one, so that either may stay.
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])


def _shift(unit: Unit) -> tuple[int, int]:
    return (0, 0) if unit.geometry is None else unit.geometry.shift


def _shifted(weight: Tensor, unit: Unit) -> Tensor:
    """A kernel with the zeros in front that its unit's geometry asks for."""
    rows, columns = _shift(unit)
    return F.pad(weight, (columns, 0, rows, 0)) if rows or columns else weight
