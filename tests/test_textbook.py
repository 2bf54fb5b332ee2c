"""The oracle itself: by hand, dense against convolutions, and that the zoo shows what it says it shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.textbook import clrp_seed, one_hot_seed, propagate
from tests.zoo import ZOO, choose_targets, conv, head


def test_linear_layers_by_hand() -> None:
    # x = (1, 2), hidden = relu(W1 x) = (3, 1, 0), logits = W2 hidden.
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [3.0, -1.0], [1.0, -1.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, 5.0], [-1.0, 2.0, 5.0]]))
        model[2].bias.zero_()
    model = model.double()
    hidden = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.Flatten(), model)
    # A 4-D tensor in front, so that the relevance at x is on record.
    images = torch.tensor([[1.0, 2.0]], dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.rest = nn.Identity(), hidden[2]

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.start(x))

    found = propagate(Net(), images, torch.tensor([[0]]), seed=one_hot_seed)
    assert found.logits.tolist() == [[4.0, -1.0]]
    # Class 0: 4 over contributions (3, 1, 0), so hidden R = (3, 1, 0).
    # Then 3 of unit 0 goes over (1, 2), and 1 of unit 1, with W+ = (3, 0), over (3, 0).
    assert found["rest.1"].relevance.tolist() == [[[3.0, 1.0, 0.0]]]
    torch.testing.assert_close(found["start"].relevance, torch.tensor([[[1.0 + 1.0, 2.0]]], dtype=torch.float64))


def test_a_signed_input_by_hand() -> None:
    # x = (2, -1, -3), w = (1, -4, 2): contributions 2, 4 and 0.
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -4.0, 2.0]]))
    images = torch.tensor([[2.0, -1.0, -3.0]], dtype=torch.float64)
    found = propagate(model, images, torch.tensor([[0]]), seed=lambda *_: torch.full((1, 1, 1), 3.0).double())
    torch.testing.assert_close(found["0"].relevance, torch.tensor([[[1.0, 2.0, 0.0]]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("logits", "target", "seed"),
    [
        ([2.0, 5.0, 1.0], 0, [2.0, -1.0, -1.0]),
        ([2.0, -5.0, 1.0], 1, [-2.5, 5.0, -2.5]),
        ([0.0, 5.0, 1.0], 0, [1.0, -0.5, -0.5]),
        ([-3.0], 0, [3.0]),
    ],
    ids=["positive", "negative", "zero", "one_class"],
)
def test_contrastive_seed(logits: list[float], target: int, seed: list[float]) -> None:
    assert clrp_seed(torch.tensor([logits]), torch.tensor([[target]])).tolist() == [[seed]]


@pytest.mark.parametrize("name", ZOO)
def test_dense_equals_convolutions(name: str) -> None:
    model, images = ZOO[name].shared(), ZOO[name].images()
    targets = choose_targets(model(images))
    dense, convolutions = (propagate(model, images, targets, dense=dense) for dense in (True, False))
    torch.testing.assert_close(dense.logits, model(images))
    assert dense.feature_maps()
    for layer in dense.feature_maps():
        expected = dense[layer].relevance
        assert expected.abs().amax(dim=(2, 3, 4)).min() > 0, layer
        difference = (convolutions[layer].relevance - expected).abs().amax()
        assert difference <= 1e-13 * expected.abs().amax(), layer


@pytest.mark.parametrize("name", ZOO)
def test_the_seed_does_not_cancel_away(name: str) -> None:
    # The contrastive seed sums to zero, and where every class leads to the same units little of it is left: below
    # 1e-3 of the seed float32 could no longer resolve the weights to 1e-4, whoever computes them.
    model, images = ZOO[name].shared(), ZOO[name].images()
    targets = choose_targets(model(images))
    found = propagate(model, images, targets)
    seed = clrp_seed(found.logits, targets).abs().amax(2).T
    for layer in found.feature_maps():
        assert (found[layer].weights.abs().amax(2) > 1e-3 * seed).all(), layer


def test_one_hot_relevance_is_conserved_without_biases() -> None:
    torch.manual_seed(0)
    body = [conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.AvgPool2d(2), conv(4, 4), nn.ReLU()]
    model = nn.Sequential(*body, head(4)).double()
    with torch.no_grad():
        model[-1][-1].bias.zero_()
    images = torch.randn(2, 3, 12, 12).double()
    found = propagate(model, images, torch.tensor([[0, 1], [2, 3]]), seed=one_hot_seed)
    expected = found.logits.gather(1, torch.tensor([[0, 1], [2, 3]]))
    for layer in found.feature_maps():
        torch.testing.assert_close(found[layer].weights.sum(-1), expected, rtol=1e-12, atol=1e-12)


def test_exhibits_have_what_they_show() -> None:
    def activations(name: str) -> dict[str, Tensor]:
        model, images = ZOO[name].shared(), ZOO[name].images()
        found = propagate(model, images, choose_targets(model(images)))
        return {layer: found[layer].activation for layer in found.feature_maps()}

    saturated = activations("saturated_relu6")
    assert (saturated["act"] == 6).double().mean() > 0.2
    assert (saturated["pool"] == 6).double().mean() > 0.2

    pooled = activations("pooling_with_ties")["second"].relu()
    windows = nn.functional.unfold(pooled, 3, stride=2, padding=1).view(2, 4, 9, -1)
    best = windows.amax(2)
    tied = (windows == best.unsqueeze(2)).sum(2) > 1
    assert (tied & (best > 0)).sum() > 20

    bottleneck = activations("linear_bottleneck")
    for layer in ("features.1", "features.2", "features.3"):
        assert (bottleneck[layer] < 0).any()
        assert (bottleneck[layer] > 0).any()
    gammas = [m.weight for m in ZOO["linear_bottleneck"].shared().modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((gamma < 0).any() for gamma in gammas)

    dead = ZOO["convolutional_head"].shared()(ZOO["convolutional_head"].images())
    assert (dead[:, 0] == 0).all()
    assert (dead[:, 1:4] > 0).all()
