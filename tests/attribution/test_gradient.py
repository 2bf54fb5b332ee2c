"""The gradient family: each formula by hand, what passes are shared, options, precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.attribution.input_gradient import biased_maps
from fastcam.attribution.layer_gradient import axiomatic, plus_plus
from fastcam.models.loading import LoadedModel, load_model
from fastcam.network.cache import network_for
from fastcam.network.network import Network
from fastcam.photos import read_photo
from tests.zoo import ZOO, BasicBlock, conv_bn, head, randomise

AT_A_LAYER = [
    "grad_cam",
    "grad_cam_pp",
    "xgrad_cam",
    "hires_cam",
    "layer_cam",
    "wgrad_cam",
    "abs_cam_init",
    "norm_grad",
]
AT_THE_IMAGES = ["gradient", "guided_backprop", "deconvnet", "full_grad"]
FAMILY = [*AT_A_LAYER, "smooth_grad_cam_pp", *AT_THE_IMAGES]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Products(nn.Module):
    """A0 = x, A1 = 2 - x over 2x2 images; y0 = mean A0^2 - 2 mean A1, y1 = sum_p s_p A1_p, s = (1, -1, 2, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.0, 2.0]))
        self.register_buffer("s", torch.tensor([[1.0, -1.0], [2.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        first = (a[:, 0] * a[:, 0]).mean((1, 2)) - 2 * a[:, 1].mean((1, 2))
        return torch.stack([first, (a[:, 1] * self.s).sum((1, 2))], dim=1)


class TestByHand:
    """x = [[1, -2], [3, 0]]: A0 = x, sum 2; A1 = [[1, 4], [-1, 2]], sum 6.

    Class 0: g0 = A0 / 2 = [[.5, -1], [1.5, 0]], g1 = -1/2. Class 1: g0 = 0, g1 = [[1, -1], [2, 0]].
    """

    model = Products().double().eval()
    image = tensor([[[[1, -2], [3, 0]]]])

    def raw(self, method: str, **options: Any) -> tuple[Tensor, Tensor | None]:
        found = fastcam.explain(
            self.model, self.image, method=method, targets=[[0, 1]], size="layer", normalize=False,
            return_info=True, layer="conv", **options,
        )  # fmt: skip
        return found.maps[0], None if found.weights is None else found.weights[0]

    def check(self, method: str, weights: Any, maps: Any) -> None:
        found, alpha = self.raw(method)
        torch.testing.assert_close(alpha, tensor(weights), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found, tensor(maps), rtol=1e-12, atol=1e-12)

    def test_grad_cam_pp(self) -> None:
        # Class 0: g0 > 0 at two places, .5 / (2 + 2 .5) + 1.5 / (2 + 2 1.5) = 1/6 + 3/10 = 7/15; no g1 > 0.
        # Class 1: 1 / (2 + 6) + 2 / (2 + 12) = 1/8 + 1/7 = 15/56 of A1.
        a, b = 7 / 15, 15 / 56
        self.check("grad_cam_pp", [[a, 0], [0, b]], [[[a, 0], [3 * a, 0]], [[b, 4 * b], [0, 2 * b]]])

    def test_xgrad_cam(self) -> None:
        # Class 0: sum g0 A0 = .5 + 2 + 4.5 = 7, over 2; sum g1 A1 = -3, over 6. Class 1: (1 - 4 - 2) / 6.
        # Class 0: 3.5 A0 - .5 A1 = [[3, -9], [11, -1]].
        self.check("xgrad_cam", [[3.5, -0.5], [0, -5 / 6]], [[[3, 0], [11, 0]], [[0, 0], [5 / 6, 0]]])

    def test_hires_cam(self) -> None:
        # Class 0: g0 A0 = [[.5, 2], [4.5, 0]], g1 A1 = [[-.5, -2], [.5, -1]]. Class 1: g1 A1 = [[1, -4], [-2, 0]].
        g = [[[[0.5, -1], [1.5, 0]], [[-0.5, -0.5], [-0.5, -0.5]]], [[[0, 0], [0, 0]], [[1, -1], [2, 0]]]]
        self.check("hires_cam", g, [[[0, 0], [5, 0]], [[1, 0], [0, 0]]])

    def test_layer_cam(self) -> None:
        g = [[[[0.5, 0], [1.5, 0]], [[0, 0], [0, 0]]], [[[0, 0], [0, 0]], [[1, 0], [2, 0]]]]
        self.check("layer_cam", g, [[[0.5, 0], [4.5, 0]], [[1, 0], [0, 0]]])

    def test_wgrad_cam(self) -> None:
        # Means of g A: class 0 (7/4, -3/4), class 1 (0, -5/4): the larger becomes 1, the smaller 0.
        self.check("wgrad_cam", [[1, 0], [1, 0]], [[[1, 0], [3, 0]], [[1, 0], [3, 0]]])

    def test_abs_cam_init(self) -> None:
        # Class 0: 3/4 A0 + 1/2 A1 = [[1.25, .5], [1.75, 1]]. Class 1: the mean of (1, 1, 2, 0) is 1.
        self.check("abs_cam_init", [[0.75, 0.5], [0, 1]], [[[1.25, 0.5], [1.75, 1]], [[1, 4], [0, 2]]])

    def test_norm_grad(self) -> None:
        # |A|^2 = [[2, 20], [10, 4]]; |g|^2: class 0 [[.5, 1.25], [2.5, .25]], class 1 [[1, 1], [4, 0]].
        found, weights = self.raw("norm_grad")
        assert weights is None
        torch.testing.assert_close(found, tensor([[[1, 25], [25, 1]], [[2, 20], [40, 0]]]).sqrt())

    def test_smooth_grad_cam_pp(self) -> None:
        # The noise that the generator makes, sample by sample; g0 of class 0 is linear in it.
        noise = torch.Generator().manual_seed(3)
        x = self.image[0, 0]
        g = torch.stack(
            [(x + 0.5 * torch.randn(1, 1, 2, 2, generator=noise, dtype=x.dtype)[0, 0]) / 2 for _ in range(3)]
        )
        d1, d2, d3 = g.mean(0), (g**2).mean(0), (g**3).mean(0)
        first = (d2 / (2 * d2 + 2 * d3) * d1.relu()).sum()
        options = {"samples": 3, "std": 0.5}
        found, weights = self.raw("smooth_grad_cam_pp", **options, generator=torch.Generator().manual_seed(3))
        # Class 1 does not feel the noise.
        torch.testing.assert_close(weights, torch.stack([torch.stack([first, 0 * first]), tensor([0, 15 / 56])]))
        torch.testing.assert_close(found[0], (first * x).relu())

    def test_gradient(self) -> None:
        # dy0/dx = A0 / 2 + 1/2 (A1 falls as x rises), dy1/dx = -s.
        found = fastcam.gradient(self.model, self.image, [[0, 1]], normalize=False)
        torch.testing.assert_close(found[0], tensor([[[1, 0.5], [2, 0.5]], [[1, 1], [2, 0]]]))

    def test_full_grad(self) -> None:
        # x g = [[1, 1], [6, 0]] and -[[1, 2], [6, 0]], min-max of the magnitudes; the bias of channel 1 alone is not
        # 0, and its gradient is flat for class 0 and [[1, -1], [2, 0]] for class 1.
        found = fastcam.full_grad(self.model, self.image, [[0, 1]], normalize=False)
        expected = [[[1 / 6, 1 / 6], [1, 0]], [[1 / 6 + 1 / 2, 2 / 6 + 1 / 2], [2, 0]]]
        torch.testing.assert_close(found[0], tensor(expected))


class TestRectifiersByHand:
    """z = relu6(W x) of one pixel, W = (1, -1, 4, 2)^T, x = 2, y = (v, 1 - v) z: z = (2, 0, 6, 4) with 8 clipped.

    Signal v = (1, 1, 1, -3). Ordinary: 1 - 6 = -5. Guided: channel 0 alone, 1. By sign: 1 - 1 + 4 = 4.
    """

    class Net(nn.Module):
        def __init__(self, activation: nn.Module) -> None:
            super().__init__()
            self.conv, self.activation, self.last = nn.Conv2d(1, 4, 1, bias=False), activation, nn.Linear(4, 2)
            with torch.no_grad():
                self.conv.weight.copy_(torch.tensor([1.0, -1.0, 4.0, 2.0]).view(4, 1, 1, 1))
                self.last.weight.copy_(torch.tensor([[1.0, 1, 1, -3], [0, 0, 0, 4]]))
                self.last.bias.zero_()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.activation(self.conv(x)).mean((2, 3)))

    class Clamp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(min=0, max=6)

    class ClampMin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp_min(0)

    class ClampWide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(-5, 5)

    @pytest.mark.parametrize(
        ("activation", "ordinary", "guided", "by_sign"),
        [
            (nn.ReLU6(), -5, 1, 4),
            (nn.ReLU6(inplace=True), -5, 1, 4),
            (nn.Hardtanh(0, 6), -5, 1, 4),
            (nn.Hardtanh(0, 1), 0, 0, 4),
            (Clamp(), -5, 1, 4),
            (nn.ReLU(inplace=True), -1, 5, 4),
            (ClampMin(), -1, 5, 4),
            # No rectifiers: their own derivative.
            (nn.Hardtanh(), 0, 0, 0),
            (ClampWide(), -6, -6, -6),
            (nn.LeakyReLU(0.5), -1.5, -1.5, -1.5),
        ],
        ids=["relu6", "relu6_in_place", "hardtanh", "hardtanh_to_1", "clamp", "relu", "clamp_min", "two_sided",
             "two_sided_clamp", "leaky"],
    )  # fmt: skip
    def test_rules(self, activation: nn.Module, ordinary: float, guided: float, by_sign: float) -> None:
        model = self.Net(activation).double().eval()
        # The last pixels are 0, where nothing is above a bound.
        image = tensor([[[[2.0, 2.0], [2.0, 2.0]]]])
        for method, expected in [("gradient", ordinary), ("guided_backprop", guided), ("deconvnet", by_sign)]:
            found = fastcam.explain(model, image, method=method, targets=0, normalize=False)
            torch.testing.assert_close(4 * found, torch.full((1, 2, 2), abs(expected), dtype=torch.float64))

    def test_several_targets(self) -> None:
        model = self.Net(nn.ReLU()).double().eval()
        found = fastcam.guided_backprop(model, tensor([[[[2.0, -2.0]]]]), [[0, 1]], normalize=False)
        # Behind x = -2 channel 1 alone is above 0: its weight is -1 for class 0, 0 for class 1.
        torch.testing.assert_close(2 * found[0], tensor([[[5, 1]], [[8, 0]]]))


def test_a_smooth_activation_keeps_its_derivative() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.GELU(), head(4)).double().eval()
        images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ordinary = fastcam.gradient(model, images, 1)
    for method in ("guided_backprop", "deconvnet"):
        torch.testing.assert_close(fastcam.explain(model, images, method=method, targets=1), ordinary)


# -- where a denominator is 0


def test_grad_cam_pp_at_a_zero_denominator() -> None:
    # S = -4: 2 + S g = 0 at g = 1/2; the other place brings 1 / (2 - 4).
    a, g = tensor([[[[-4, 0]]]]), tensor([[[[[0.5, 1]]]]])
    assert plus_plus(a, g).item() == -0.5
    assert plus_plus(a, 0 * g).item() == 0


def test_grad_cam_pp_of_small_gradients() -> None:
    # g^3 is 0 in float32; as S g falls the fraction is 1/2.
    g = torch.full((1, 1, 1, 2, 2), 1e-20)
    torch.testing.assert_close(plus_plus(torch.ones(1, 1, 2, 2), g).item(), 2e-20)


def test_xgrad_cam_at_a_zero_sum() -> None:
    a, g = tensor([[[[1, -1]], [[1, 1]]]]), tensor([[[[[3, 4]], [[3, 4]]]]])
    assert axiomatic(a, g).tolist() == [[[0, 3.5]]]


def test_wgrad_cam_of_equal_channels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), head(3, 2)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    found = fastcam.wgrad_cam(model, tensor([[[[1, 2], [3, 4]]]]), 0, "0", return_info=True)
    assert torch.count_nonzero(found.weights) == 0


# -- what passes are shared


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = nn.Sequential(conv_bn(3, 6), BasicBlock(6, 8, stride=2), BasicBlock(8, 8), head(8))
        return randomise(net)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(6))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a network was run, and gradients were asked for."""
    counts = {"forward": 0, "backward": 0}

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            counts[kind] += 1
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(Network, "forward", counted("forward", Network.forward))
    monkeypatch.setattr(torch.autograd, "grad", counted("backward", torch.autograd.grad))
    return counts


@pytest.mark.parametrize("targets", [1, [[0, 3], [2, 2]]], ids=["one_target", "two_targets"])
def test_one_forward_and_one_backward_for_all(
    model: nn.Module, images: Tensor, passes: dict[str, int], targets: Any
) -> None:
    per_target = 2 if isinstance(targets, list) else 1
    common = {"targets": targets, "layer": ["1", "2.bn1"], "normalize": False}
    together = fastcam.explain(model, images, method=[*AT_A_LAYER, "gradient", "full_grad"], **common)
    assert passes == {"forward": 1, "backward": per_target}
    for method in AT_A_LAYER:
        before = dict(passes)
        alone = fastcam.explain(model, images, method=method, **common)
        assert passes == {"forward": before["forward"] + 1, "backward": before["backward"] + per_target}
        for maps, expected in zip(together[method], alone, strict=True):
            assert (maps - expected).abs().max() <= 1e-5 * expected.abs().max()
    for method in ("gradient", "full_grad"):
        alone = fastcam.explain(model, images, method=method, targets=targets, normalize=False)
        assert (together[method] - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_passes_of_the_others(model: nn.Module, images: Tensor, passes: dict[str, int]) -> None:
    for method in ("guided_backprop", "deconvnet"):
        before = dict(passes)
        fastcam.explain(model, images, method=method, targets=1)
        assert passes == {kind: count + 1 for kind, count in before.items()}
    before = dict(passes)
    # Eight noisy images are one pass.
    fastcam.smooth_grad_cam_pp(model, images, 1)
    assert passes == {"forward": before["forward"] + 2, "backward": before["backward"] + 1}


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_rectifiers_of_their_own_change_no_logit(method: str, model: nn.Module, images: Tensor) -> None:
    found = fastcam.explain(model, images, method=method, return_info=True)
    torch.testing.assert_close(found.logits, model(images).detach(), rtol=1e-4, atol=1e-5)
    assert found.targets.tolist() == model(images).argmax(1).tolist()
    # And no later call sees them.
    network = network_for(model, images)
    assert network.plan([network.graph.logits]) is not network.plan([network.graph.logits], alone=("relu",))


# -- the noise


def smooth(model: nn.Module, images: Tensor, *, seed: int = 4, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return fastcam.smooth_grad_cam_pp(model, images, [[0, 1], [2, 3]], "1", generator=generator, **options)


def test_noise_repeats_with_its_generator(model: nn.Module, images: Tensor) -> None:
    first = smooth(model, images)
    assert torch.equal(first, smooth(model, images))
    assert not torch.equal(first, smooth(model, images, seed=5))
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        smooth(model, images)
        assert torch.equal(torch.get_rng_state(), state)


def test_noise_does_not_depend_on_how_many_share_a_pass(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = smooth(model, images, samples=5, normalize=False)
    for batch in (1, 4, 100):
        monkeypatch.setattr("fastcam.attribution.smooth._BATCH", {"cpu": batch, "cuda": batch})
        found = smooth(model, images, samples=5, normalize=False)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_without_noise_it_is_grad_cam_pp(model: nn.Module, images: Tensor) -> None:
    expected = fastcam.grad_cam_pp(model, images, [[0, 1], [2, 3]], "1")
    for samples in (1, 3):
        torch.testing.assert_close(smooth(model, images, samples=samples, std=0), expected, rtol=1e-4, atol=1e-5)


def test_a_model_for_a_fixed_number_of_images(images: Tensor) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.conv(x).relu().view(2, 4, 256).mean(2))

    found = fastcam.smooth_grad_cam_pp(Fixed().eval(), images, 1, "conv", samples=3)
    assert found.shape == (2, 16, 16)
    assert found.isfinite().all()


@pytest.mark.parametrize("method", AT_THE_IMAGES)
def test_methods_at_the_images_take_no_layer(method: str, model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=f"layer: {method} explains the images"):
        fastcam.explain(model, images, method=method, layer="1")
    found = fastcam.explain(model, images, method=method, size=(5, 7), return_info=True)
    assert (found.maps.shape, found.layer, found.weights) == ((2, 5, 7), "input", None)


# -- biases


@pytest.mark.parametrize("exhibit", ["vgg_biases", "residual_downsample", "dense_blocks", "inception_branches",
                                     "preactivation", "squeeze_excitation"])  # fmt: skip
def test_gradients_of_images_and_biases_make_up_the_logit(exhibit: str) -> None:
    """y = x dy/dx + sum b dy/db over all biases (Srinivas and Fleuret, proposition 1), if nothing but rectifiers bends.

    Biases of linear layers are set to 0. Squeeze-and-excitation is no such network.
    """
    net, images = ZOO[exhibit].model(), ZOO[exhibit].images()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
    network = network_for(net, images)
    maps = biased_maps(network)
    leaves = [network.graph.images, *(biased.node for biased in maps)]
    with torch.enable_grad():
        logits, values = network.forward(images, leaves, leaves=leaves)
        gradients = torch.autograd.grad(logits[:, 1].sum(), [values[leaf] for leaf in leaves])
    parts = [(gradients[0] * images).sum((1, 2, 3))]
    for biased, g in zip(maps, gradients[1:], strict=True):
        parts.append((g * biased.bias(network)[:, None, None]).sum((1, 2, 3)))
    close = torch.allclose(torch.stack(parts).sum(0), logits[:, 1], rtol=1e-9, atol=1e-12)
    assert close == (exhibit != "squeeze_excitation")


def test_full_grad_does_not_see_how_large_a_bias_is(model: nn.Module, images: Tensor) -> None:
    """|b g| min-max is |g| min-max, unless b is 0."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1), head(5)).eval()  # g ignores b
    first = fastcam.full_grad(net, images, 1, normalize=False)
    with torch.no_grad():
        net[0].bias.mul_(100)
    torch.testing.assert_close(fastcam.full_grad(net, images, 1, normalize=False), first)
    with torch.no_grad():
        net[0].bias[2] = 0
    second = fastcam.full_grad(net, images, 1, normalize=False)
    assert (first - second).min() >= -1e-5
    assert (first - second).amax((1, 2)).min() > 0.5  # of a map from 0 to 1


# -- any image, any precision


@pytest.mark.parametrize("method", FAMILY)
def test_a_double_model_gives_double_maps(method: str, model: nn.Module, images: Tensor) -> None:
    net = nn.Sequential(*(m for m in model)).double()
    try:
        found = fastcam.explain(net, images.double(), method=method, targets=[[0, 1]] * 2, return_info=True)
    finally:
        net.float()
    assert found.maps.dtype == torch.float64
    assert found.weights is None or found.weights.dtype == torch.float64


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channel_counts(method: str, channels: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = randomise(nn.Sequential(conv_bn(channels, 4), head(4)))
    x = torch.randn(2, channels, 8, 6, generator=torch.Generator().manual_seed(1))
    maps = fastcam.explain(net, x, method=method, targets=[[0, 1], [2, 3]])
    assert maps.shape == (2, 2, 8, 6)
    assert maps.amax((-2, -1)).max() == 1
    assert maps.min() == 0


# At a layer whose gradient the forward's rounding does not move, and where it turns rectifiers: at the images float16
# does so eight times less often than bfloat16, and scaling the logits by 1024 changes none of these figures.
LEAST = {
    **dict.fromkeys([*AT_A_LAYER, "smooth_grad_cam_pp"], (0.9999, 0.998)),
    "gradient": (0.95, 0.7),
    "guided_backprop": (0.99, 0.96),
    "deconvnet": (0.9999, 0.998),
    "full_grad": (0.995, 0.99),
}


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model("efficientnet_lite0")


@pytest.fixture(scope="module")
def photos(embedded: LoadedModel) -> Tensor:
    folder = Path(skimage.__file__).parent / "data"
    views = [embedded.preprocessing.view(read_photo(folder / name)) for name in ("chelsea.png", "coffee.png")]
    return torch.cat([embedded.preprocessing.tensor(view) for view in views])


@pytest.mark.parametrize("method", FAMILY)
def test_reduced_precision_on_real_weights(method: str, embedded: LoadedModel, photos: Tensor) -> None:
    def maps(precision: str | None) -> Tensor:
        options = {"generator": torch.Generator().manual_seed(2)} if method == "smooth_grad_cam_pp" else {}
        found: Tensor = fastcam.explain(embedded.model, photos, method=method, precision=precision, **options)
        return found

    expected = maps(None)
    for precision, least in zip(("float16", "bfloat16"), LEAST[method], strict=True):
        found = maps(precision)
        assert found.dtype == torch.float32
        for a, b in zip(found, expected, strict=True):
            assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] >= least


def test_weights_are_in_memory_of_their_own(model: nn.Module, images: Tensor) -> None:
    first, second = fastcam.hires_cam(model, images, 1, ["1", "1"], return_info=True).weights
    kept = second.clone()
    first.fill_(3)
    assert torch.equal(second, kept)


def test_hires_cam_is_grad_cam_behind_global_pooling(model: nn.Module, images: Tensor) -> None:
    # Draelos and Carin, section 3.3: where g is the same everywhere.
    for method in ("hires_cam", "xgrad_cam"):
        found = fastcam.explain(model, images, method=method, targets=[[0, 1]] * 2, normalize=False)
        expected = fastcam.grad_cam(model, images, [[0, 1]] * 2, normalize=False)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_max_over_channels_of_magnitudes(model: nn.Module, images: Tensor) -> None:
    x = images.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x)[:, 3].sum(), x)
    torch.testing.assert_close(fastcam.gradient(model, images, 3, normalize=False), g.abs().amax(1))
    scaled = F.interpolate(g.abs().amax(1)[:, None], (7, 9), mode="bilinear")[:, 0]
    torch.testing.assert_close(fastcam.gradient(model, images, 3, size=(7, 9), normalize=False), scaled)
