import pytest
import torch

import fastcam
from fastcam.evaluation.explaining import calls_of
from fastcam.evaluation.study import MethodSpec
from tests.evaluation.nets import tiny


def test_further_images_are_explained_with_the_same_random_numbers() -> None:
    """As coherency does: else it would compare a random method's maps with those of other numbers."""
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    (call,) = calls_of(tiny(), [MethodSpec(name="random_cam", label="random_cam")], None, None)
    explanation, (made,) = call(images, None, 5)
    assert torch.equal(made.explain(images, explanation.targets), made.maps)
    _, (other,) = call(images, None, 6)
    assert not torch.equal(other.maps, made.maps)


@pytest.mark.parametrize("method", ["lrp", "clrp", "rsp", "relevance_cam"])
def test_maps_are_a_users_and_nothing_is_found_out_that_no_row_asks_for(method: str) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    (call,) = calls_of(tiny(), [MethodSpec(name=method, label=method)], None, None)
    explanation, (made,) = call(images, None, 0)
    assert explanation.left_out == {}
    info = fastcam.explain(tiny(), images, method=method, normalize=False, return_info=True)
    assert torch.equal(explanation.probabilities, info.probabilities)
    assert torch.equal(explanation.targets, info.targets)
    assert made.layer == info.layer
    maps = fastcam.explain(tiny(), images, method=method, normalize=False)
    assert torch.equal(made.maps, maps)
    assert torch.equal(made.explain(images, info.targets), maps)
