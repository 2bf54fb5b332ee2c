"""Where a class is, in the network's view and in the photo's own pixels. A pixel belongs where its centre lies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.models.placement import Bounds, Placement

from .sample import Box


def boxes_in_view(boxes: Sequence[Box], placement: Placement, scale: tuple[float, float]) -> Tensor:
    """The union of boxes, (H, W) booleans. scale: photo pixels per pixel of the boxes, (to the right, down)."""
    (across, down), (left, top) = placement.scale, placement.origin
    height, width = placement.size
    # The view's pixel centres, in the photo's pixels.
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / across + left
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / down + top
    return _inside(boxes, x / scale[0], y / scale[1])


def boxes_in_photo(boxes: Sequence[Box], window: Bounds, scale: tuple[float, float]) -> Tensor:
    """The union of boxes at the photo's own size, (h, w) booleans of the pixels inside the window."""
    left, top, right, bottom = window
    x = torch.arange(left, right, dtype=torch.float64) + 0.5
    y = torch.arange(top, bottom, dtype=torch.float64) + 0.5
    return _inside(boxes, x / scale[0], y / scale[1])


def mask_in_view(mask: Tensor, placement: Placement, scale: tuple[float, float]) -> Tensor:
    """The mask's value at each view pixel's centre, (H, W). scale: photo pixels per pixel of the mask."""
    (across, down), (left, top) = placement.scale, placement.origin
    height, width = placement.size
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / across + left
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / down + top
    return _nearest(mask, x / scale[0], y / scale[1])


def mask_in_photo(mask: Tensor, window: Bounds, scale: tuple[float, float]) -> Tensor:
    """The same at the photo's own size, inside the window."""
    left, top, right, bottom = window
    x = torch.arange(left, right, dtype=torch.float64) + 0.5
    y = torch.arange(top, bottom, dtype=torch.float64) + 0.5
    return _nearest(mask, x / scale[0], y / scale[1])


def _inside(boxes: Sequence[Box], x: Tensor, y: Tensor) -> Tensor:
    """Points (y, x) of a grid that lie in any box: left <= x < right, top <= y < bottom."""
    edges = [[box.left, box.top, box.right, box.bottom] for box in boxes]
    left, top, right, bottom = torch.tensor(edges, dtype=torch.float64).reshape(-1, 4, 1).unbind(1)
    across = (x >= left) & (x < right)
    down = (y >= top) & (y < bottom)
    return (down.unsqueeze(2) & across.unsqueeze(1)).any(dim=0)


def _nearest(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = mask.shape
    columns = x.floor().long().clamp(0, width - 1)
    rows = y.floor().long().clamp(0, height - 1)
    return mask[rows.unsqueeze(1), columns]
