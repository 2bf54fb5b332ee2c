"""ablation_cam: every channel really left out, the closed form, and grad-cam's."""

from __future__ import annotations

import pytest
import torch
from pytorch_grad_cam import AblationCAM, AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import fastcam
from tests.attribution.toys import TwoChannels, layer_of, two_by_two, watched
from tests.zoo import ZOO, Residual, conv, conv_bn, head, randomise


def without_each_channel(model: nn.Module, x: Tensor, layer: str, targets: Tensor) -> Tensor:
    """alpha (N, T, K): one run of the whole model for each channel, which a hook sets to 0 in a copy."""
    logits, activation = layer_of(model, x, layer)
    left = []
    for k in range(activation.shape[1]):

        def ablate(_: nn.Module, __: object, output: Tensor, k: int = k) -> Tensor:
            output = output.clone()
            output[:, k] = 0
            return output

        handle = model.get_submodule(layer).register_forward_hook(ablate)
        left.append(model(x).gather(1, targets))
        handle.remove()
    y = logits.gather(1, targets)[..., None]
    return ((y - torch.stack(left, 2)) / y).detach()


CASES = [
    ("residual_downsample", "block2.conv1"),  # a connection goes around it
    ("residual_downsample", "block1.bn2"),  # into an addition
    ("residual_downsample", "stem"),
    ("dense_blocks", "layer1"),
    ("dense_blocks", "stem"),
    ("inception_branches", "three.0"),
    ("linear_bottleneck", "features.2"),
    ("groups_and_shuffle", "grouped"),
    ("squeeze_excitation", "middle"),
    ("squeeze_excitation", "gate1"),
    ("vgg_biases", "features.3"),
]


@pytest.mark.parametrize(("name", "layer"), CASES, ids=lambda value: value)
def test_weights_are_what_the_logit_loses(name: str, layer: str) -> None:
    entry = ZOO[name]
    model, x = entry.shared(), entry.images()
    targets = torch.tensor([[0, 3], [4, 1]])[: len(x)]
    expected = without_each_channel(model, x, layer, targets)
    assert expected.abs().amax() > 1e-4
    for batch_size in (None, 2):
        found = fastcam.ablation_cam(model, x, targets, layer, batch_size=batch_size, return_info=True)
        torch.testing.assert_close(found.weights, expected, rtol=1e-8, atol=1e-9)


class Pooled(nn.Module):
    def __init__(self, pool: nn.Module, side: int) -> None:
        super().__init__()
        self.layer, self.pool, self.fc = conv_bn(3, 6), pool, nn.Linear(6 * side * side, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layer(x)), 1))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


POOLS = [
    pytest.param(lambda: nn.AdaptiveAvgPool2d(1), 1, 0, id="adaptive"),
    pytest.param(lambda: nn.AvgPool2d(8), 1, 0, id="average_of_all"),
    pytest.param(Mean, 1, 0, id="mean"),
    pytest.param(lambda: nn.AvgPool2d(7), 1, 1, id="average_but_for_an_edge"),
    pytest.param(lambda: nn.AdaptiveMaxPool2d(1), 1, 1, id="maximum"),
    pytest.param(lambda: nn.AvgPool2d(4), 2, 1, id="four_places"),
]


@pytest.mark.parametrize(("pool", "side", "runs"), POOLS)
def test_no_run_where_pooling_and_a_linear_layer_are_left(pool: object, side: int, runs: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = randomise(Pooled(pool(), side)).double()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = torch.tensor([[0, 3], [4, 1]])
    with watched() as seen:
        found = fastcam.ablation_cam(model, x, targets, "layer", return_info=True)
    assert seen["forward"] == [2]
    assert len(seen["run_from"]) == runs
    torch.testing.assert_close(found.weights, without_each_channel(model, x, "layer", targets), rtol=1e-9, atol=1e-12)
    if runs:
        with pytest.raises(ValueError, match="method: cam"):
            fastcam.cam(model, x, 0, "layer")
    else:
        y = found.logits.gather(1, targets)[..., None]
        drops = fastcam.cam(model, x, targets, "layer", return_info=True).weights
        means = layer_of(model, x, "layer")[1].mean((2, 3))[:, None]
        torch.testing.assert_close(found.weights * y, (drops * means).detach())


def test_by_hand() -> None:
    # Both means are 2.5: class 0 loses 5 of 2.5 without A0 and -2.5 without A1; class 2 loses 7.5 of 7.5 without A1.
    model = TwoChannels().double().eval()
    common = {"layer": "relu", "size": "layer", "normalize": False, "return_info": True}
    found = fastcam.ablation_cam(model, two_by_two(), [[0, 2]], **common)
    assert found.weights.tolist() == [[[2, -1, 0], [0, 1, 0]]]
    assert found.maps.tolist() == [[[[0, 1], [4, 7]], [[4, 3], [2, 1]]]]
    assert found.left_out["skipped_channels"].tolist() == [1]
    # The logit of class 1 is 0: the weights are the losses.
    assert fastcam.ablation_cam(model, two_by_two(), [[1]], **common).weights.tolist() == [[[-2.5, 2.5, 0]]]


class Head(nn.Module):
    """A layer behind a ReLU, with dead channels, in front of a head that is not linear."""

    def __init__(self, *, relu: bool) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.layer = nn.Sequential(conv(4, 8, bias=True), *([nn.ReLU()] if relu else []))
        self.after, self.head = conv_bn(8, 6), head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.layer(self.stem(x))))


def headed(*, relu: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = randomise(Head(relu=relu))
    if relu:
        model.layer[0].weight.data[1::3] = 0
        model.layer[0].bias.data[1::3] = -1
    return model


BATCH = 5
SEVERAL = torch.tensor([[1, 0, 4], [3, 2, 0]])


def theirs(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """alpha (N, T, K)."""
    activation, found = layer_of(model, x, "layer")[1].detach().numpy(), []
    for column in targets.T.tolist():
        wanted = [ClassifierOutputTarget(c) for c in column]
        with AblationCAM(model=model, target_layers=[model.layer], batch_size=BATCH) as cam:
            found.append(torch.from_numpy(cam.get_cam_weights(x, model.layer, wanted, activation, None)))
    return torch.stack(found, 1)


def test_equals_grad_cam_behind_a_relu() -> None:
    model = headed(relu=True)
    x = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(3))
    found = fastcam.ablation_cam(model, x, SEVERAL, "layer", return_info=True)
    torch.testing.assert_close(found.weights, theirs(model, x, SEVERAL), rtol=1e-4, atol=1e-5)
    assert (found.weights.abs().amax(2) > 0.01).all()


@torch.no_grad()
def lowered(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """alpha (N, T, K) as grad-cam has it where the layer's least value is not 0."""
    logits, activation = layer_of(model, x, "layer")
    y = logits.gather(1, targets)
    left = []
    for n, a in enumerate(activation):
        for start in range(0, len(a), BATCH):
            batch = a.repeat(min(BATCH, len(a) - start), 1, 1, 1)
            for row, without in enumerate(batch):
                without[start + row] = batch.min() - 1e7
            left.append(model.head(model.after(batch))[:, targets[n]])
    return (y.unsqueeze(2) - torch.cat(left).view(len(x), -1, y.shape[1]).mT) / y.unsqueeze(2)


def test_differs_from_grad_cam_where_activations_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition leaves a channel out, as 0.

    grad-cam sets it to the least value of its batch less 1e7, where that value is not 0: the first channel of a batch
    to about -1e7, the second to -2e7, and so on.
    """
    model = headed(relu=False)
    x = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(3))
    found = fastcam.ablation_cam(model, x, SEVERAL, "layer", return_info=True).weights
    torch.testing.assert_close(found, without_each_channel(model, x, "layer", SEVERAL), rtol=1e-4, atol=1e-5)
    peers = theirs(model, x, SEVERAL)
    torch.testing.assert_close(peers, lowered(model, x, SEVERAL), rtol=1e-4, atol=1e-5)
    assert (peers.abs() > 1e3 * found.abs()).double().mean() > 0.5
    monkeypatch.setattr(AblationLayer, "__call__", leave_out)
    torch.testing.assert_close(found, theirs(model, x, SEVERAL), rtol=1e-4, atol=1e-5)


def leave_out(layer: AblationLayer, _: Tensor) -> Tensor:
    """grad-cam's layer with 0 in place of the lowered value."""
    rows = torch.arange(len(layer.activations))
    layer.activations[rows, torch.as_tensor(layer.indices)[: len(rows)].long()] = 0
    return layer.activations


def test_dead_channels_are_not_run_and_memory_is_bounded() -> None:
    model = headed(relu=True)
    x = torch.randn(3, 3, 10, 10, generator=torch.Generator().manual_seed(3))
    with watched() as seen:
        found = fastcam.ablation_cam(model, x, 1, "layer", batch_size=4, return_info=True)
    dead = (layer_of(model, x, "layer")[1] == 0).all(-1).all(-1)
    assert found.left_out["skipped_channels"].tolist() == dead.sum(1).tolist() == [3, 4, 3]
    assert seen == {"forward": [3], "run_from": [4, 4, 4, 2]}
    assert (found.weights[dead] == 0).all()
    assert (found.weights[:, 1::3] == 0).all()


def test_a_connection_around_the_layer_costs_one_forward_pass_more() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = randomise(Residual())
    x = torch.randn(2, 3, 12, 12)
    with watched() as seen:
        fastcam.ablation_cam(model, x, 1, "block1.conv1")
        fastcam.ablation_cam(model, x, 1, "block1")
    assert seen["forward"] == [2, 2, 2]
