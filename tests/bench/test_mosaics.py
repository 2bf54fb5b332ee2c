"""Maps of real weights lie on the photo of their class."""

import json

import pytest
import torch
from torch import Tensor, nn

from bench.mosaics import CLASSES, DRAWS, RESULTS, embedded_mosaics, mosaics, pointing, shares
from fastcam.attribution import METHODS


@pytest.fixture(scope="module")
def embedded() -> tuple[nn.Module, Tensor]:
    return embedded_mosaics()


def test_every_photo_stands_in_every_quarter_once() -> None:
    grids = mosaics([torch.full((3, 2, 3), float(photo)) for photo in range(4)])
    assert grids.shape == (4, 3, 4, 6)
    corners = grids[:, 0, ::2, ::3].flatten(1)
    assert sorted(map(tuple, corners.tolist())) == [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]


def test_shares_are_those_of_the_photos_own_quarter() -> None:
    photos = mosaics([torch.full((1, 2, 2), float(photo)) for photo in range(4)])
    on_the_photo = torch.cat([(photos == photo).double() for photo in range(4)], dim=1)
    assert shares(on_the_photo).tolist() == [[1.0] * 4] * 4
    assert shares(1 - on_the_photo).tolist() == [[0.0] * 4] * 4
    assert shares(on_the_photo - 5).isnan().all()
    torch.testing.assert_close(shares(3 * on_the_photo + 1), torch.full((4, 4), 4 / 7, dtype=torch.float64))


@pytest.mark.parametrize("method", ["cam", "grad_cam", "relevance_cam"])
def test_methods_that_know_the_class_point_at_it(method: str, embedded: tuple[nn.Module, Tensor]) -> None:
    assert pointing(*embedded, method, {})["mean"] > 0.65


@pytest.mark.parametrize(("method", "tolerance"), [("fake_cam", 1e-4), ("random_cam", 0.03)])
def test_baselines_know_nothing(
    method: str, tolerance: float, embedded: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DRAWS, "random_cam", 32)
    torch.manual_seed(0)
    assert abs(pointing(*embedded, method, {})["mean"] - 0.25) < tolerance
    assert len(CLASSES) == 4


def test_the_table_holds_every_method_and_what_is_asked_of_them() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["methods"]
    assert set(found) == set(METHODS)
    assert min(found[name]["mean"] for name in ("relevance_cam", "score_cam", "grad_cam")) >= 0.65
    for name in ("random_cam", "fake_cam"):
        assert abs(found[name]["mean"] - 0.25) < 0.01
