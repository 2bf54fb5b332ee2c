"""Convolution weights in the blocks that oneDNN multiplies, made once instead of in every call.

oneDNN reads weights in blocks that depend on the sizes of the input, too, and a call with plain weights begins by
reordering them: at batch 1, that is up to half of a late convolution's time. The weights that a network has
prepared stay as they are, so their blocks can be kept beside them. Blocks for other sizes would be reordered as well,
by a path up to forty times slower than the convolution: hence blocks are made for each size of input.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Sizes of input whose blocks are kept per weight and direction: one image, a full batch, the rest of a data set, and
# one to spare. Each takes as much memory as the weight itself.
MOST_SIZES = 4
_DTYPES = (torch.float32, torch.bfloat16)

Geometry = tuple[list[int], list[int], list[int], int]
_Key = tuple[object, ...]
_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_lock = threading.Lock()


def keep(weight: Tensor) -> Tensor:
    """Say that nobody writes to this weight, and that it is finite; return it.

    What is made of it lives as long as it does. Only float32 and bfloat16 weights on the CPU have blocks.
    """
    if weight.is_cpu and weight.dtype in _DTYPES:
        with _lock:
            if weight not in _kept:
                _kept[weight] = {"forward": {}, "transposed": {}}
    return weight


def is_kept(weight: Tensor) -> bool:
    """Whether `keep` was called with this very tensor."""
    return weight in _kept


def packed(weight: Tensor, size: torch.Size, geometry: Geometry) -> Tensor:
    """A kept weight's blocks for a convolution of inputs (N, C, H, W) of that size.

    geometry: stride, padding, dilation, groups.
    """
    stride, padding, dilation, groups = geometry
    reorder = torch.ops.mkldnn._reorder_convolution_weight.default
    key = (size, *map(tuple, geometry[:3]))
    return _once(weight, "forward", key, lambda: reorder(weight, padding, stride, dilation, groups, list(size)))


def packed_transposed(weight: Tensor, size: torch.Size, geometry: Geometry, extra: list[int]) -> Tensor:
    """A kept weight's blocks for a transposed convolution of inputs of that size; extra: its output padding."""
    stride, padding, dilation, groups = geometry
    reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight.default
    key = (size, *map(tuple, geometry[:3]), *extra)
    return _once(
        weight, "transposed", key, lambda: reorder(weight, padding, extra, stride, dilation, groups, list(size))
    )


def _once(weight: Tensor, direction: str, key: _Key, make: Callable[[], Tensor]) -> Tensor:
    made: dict[_Key, Tensor] = _kept[weight][direction]
    blocks = made.get(key)
    if blocks is None:
        blocks = make()
        with _lock:
            while len(made) >= MOST_SIZES:
                del made[next(iter(made))]
            made[key] = blocks
    return blocks
