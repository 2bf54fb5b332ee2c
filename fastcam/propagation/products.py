"""Products with a layer's weights, or with others of their shape, and the adjoints of those products.

For rules whose relevance is R itself, where what goes back is not linear in it: they take signals apart by sign, shift
them, or make weights of them. Everything is computed in at least float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import grad

from fastcam.network.units import Unit
from fastcam.ops.gate import gate
from fastcam.propagation.rule import Call, Form

# conv_transpose onto an input of a given size, and the derivative by the weight; torch has no types for them.
convolution_adjoint: Callable[..., Tensor] = grad.conv2d_input
convolution_weight_gradient: Callable[..., Tensor] = grad.conv2d_weight


def wide(tensor: Tensor) -> Tensor:
    """A tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def layer_unit(call: Call) -> Unit:
    """The unit of a call to a convolution or linear layer."""
    assert call.step.unit is not None
    return call.step.unit


def signed_weights(call: Call) -> tuple[Tensor, Tensor]:
    """W+ = max(W, 0) and W- = min(W, 0) of a layer's own weight."""
    unit, weights = layer_unit(call), call.network.weights
    return wide(weights.positive(unit)), wide(weights.negative(unit))


def weight(call: Call) -> Tensor:
    """A layer's own weight W."""
    positive, negative = signed_weights(call)
    return positive + negative


def adjoint(unit: Unit, signal: Tensor, w: Tensor, like: Tensor) -> Tensor:
    """conv_transpose(signal, W) or signal W: (T, N, K, h, w) -> (T, N, C, H, W), C, H, W being those of `like`."""
    if unit.geometry is None:
        return signal @ w
    flat = signal.flatten(0, 1)
    g = convolution_adjoint([len(flat), *like.shape[1:]], w, flat, *unit.geometry.arguments)
    return g.view(*signal.shape[:2], *like.shape[1:])


def inverse(z: Tensor) -> Tensor:
    """1 / Z, and 0 where Z >= 0 is 0, or so small that it is rounding's; per image, the first dimension."""
    return gate(z, z.clone(), reciprocal=True, dtype=z.dtype)


def kept_output(call: Call, y: Tensor) -> Tensor | None:
    """What `relevance_of` needs of a layer's output; a copy, since the output's only reader may write to it."""
    return y.clone() if call.form is Form.G else None


def relevance_of(signal: Tensor, y: Tensor | None, passed: Tensor | None = None) -> Tensor:
    """R of a layer's output, from a signal in either form; passed: of `passed_norm`."""
    relevance = wide(signal if y is None else signal * y)
    return relevance if passed is None else relevance * passed


def passed_norm(call: Call, made: Callable[[], Tensor]) -> Tensor | None:
    """1 where the batch norm folded into a layer passes relevance, else 0; None where no batch norm is folded in.

    A batch norm passes none to an input of 0, and must not when it is folded in either: what is folded depends on the
    layers that a call asks for. made: what the layer itself makes, without its bias.
    """
    unit = layer_unit(call)
    if unit.norm is None:
        return None
    own = made()
    if unit.bias is not None:
        own = own + wide(call.network.weights.value(unit.bias)).view(-1, *[1] * (own.dim() - 2))
    return (own != 0).to(own.dtype)


def keep_total(sent: Tensor, received: Tensor) -> Tensor:
    """Take a uniform shift from all units that are not 0, such that their sum is what was received.

    sent: (T, N, ...) -> sent - [sent != 0] (sum sent - sum received) / (number of units that are not 0).
    """
    live = (sent != 0).to(sent.dtype)
    surplus = _total(sent) - _total(received).view(*sent.shape[:2], *[1] * (sent.dim() - 2))
    return sent - live * (surplus / _total(live).clamp(min=1))


def _total(tensor: Tensor) -> Tensor:
    """The sum per target and image, (T, N, 1, ...)."""
    return tensor.sum(dim=tuple(range(2, tensor.dim())), keepdim=True)
