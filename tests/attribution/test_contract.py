"""The signature that every method shares: targets, layers, sizes, precisions, what comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.zoo import ZOO, Residual, Reused, SqueezeNet, Vgg, conv_bn, head, randomise

METHODS: dict[str, Callable[..., Any]] = {
    "cam": fastcam.cam,
    "grad_cam": fastcam.grad_cam,
    "relevance_cam": fastcam.relevance_cam,
    "score_cam": fastcam.score_cam,
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
# cam looks at the layer in front of the pooling alone.
ANY_LAYER = pytest.mark.parametrize("method", ["grad_cam", "relevance_cam", "score_cam"])
CLASSES = 5
# Three images, each explained for each class: where a method ends in a ReLU, some maps are all zeros.
EVERY_CLASS = [list(range(CLASSES))] * 3


def small_model(channels: int = 3) -> nn.Module:
    """layer1 (6, 6), layer2 (6, 6), layer3 (3, 3) for images of 12; global pooling and one linear layer."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.layer2 = conv_bn(channels, 4, stride=2), conv_bn(4, 5)
            self.layer3, self.head = conv_bn(5, 6, stride=2), head(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer3(self.layer2(self.layer1(x))))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return randomise(Net())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_model()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(9))


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


# -- targets


@EVERY_METHOD
def test_no_target_means_the_predicted_class(method: str, model: nn.Module, images: Tensor) -> None:
    predicted = model(images).argmax(1)
    found = METHODS[method](model, images, return_info=True)
    assert found.maps.shape == (3, 12, 12)
    assert found.targets.tolist() == predicted.tolist()
    assert close(found.maps, METHODS[method](model, images, predicted))


@EVERY_METHOD
def test_a_target_for_all_for_each_and_several(method: str, model: nn.Module, images: Tensor) -> None:
    function = METHODS[method]
    several = function(model, images, torch.tensor([[0, 1], [2, 3], [4, 0]]))
    assert several.shape == (3, 2, 12, 12)
    assert close(function(model, images, [[0, 1], [2, 3], [4, 0]]), several)
    assert close(function(model, images, torch.tensor([0, 2, 4])), several[:, 0])
    assert close(function(model, images, [1, 3, 0]), several[:, 1])
    assert close(function(model, images, (1, 3, 0)), several[:, 1])
    assert close(function(model, images, np.array([1, 3, 0])), several[:, 1])
    assert close(function(model, images, torch.tensor([1, 3, 0], dtype=torch.int32)), several[:, 1])
    same = function(model, images, 2)
    assert same.shape == (3, 12, 12)
    assert close(same, function(model, images, [2, 2, 2]))
    assert close(function(model, images, np.int64(2)), same)
    assert close(function(model, images, [[2], [2], [2]]), same[:, None])


@EVERY_METHOD
def test_targets_with_one_class_twice(method: str, model: nn.Module, images: Tensor) -> None:
    maps = METHODS[method](model, images, [[1, 1], [2, 0], [3, 3]])
    assert close(maps[0, 0], maps[0, 1])
    assert close(maps[2, 0], maps[2, 1])


@EVERY_METHOD
def test_maps_tell_the_classes_apart(method: str, model: nn.Module, images: Tensor) -> None:
    raw = METHODS[method](model, images, EVERY_CLASS, normalize=False, size="layer")
    flat = raw.flatten(2)
    for n in range(3):
        assert torch.unique(flat[n], dim=0).shape[0] > 1


# -- layers


@EVERY_METHOD
def test_no_layer_means_the_last_feature_map(method: str, model: nn.Module, images: Tensor) -> None:
    found = METHODS[method](model, images, 1, return_info=True)
    assert found.layer.startswith("layer3")
    assert close(found.maps, METHODS[method](model, images, 1, "layer3"))


@pytest.mark.parametrize(
    ("build", "layer", "side"),
    [(Residual, "block2", 12), (SqueezeNet, "classifier.2", 12), (Vgg, "features", 12)],
    ids=["residual", "convolutional_head", "adaptive_pooling"],
)
def test_the_default_layer(build: type[nn.Module], layer: str, side: int) -> None:
    # Vgg pools to 2 x 2, itself a tensor with several positions: the tensor that is pooled comes first.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = randomise(build())
        x = torch.randn(2, 3, side, side)
    found = fastcam.relevance_cam(net, x, 1, size="layer", normalize=False)
    assert close(found, fastcam.relevance_cam(net, x, 1, layer, size="layer", normalize=False))


@ANY_LAYER
def test_a_layer_by_name_and_by_module(method: str, model: nn.Module, images: Tensor) -> None:
    by_name = METHODS[method](model, images, EVERY_CLASS, "layer2")
    by_module = METHODS[method](model, images, EVERY_CLASS, model.layer2, return_info=True)
    assert torch.equal(by_name, by_module.maps)
    assert by_module.layer == "layer2"
    assert not close(by_name, METHODS[method](model, images, EVERY_CLASS, "layer1"))


@ANY_LAYER
def test_several_layers_come_in_the_order_asked_for(method: str, model: nn.Module, images: Tensor) -> None:
    function = METHODS[method]
    layers = ["layer3", model.layer1, "layer2.0", "layer3"]
    found = function(model, images, [[0, 1]] * 3, layers, size="layer", normalize=False, return_info=True)
    assert isinstance(found.maps, list)
    assert found.layer == ["layer3", "layer1", "layer2.0", "layer3"]
    assert [tuple(maps.shape) for maps in found.maps] == [
        (3, 2, 3, 3),
        (3, 2, 6, 6),
        (3, 2, 6, 6),
        (3, 2, 3, 3),
    ]
    assert [tuple(weights.shape) for weights in found.weights] == [(3, 2, 6), (3, 2, 4), (3, 2, 5), (3, 2, 6)]
    for maps, layer in zip(found.maps, layers, strict=True):
        alone = function(model, images, [[0, 1]] * 3, layer, size="layer", normalize=False)
        torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-5)
    one = function(model, images, 1, ["layer2"])
    assert isinstance(one, list)
    assert close(one[0], function(model, images, 1, "layer2"))


@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
def test_uses_of_a_module_are_numbered(method: str) -> None:
    net, x = ZOO["reused_module"].shared(), ZOO["reused_module"].images()
    assert isinstance(net, Reused)
    names = ["block@0", "block@1", "block@2", "block"]
    classes = EVERY_CLASS[:2]
    maps = METHODS[method](net, x, classes, names, size="layer", normalize=False)
    assert torch.equal(maps[2], maps[3])
    assert not close(maps[0], maps[1])
    assert not close(maps[1], maps[2])
    by_module = METHODS[method](net, x, classes, net.block, size="layer", normalize=False)
    torch.testing.assert_close(by_module, maps[2])
    # "act@1" came after "block@0".
    activations = METHODS["grad_cam"](net, x, 1, ["act@1", "block@0"], size="layer", return_info=True)
    assert activations.layer == ["act@1", "block@0"]


# -- sizes and normalisation


@EVERY_METHOD
def test_sizes(method: str, model: nn.Module, images: Tensor) -> None:
    function = METHODS[method]
    for size, shape in [("input", (12, 12)), ("layer", (3, 3)), ((7, 20), (7, 20)), ([5, 4], (5, 4))]:
        assert function(model, images, 1, size=size).shape == (3, *shape)


@EVERY_METHOD
def test_normalised_maps_fill_zero_to_one(method: str, model: nn.Module, images: Tensor) -> None:
    raw = METHODS[method](model, images, EVERY_CLASS, normalize=False)
    maps = METHODS[method](model, images, EVERY_CLASS)
    low, high = raw.amin((-2, -1), keepdim=True), raw.amax((-2, -1), keepdim=True)
    expected = torch.where(high > low, (raw - low) / (high - low), 0.0)
    assert close(maps, expected)
    assert maps.min() == 0
    assert maps.max() == 1


@EVERY_METHOD
def test_relu_or_not(method: str, model: nn.Module, images: Tensor) -> None:
    raw = METHODS[method](model, images, EVERY_CLASS, normalize=False)
    assert (raw > 0).any()
    assert (raw < 0).any() == (method == "relevance_cam")


@EVERY_METHOD
def test_normalising_at_the_layer(method: str, model: nn.Module, images: Tensor) -> None:
    at_layer = METHODS[method](model, images, 1, size="layer")
    enlarged = F.interpolate(at_layer[:, None], (12, 12), mode="bilinear", align_corners=False)[:, 0]
    found = METHODS[method](model, images, 1, normalize_at="layer")
    assert close(found, enlarged)
    assert not close(found, METHODS[method](model, images, 1)) or method in {"cam", "grad_cam", "score_cam"}


@EVERY_METHOD
def test_raw_maps_are_sums_enlarged(method: str, model: nn.Module, images: Tensor) -> None:
    held = {}
    handle = model.layer3.register_forward_hook(lambda *call: held.update(output=call[2].detach()))
    model(images)
    handle.remove()
    found = METHODS[method](model, images, [[0, 1]] * 3, "layer3", normalize=False, return_info=True)
    sums = torch.einsum("ntk,nkhw->nthw", found.weights, held["output"])
    expected = F.interpolate(sums, (12, 12), mode="bilinear", align_corners=False)
    assert close(found.maps, expected if method == "relevance_cam" else expected.relu())


@EVERY_METHOD
def test_a_flat_map_gives_zeros(method: str, images: Tensor) -> None:
    net = small_model()
    with torch.no_grad():
        net.layer3[1].weight.zero_()
        net.layer3[1].bias.fill_(0.5)  # A is 0.5 everywhere
    maps = METHODS[method](net, images, EVERY_CLASS, "layer3")
    assert torch.count_nonzero(maps) == 0
    with torch.no_grad():
        net.layer3[1].bias.fill_(-0.5)  # A is 0 everywhere
    maps = METHODS[method](net, images, EVERY_CLASS, "layer3")
    assert torch.count_nonzero(maps) == 0


# -- what comes back


@EVERY_METHOD
@pytest.mark.parametrize("several", [False, True], ids=["one_target", "several_targets"])
def test_explanation(method: str, several: bool, model: nn.Module, images: Tensor) -> None:
    targets = [[0, 1], [2, 3], [4, 0]] if several else [0, 2, 4]
    found = METHODS[method](model, images, targets, "layer3", return_info=True)
    assert isinstance(found, fastcam.Explanation)
    assert close(found.maps, METHODS[method](model, images, targets, "layer3"))
    with torch.no_grad():
        logits = model(images)
    assert close(found.logits, logits)
    assert close(found.probabilities, logits.softmax(1))
    assert found.targets.dtype == torch.int64
    assert found.targets.tolist() == targets
    assert found.layer == "layer3"
    assert found.weights.shape == ((3, 2, 6) if several else (3, 6))
    assert isinstance(dict(found.left_out), dict)
    if method == "score_cam":
        assert found.left_out["skipped_channels"].shape == (3,)
        assert found.left_out["skipped_channels"].dtype == torch.int64
    with pytest.raises(FrozenInstanceError):
        found.maps = found.logits
    assert not found.maps.requires_grad
    assert not found.logits.requires_grad
    assert not found.weights.requires_grad


@EVERY_METHOD
def test_explain_and_explainer_equal_the_functions(method: str, model: nn.Module, images: Tensor) -> None:
    expected = METHODS[method](model, images, [0, 1, 2], "layer3", size="layer", normalize=False)
    by_name = fastcam.explain(
        model, images, method=method, targets=[0, 1, 2], layer="layer3", size="layer", normalize=False
    )
    assert torch.equal(by_name, expected)
    explainer = fastcam.Explainer(model, method=method, layer="layer3", size="layer", normalize=False)
    for _ in range(2):
        assert torch.equal(explainer(images, [0, 1, 2]), expected)
    other = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    assert close(explainer(other), METHODS[method](model, other, None, "layer3", size="layer", normalize=False))


def test_relevance_cam_is_explains_default(model: nn.Module, images: Tensor) -> None:
    assert torch.equal(fastcam.explain(model, images), fastcam.relevance_cam(model, images))
    assert torch.equal(fastcam.Explainer(model)(images), fastcam.relevance_cam(model, images))


def test_options_of_score_cam_reach_it(model: nn.Module, images: Tensor) -> None:
    options = {"baseline": None, "score": "logit", "weights": "softmax", "batch_size": 5}
    expected = fastcam.score_cam(model, images, 1, "layer2", **options)
    assert torch.equal(
        fastcam.explain(model, images, method="score_cam", targets=1, layer="layer2", **options), expected
    )
    explainer = fastcam.Explainer(model, method="score_cam", layer="layer2", **options)
    assert torch.equal(explainer(images, 1), expected)


@EVERY_METHOD
def test_the_returned_memory_is_the_callers(method: str, model: nn.Module, images: Tensor) -> None:
    function = METHODS[method]
    given = images.clone()
    first = function(model, images, 1, "layer3", return_info=True)
    kept = {name: getattr(first, name).clone() for name in ("maps", "logits", "probabilities", "weights")}
    second = function(model, -images, 2, "layer3", return_info=True)
    assert all(torch.equal(getattr(first, name), value) for name, value in kept.items())
    for name in kept:
        getattr(second, name).fill_(7)  # must reach nothing that a later call reads
    assert close(function(model, images, 1, "layer3"), kept["maps"])
    assert torch.equal(images, given)
    first.maps[0].fill_(3)
    assert torch.equal(first.maps[1], kept["maps"][1])


@EVERY_METHOD
def test_each_image_alone_gives_the_same(method: str, model: nn.Module, images: Tensor) -> None:
    targets = [[0, 1], [2, 3], [4, 0]]
    together = METHODS[method](model, images, targets, normalize=False)
    for n in range(3):
        alone = METHODS[method](model, images[n : n + 1], [targets[n]], normalize=False)
        assert (alone[0] - together[n]).abs().max() <= 1e-5 * together[n].abs().max() + 1e-7


@EVERY_METHOD
def test_an_image_out_of_scale_leaves_the_others_alone(method: str, images: Tensor, model: nn.Module) -> None:
    # Thresholds and scales are per image.
    alone = METHODS[method](model, images[1:], [1, 2], normalize=False)
    loud = torch.cat([images[:1] * 1e6, images[1:]])
    together = METHODS[method](model, loud, [0, 1, 2], normalize=False)
    assert (together[1:] - alone).abs().max() <= 1e-5 * alone.abs().max()


# -- dtypes and layouts


@EVERY_METHOD
def test_a_double_model_gives_double_maps(method: str, images: Tensor) -> None:
    net = small_model().double()
    found = METHODS[method](net, images.double(), [[0, 1]] * 3, return_info=True)
    assert found.maps.dtype == found.logits.dtype == found.weights.dtype == torch.float64
    assert (found.logits - net(images.double())).abs().max() < 1e-12
    single = METHODS[method](small_model(), images, [[0, 1]] * 3)
    assert single.dtype == torch.float32
    assert (found.maps - single).abs().max() < 1e-4


@EVERY_METHOD
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_precisions(method: str, precision: str, model: nn.Module, images: Tensor) -> None:
    exact = METHODS[method](model, images, EVERY_CLASS)
    found = METHODS[method](model, images, EVERY_CLASS, precision=precision)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    if precision in {"float32", "tf32"}:  # on a CPU both are float32
        assert close(found, exact)
    else:
        assert not torch.equal(found, exact)
    # score_cam's increases are 3e-4 on this network, and bfloat16 resolves 2e-4: nothing to compare.
    if precision in {"bfloat16", "float16"} and method != "score_cam":
        together = torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1]
        assert together > 0.95


@EVERY_METHOD
def test_float32_precision_of_a_double_model(method: str, images: Tensor) -> None:
    net = small_model().double()
    found = METHODS[method](net, images.double(), 1, precision="float32")
    assert close(found.float(), METHODS[method](small_model(), images, 1))


@EVERY_METHOD
def test_layouts_of_the_images(method: str, model: nn.Module, images: Tensor) -> None:
    expected = METHODS[method](model, images, 1)
    assert close(METHODS[method](model, images.contiguous(memory_format=torch.channels_last), 1), expected)
    wide = torch.zeros(3, 3, 12, 24)
    wide[..., ::2] = images
    assert close(METHODS[method](model, wide[..., ::2], 1), expected)
    tracked = images.clone().requires_grad_()
    maps = METHODS[method](model, tracked, 1)
    assert close(maps, expected)
    assert not maps.requires_grad
    assert tracked.grad is None


@EVERY_METHOD
def test_a_channels_last_model(method: str, images: Tensor, model: nn.Module) -> None:
    net = small_model().to(memory_format=torch.channels_last)
    assert close(METHODS[method](net, images, 1), METHODS[method](model, images, 1))
    assert net.layer2[0].weight.is_contiguous(memory_format=torch.channels_last)


@EVERY_METHOD
@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channel_counts(method: str, channels: int) -> None:
    net = small_model(channels)
    x = torch.randn(2, channels, 12, 12)
    found = METHODS[method](net, x, [[0, 1]] * 2, return_info=True)
    assert found.maps.shape == (2, 2, 12, 12)
    assert close(found.logits, net(x).detach())


@EVERY_METHOD
def test_batches_and_sizes_change_freely(method: str, model: nn.Module) -> None:
    for count, height, width in [(1, 12, 12), (4, 12, 12), (2, 17, 9), (1, 12, 12), (3, 8, 20)]:
        x = torch.randn(count, 3, height, width)
        found = METHODS[method](model, x, 1, return_info=True)
        assert found.maps.shape == (count, height, width)
        assert close(found.logits, model(x).detach())


# -- models with other outputs


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x))


@EVERY_METHOD
@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda y: {"logits": y, "other": y * 2}, lambda answer: answer["logits"]),
        (lambda y: (y * 2, y), lambda answer: answer[1]),
        (lambda y: [{"deep": y}], lambda answer: answer[0]["deep"]),
    ],
    ids=["dict", "tuple", "nested"],
)
def test_models_that_return_more(
    method: str, wrap: Callable[..., Any], output: Callable[..., Any], model: nn.Module, images: Tensor
) -> None:
    net = Wrapped(model, wrap).eval()
    found = METHODS[method](net, images, [0, 1, 2], "inner.layer3", output=output)
    assert close(found, METHODS[method](model, images, [0, 1, 2], "layer3"))
    explainer = fastcam.Explainer(net, method=method, layer="inner.layer3", output=output)
    assert close(explainer(images, [0, 1, 2]), found)


# -- changes to the model between calls


def optimiser_step(net: nn.Module) -> None:
    net.zero_grad()
    net(torch.ones(2, 3, 12, 12)).square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.05).step()


def in_place(net: nn.Module) -> None:
    with torch.no_grad():
        net.layer2[0].weight.mul_(-1)


def running_statistics(net: nn.Module) -> None:
    net.layer2[1].running_mean.add_(1)


def replaced_parameter(net: nn.Module) -> None:
    net.layer2[0].weight = nn.Parameter(-net.layer2[0].weight.detach())


def replaced_buffer(net: nn.Module) -> None:
    net.layer2[1].running_var = net.layer2[1].running_var * 9


def replaced_module(net: nn.Module) -> None:
    net.layer2[0] = nn.Conv2d(4, 5, 5, padding=2)


def replaced_activation(net: nn.Module) -> None:
    net.layer2[2] = nn.LeakyReLU(0.5)


def new_head(net: nn.Module) -> None:
    net.head[2] = nn.Linear(6, 9)


def loaded(net: nn.Module) -> None:
    net.load_state_dict({name: value * 1.5 for name, value in net.state_dict().items()})


def assigned(net: nn.Module) -> None:
    net.load_state_dict({name: value * 1.5 for name, value in net.state_dict().items()}, assign=True)


def fused_optimiser_step(net: nn.Module) -> None:
    net.zero_grad()
    net(torch.ones(2, 3, 12, 12)).square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.05, fused=True).step()


@torch.inference_mode()
def in_inference_mode(net: nn.Module) -> None:
    net.layer2[0].weight.mul_(-1)


def through_data(net: nn.Module) -> None:
    net.layer2[0].weight.data.mul_(-1)


def through_numpy(net: nn.Module) -> None:
    net.layer2[0].weight.detach().numpy()[:] *= -1


def setting(net: nn.Module) -> None:
    net.layer2[1].eps = 5.0


def replaced_forward(net: nn.Module) -> None:
    net.layer2[2].forward = lambda x: x.relu() * 2 + 1


CHANGES = [
    optimiser_step, in_place, running_statistics, replaced_parameter, replaced_buffer, replaced_module,
    replaced_activation, new_head, loaded, assigned, fused_optimiser_step, in_inference_mode, through_data,
    through_numpy, setting, replaced_forward,
]  # fmt: skip


@pytest.mark.parametrize("method", ["grad_cam", "relevance_cam"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_of_the_model_are_noticed(method: str, change: Callable[[nn.Module], None], images: Tensor) -> None:
    net = small_model()
    explainer = fastcam.Explainer(net, method=method, layer="layer1")
    arguments = {"size": "layer", "normalize": False}
    before = METHODS[method](net, images, 1, "layer1", **arguments)
    explainer(images, 1)
    change(net)
    net.eval()
    after = METHODS[method](net, images, 1, "layer1", return_info=True, **arguments)
    fresh = METHODS[method](copy.deepcopy(net), images, 1, "layer1", **arguments)
    assert not close(after.maps, before)
    torch.testing.assert_close(after.maps, fresh)
    torch.testing.assert_close(after.logits, net(images).detach(), rtol=1e-4, atol=1e-5)
    assert close(explainer(images, 1), METHODS[method](net, images, 1, "layer1"))


@EVERY_METHOD
def test_a_changed_dtype_is_noticed(method: str, images: Tensor) -> None:
    net = small_model()
    single = METHODS[method](net, images, 1)
    net.to(torch.float64)
    double = METHODS[method](net, images.double(), 1)
    assert double.dtype == torch.float64
    assert (double - single).abs().max() < 1e-4
    net.to(torch.float32)
    assert close(METHODS[method](net, images, 1), single)


@EVERY_METHOD
def test_clear_cache_after_a_change_that_leaves_no_trace(method: str, images: Tensor) -> None:
    net = small_model()
    METHODS[method](net, images, 1)
    weight = net.head[2].weight.data.numpy()
    # A filter's sign, and none of the numbers that are looked at.
    weight[1, 1:-1] *= -1
    for everything in (False, True):
        fastcam.clear_cache() if everything else fastcam.clear_cache(net)
        found = METHODS[method](net, images, 1, return_info=True)
        assert close(found.logits, net(images).detach())


def test_the_cache_keeps_no_model_alive(images: Tensor) -> None:
    import gc
    import weakref

    net = small_model()
    for function in METHODS.values():
        function(net, images, 1)
    seen = weakref.ref(net)
    del net
    gc.collect()
    assert seen() is None


def test_the_reference_backend_gives_the_same(model: nn.Module, images: Tensor) -> None:
    for function in METHODS.values():
        expected = function(model, images, 1)
        with fastcam.use_backend("reference"):
            assert close(function(model, images, 1), expected)


def test_keywords_are_keywords(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(TypeError, match="positional"):
        fastcam.relevance_cam(model, images, 1, "layer3", "layer")
