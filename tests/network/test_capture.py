"""A captured model computes what the user's model computes in eval mode."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastcam
from fastcam.network.cache import Output, network_for
from tests.classifiers import MODELS, settle
from tests.zoo import conv_bn, head, randomise


def logits_of(model: nn.Module, images: Tensor, output: Output | None = None) -> Tensor:
    return network_for(model, images, output=output).forward(images)[0]


def assert_same_logits(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def classifier(request: pytest.FixtureRequest) -> Iterator[tuple[nn.Module, int]]:
    """A model, settled, and its side; its memory is given back at once (vgg19 weighs half a gigabyte)."""
    build, side = MODELS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        settle(model, draw(4, 3, side, side, seed=1))
    yield model, side
    fastcam.clear_cache(model)
    gc.collect()


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@pytest.mark.parametrize("classifier", MODELS, indirect=True)
def test_classifiers(classifier: tuple[nn.Module, int]) -> None:
    model, side = classifier
    images = draw(3, 3, side, side)
    with torch.no_grad():
        expected = model(images)
    # Else the comparison would say little.
    assert (expected[0] - expected[1]).abs().max() > 1e-2 * expected.abs().max()
    graphs = set()
    for batch in (3, 1):
        assert_same_logits(logits_of(model, images[:batch]), expected[:batch], 1e-4)
        graphs.add(network_for(model, images[:batch]).graph)
    # One capture, with a batch of 2, serves any batch.
    assert len(graphs) == 1
    for method in (fastcam.grad_cam, fastcam.relevance_cam):
        maps = method(model, images[:2], 3)
        assert maps.shape == (2, side, side)
        assert maps.isfinite().all()
    # Relevance may be 0 for one image of a random network, but a map that is flat for both tells of a fault.
    assert maps.amax() == 1


class Small(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(conv_bn(channels, 4), conv_bn(4, 6, stride=2)), head(6)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


def build(kind: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(kind(*arguments)).double()


def check(model: nn.Module, images: Tensor, output: Output | None = None) -> None:
    with torch.no_grad():
        expected = model(images.clone())
    expected = expected if output is None else output(expected)
    assert expected.abs().max() > 0
    assert_same_logits(logits_of(model, images, output), expected, 1e-12)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channel_counts(channels: int) -> None:
    check(build(Small, channels), draw(3, channels, 9, 8, dtype=torch.float64))


class InDict(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {"features": features, "logits": self.head(features)}


class InTuple(Small):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.head(self.features(x))
        return y.mean(1), (y, 2 * y)


@pytest.mark.parametrize(
    ("kind", "output"),
    [(InDict, lambda y: y["logits"]), (InTuple, lambda y: y[1][1]), (InTuple, lambda y: y[1][0] - y[0][:, None])],
    ids=["dict", "tuple", "computed"],
)
def test_output_picks_the_logits(kind: type[nn.Module], output: Output) -> None:
    check(build(kind), draw(3, 3, 8, 8, dtype=torch.float64), output)


class FixedBatch(Small):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).view(self.batch, 6, 4, 4))


class OneByOne(Small):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head(self.features(x[i : i + 1])) for i in range(x.shape[0])])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_fixed_in_the_code(batch: int) -> None:
    model = build(FixedBatch, batch)
    images = draw(batch, 3, 8, 8, dtype=torch.float64)
    check(model, images)
    graph = network_for(model, images).graph
    assert not graph.dynamic_batch
    assert network_for(model, images).graph is graph
    with pytest.raises(ValueError, match="model cannot be captured"):
        network_for(model, draw(batch + 1, 3, 8, 8, dtype=torch.float64))


def test_a_loop_over_the_batch_is_captured_for_each_batch() -> None:
    model = build(OneByOne)
    for batch in (2, 3, 1, 2):
        check(model, draw(batch, 3, 8, 8, dtype=torch.float64))


class RectifiesInPlace(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0][0](x)
        torch.relu_(y)
        y += 0.5
        y *= y.sigmoid()
        return self.head(F.hardtanh_(self.features[1](y), 0.1, 0.9))


class ReadsBeforeAndAfter(Small):
    """A value is used before and after it is written to."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0][0](x)
        before = y.abs()
        y.sub_(1, alpha=3).relu_()
        return self.head(self.features[1](y + before))


class WritesIntoSlice(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0](x)
        part = y[:, 1:3]
        part.mul_(-2)
        return self.head(self.features[1](y))


class AssignsItem(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0](x).clone()
        y[:, 0] = 0.5
        y[:, :, 2:4, 1] += y[:, 1:2, 4:6, 2]
        return self.head(self.features[1](y))


class WritesUnderView(Small):
    """A view is taken, its base written to, the view read."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0][0](x)
        view = y.flatten(2)
        y.relu_()
        return self.head(self.features[1](y)) + view.mean((1, 2))[:, None]


class WritesToImages(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.sub_(0.3).mul_(2)))


class WritesThroughChunks(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features[0](x)
        first, second = y.chunk(2, dim=1)
        first += second
        return self.head(self.features[1](y))


@pytest.mark.parametrize(
    "kind",
    [
        RectifiesInPlace,
        ReadsBeforeAndAfter,
        WritesIntoSlice,
        AssignsItem,
        WritesUnderView,
        WritesToImages,
        WritesThroughChunks,
    ],
)
def test_writes_in_place(kind: type[nn.Module]) -> None:
    images = draw(3, 3, 8, 8, dtype=torch.float64)
    before = images.clone()
    model = build(kind)
    check(model, images)
    assert images.equal(before)
    # What the modules returned is known behind torch.export's own passes too.
    assert {"head", "head.0", "head.2"} <= network_for(model, images).graph.layers.keys()


class Twice(nn.Module):
    """One block used twice, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv_bn(3, 4), conv_bn(4, 4), head(4)
        self.alias = self.block[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alias(self.block(self.block(self.stem(x)))))


class Splits(nn.Module):
    """chunk, split by one size and by several, unbind, and parts in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = conv_bn(3, 8), conv_bn(4, 4), conv_bn(3, 4), head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first, second = x.chunk(2, dim=1)
        one, three, four = torch.split(x, [1, 3, 4], dim=1)
        top, bottom = x.split(4, dim=2)[:2]
        left = self.left(first - second) + four * one
        return self.head(torch.cat([left, self.right(three)], 1)) + (top - bottom).mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("kind", [Twice, Splits])
def test_shared_modules_and_parts(kind: type[nn.Module]) -> None:
    check(build(kind), draw(3, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("dilation", [1, 2, (1, 3)], ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 3), (4, 1)], ids=str)
@pytest.mark.parametrize("mode", ["same", "valid"])
def test_padding_in_words(mode: str, kernel: Any, dilation: Any) -> None:
    def make() -> nn.Module:
        first = nn.Conv2d(3, 4, kernel, padding=mode, dilation=dilation)
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 4, 2, padding=mode, groups=2), nn.ReLU(), head(4))

    model = build(make)
    images = draw(2, 3, 13, 12, dtype=torch.float64)
    check(model, images)
    maps = fastcam.relevance_cam(model, images, 0, "1", size="layer")
    with torch.no_grad():
        assert maps.shape[1:] == model[:2](images).shape[2:]


def test_hooks_of_the_user_do_not_run() -> None:
    model = build(Small)
    expected = model(images := draw(3, 3, 8, 8, dtype=torch.float64)).detach()
    calls: list[str] = []

    def note(what: str, returned: Any) -> Callable[..., Any]:
        def hook(*_: Any, **__: Any) -> Any:
            calls.append(what)
            return returned

        return hook

    for module in model.modules():
        module.register_forward_pre_hook(note("before", None))
        module.register_forward_pre_hook(note("before, keywords", None), with_kwargs=True)
        module.register_forward_hook(note("after", None))
        module.register_forward_hook(note("always", None), always_call=True)
        module.register_full_backward_hook(note("back", None))
        module.register_full_backward_pre_hook(note("before back", None))
    model.register_forward_hook(note("changes the logits", torch.zeros(1)))
    found = logits_of(model, images)
    fastcam.grad_cam(model, images)
    assert calls == []
    assert_same_logits(found, expected, 1e-12)
    with torch.no_grad():
        model.features(images)
    assert calls


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight - weight.mean()


def old_weight_norm(layer: nn.Module) -> nn.Module:
    return torch.nn.utils.weight_norm(layer)


def pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", amount=0.3)
    return layer


REPARAMETRISED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm-hook": old_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm-hook": torch.nn.utils.spectral_norm,
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "pruned": pruned,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", REPARAMETRISED.values(), ids=REPARAMETRISED)
def test_reparametrised_layers(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = build(Small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wrap(model.features[0][0])
        wrap(model.head[-1])
    images = draw(3, 3, 8, 8, dtype=torch.float64)
    # An optimiser's step leaves the `weight` that hooks have left behind out of date.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.eval()
    found = logits_of(model, images)
    with torch.no_grad():
        assert_same_logits(found, model(images), 1e-12)
        for parameter in model.parameters():
            parameter.add_(0.1)
        found = logits_of(model, images)
        assert_same_logits(found, model(images), 1e-12)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", REPARAMETRISED.values(), ids=REPARAMETRISED)
def test_relevance_of_reparametrised_layers(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, plain = build(Small), build(Small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wrap(model.features[1][0])
        wrap(model.head[-1])
    images = draw(2, 3, 8, 8, dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        model(images)
        plain.features[1][0].weight.copy_(model.features[1][0].weight)
        plain.head[-1].weight.copy_(model.head[-1].weight)
    maps = [fastcam.relevance_cam(net, images, 1, "features.0", normalize=False) for net in (model, plain)]
    torch.testing.assert_close(*maps, rtol=1e-9, atol=1e-12)
