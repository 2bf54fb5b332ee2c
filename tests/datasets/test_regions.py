"""Boxes and masks through resize and crop, against the same thing done the long way."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fastcam.datasets import Box
from fastcam.datasets.regions import boxes_in_photo, boxes_in_view, mask_in_photo, mask_in_view
from fastcam.models.preprocessing import Preprocessing

SIDE = st.integers(8, 60)
GEOMETRIES = st.one_of(
    st.builds(lambda side: Preprocessing(resize=side, crop=(side, side)), st.integers(8, 50)),
    st.builds(lambda side: Preprocessing(resize=side + 5, crop=(side, side - 3)), st.integers(8, 50)),
    st.builds(lambda h, w: Preprocessing(resize=(h, w), crop=None), SIDE, SIDE),
    st.builds(lambda side: Preprocessing(crop_share=0.875, resize=(side, side), crop=None), st.integers(8, 50)),
    st.just(Preprocessing(resize=None, crop=(8, 7))),
)


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int, int, int]]]:
    """A photo's width and height, and rectangles of whole pixels in it."""
    width, height = draw(SIDE), draw(SIDE)
    found = []
    for _ in range(draw(st.integers(0, 3))):
        left, right = sorted((draw(st.integers(0, width)), draw(st.integers(0, width))))
        top, bottom = sorted((draw(st.integers(0, height)), draw(st.integers(0, height))))
        found.append((left, top, right, bottom))
    return width, height, found


def painted(width: int, height: int, found: list[tuple[int, int, int, int]]) -> Tensor:
    mask = torch.zeros((height, width), dtype=torch.bool)
    for left, top, right, bottom in found:
        mask[top:bottom, left:right] = True
    return mask


@given(rectangles(), GEOMETRIES)
def test_boxes_equal_painted_masks(
    photo: tuple[int, int, list[tuple[int, int, int, int]]], geometry: Preprocessing
) -> None:
    """A view pixel's centre lies in a box of whole pixels exactly if it lies in one of the pixels painted for it."""
    width, height, found = photo
    placement = geometry.placement(height, width)
    boxes = [Box(*map(float, edges)) for edges in found]
    mask = painted(width, height, found)
    assert torch.equal(boxes_in_view(boxes, placement, (1, 1)), mask_in_view(mask, placement, (1, 1)))
    window = placement.window
    assert torch.equal(boxes_in_photo(boxes, window, (1, 1)), mask_in_photo(mask, window, (1, 1)))
    assert torch.equal(boxes_in_photo(boxes, (0, 0, width, height), (1, 1)), mask)


@given(rectangles(), GEOMETRIES)
def test_boxes_equal_photos_of_them(
    photo: tuple[int, int, list[tuple[int, int, int, int]]], geometry: Preprocessing
) -> None:
    """A single rectangle, painted white and put through Pillow's resize: bright inside, dark outside, off the edge."""
    width, height, found = photo
    assume(len(found) >= 1)
    left, top, right, bottom = found[0]
    placement = geometry.placement(height, width)
    view = geometry.view(
        Image.fromarray(painted(width, height, found[:1]).numpy().astype(np.uint8) * 255).convert("RGB")
    )
    white = torch.from_numpy(np.array(view))[:, :, 0]
    across, down = placement.scale
    # The filter reaches one photo pixel (enlarging) or one view pixel (reducing) to each side.
    x, y = max(1, 1 / across) + 0.5 / across, max(1, 1 / down) + 0.5 / down
    inner = boxes_in_view([Box(left + x, top + y, right - x, bottom - y)], placement, (1, 1))
    outer = boxes_in_view([Box(left - x, top - y, right + x, bottom + y)], placement, (1, 1))
    edge_of_photo = boxes_in_view([Box(x, y, width - x, height - y)], placement, (1, 1))
    assert (white[inner & edge_of_photo] >= 254).all()
    assert (white[~outer] <= 1).all()


@given(rectangles(), GEOMETRIES, st.sampled_from([(0.5, 0.5), (2.0, 2.0), (3.0, 1.5)]))
def test_boxes_drawn_at_another_scale(
    photo: tuple[int, int, list[tuple[int, int, int, int]]], geometry: Preprocessing, scale: tuple[float, float]
) -> None:
    width, height, found = photo
    placement = geometry.placement(height, width)
    here = [Box(*map(float, edges)) for edges in found]
    there = [Box(b.left / scale[0], b.top / scale[1], b.right / scale[0], b.bottom / scale[1]) for b in here]
    # Powers of two scale without rounding; 3 and 1.5 may move an edge that lies on a centre.
    if scale[0] in (0.5, 2.0):
        assert torch.equal(boxes_in_view(there, placement, scale), boxes_in_view(here, placement, (1, 1)))
    else:
        nudged = [Box(b.left + 1e-6, b.top + 1e-6, b.right + 1e-6, b.bottom + 1e-6) for b in here]
        near = [Box(b.left - 1e-6, b.top - 1e-6, b.right - 1e-6, b.bottom - 1e-6) for b in here]
        found_there = boxes_in_view(there, placement, scale)
        certain = boxes_in_view(nudged, placement, (1, 1)) == boxes_in_view(near, placement, (1, 1))
        assert torch.equal(found_there & certain, boxes_in_view(here, placement, (1, 1)) & certain)


def test_no_box_is_nowhere() -> None:
    placement = Preprocessing().placement(300, 400)
    region = boxes_in_view([], placement, (1, 1))
    assert region.shape == (224, 224)
    assert not region.any()


def test_by_hand() -> None:
    """400 x 300 to 341 x 256, of which the middle 224 x 224: a box at known places."""
    placement = Preprocessing().placement(300, 400)
    assert placement.resized == (256, 341)
    assert placement.second == (58, 16, 282, 240)
    region = boxes_in_view([Box(100, 30, 200, 150)], placement, (1, 1))
    # 100 * 341 / 400 - 58 = 27.25, 200 * 341 / 400 - 58 = 112.5; 30 * 256 / 300 - 16 = 9.6, 150 * 256 / 300 - 16 = 112.
    columns, rows = region.any(dim=0).nonzero().flatten(), region.any(dim=1).nonzero().flatten()
    assert (int(columns[0]), int(columns[-1])) == (27, 111)
    assert (int(rows[0]), int(rows[-1])) == (10, 111)
    assert region.sum() == len(columns) * len(rows)
    # 58 * 400 / 341 = 68.04 to 282 * 400 / 341 = 330.8; 16 * 300 / 256 = 18.75 to 281.25.
    assert placement.window == (68, 19, 331, 281)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 1000)], ids=str)
def test_tiny_and_oblong_photos(size: tuple[int, int]) -> None:
    placement = Preprocessing(resize=(32, 32), crop=None).placement(*size)
    assert boxes_in_view([Box(0, 0, size[1], size[0])], placement, (1, 1)).all()
    assert placement.window == (0, 0, size[1], size[0])
