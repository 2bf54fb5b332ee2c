"""The CAM methods against grad-cam, torchcam, their published definitions, and sums done by hand."""

from __future__ import annotations

import copy
import functools
import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchcam.methods as torchcam
from pytorch_grad_cam import GradCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import VGG, ResNet, resnet18, vgg16
from torchvision.models.resnet import BasicBlock

import fastcam
from fastcam.models import efficientnet_lite0
from tests.attribution.toys import TwoChannels
from tests.zoo import randomise

TOLERANCE = 1e-4


def min_max(maps: Tensor) -> Tensor:
    """Per map to [0, 1]; a flat map gives zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1), 0)


def forward_with(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Logits and what ``layer`` returned, with their graph."""
    held = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: held.update(output=call[2]))
    scores = model(images)
    handle.remove()
    return scores, held["output"]


def torchcam_maps(method: type, model: nn.Module, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """Raw maps behind torchcam's ReLU, at the layer's size: (N, T, h, w)."""
    maps = []
    for column in targets.T.tolist():
        with method(model, layer, input_shape=tuple(images.shape[1:])) as extractor:
            scores = model(images)
            arguments = (column, scores) if method is torchcam.GradCAM else (column,)
            maps.append(extractor(*arguments, normalized=False)[0].detach())
    return torch.stack(maps, 1)


def grad_cam_maps(method: type, model: nn.Module, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """The same of grad-cam, whose own call resizes to the image: its steps up to there."""
    maps, module = [], model.get_submodule(layer)
    for column in targets.T.tolist():
        wanted = [ClassifierOutputTarget(target) for target in column]
        with method(model=model, target_layers=[module]) as cam:
            cam(images, wanted)
            seen = cam.activations_and_grads
            gradients = seen.gradients[0].numpy() if seen.gradients else None
            raw = cam.get_cam_image(images, module, wanted, seen.activations[0].numpy(), gradients)
            maps.append(torch.from_numpy(raw).clamp(min=0))
    return torch.stack(maps, 1)


def assert_same_maps(found: Tensor, expected: Tensor) -> None:
    """Both min-max; and the comparison has something to compare."""
    assert found.shape == expected.shape
    assert (expected.amax((-2, -1)) > 0).double().mean() >= 0.5
    assert (found - expected).abs().max() < TOLERANCE


def several_targets(model: nn.Module, images: Tensor) -> Tensor:
    """(N, 3): the highest, the tenth highest and the lowest logit."""
    with torch.no_grad():
        order = model(images).argsort(1, descending=True)
    return order[:, [0, 9, -1]]


def random_images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(17))


def differentiable_from(model: nn.Module, layer: str) -> nn.Module:
    """No gradient reaches further back than this layer's parameters: peers' maps of it and later ones need no more."""
    model.requires_grad_(False).get_submodule(layer).requires_grad_(True)
    return model


def clear_of_kinks(model: VGG, images: Tensor) -> VGG:
    """Move the hidden units of a classifier that stand so near 0 that rounding decides whether they have a gradient.

    One such unit of 4,096 changes a map by up to 2 percent: what order a processor sums in would decide the comparison.
    """
    margin = 1e-4
    with torch.no_grad():
        x = torch.flatten(model.avgpool(model.features(images)), 1)
        for layer in model.classifier:
            if isinstance(layer, nn.Linear) and layer is not model.classifier[-1]:
                near = (layer(x).abs() < margin).any(0)
                layer.bias[near] += 100 * margin
                assert (layer(x).abs() >= margin).all()
            x = layer(x)
    return model


@pytest.fixture(scope="module")
def peers_resnet18() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return differentiable_from(randomise(resnet18(), negative_gammas=False), "layer2")


@pytest.fixture(scope="module")
def peers_vgg16() -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        # The classifier's gradients would take half a gigabyte. Between this convolution and features.16, the first of
        # the layers that are compared, nothing has parameters.
        holder = [clear_of_kinks(differentiable_from(vgg16().eval(), "features.14"), random_images(2, 96))]
    yield holder[0]
    fastcam.clear_cache(holder[0])
    holder.clear()
    gc.collect()


@pytest.fixture(scope="module")
def peers_efficientnet_lite0() -> nn.Module:
    return efficientnet_lite0(pretrained=True).eval()


# Name of the fixture, side of the images, layers: the last one, and ones behind which the gradient differs
# from place to place. vgg16's are those that no in-place operation changes after they returned.
MODELS = [
    pytest.param("peers_resnet18", 96, ["layer4", "layer2", "layer3.0.conv1"], id="resnet18"),
    pytest.param("peers_vgg16", 96, ["features.30", "features.29", "features.16"], id="vgg16"),
    pytest.param("peers_efficientnet_lite0", 96, None, id="efficientnet_lite0"),
]


def feature_map_names(model: nn.Module, images: Tensor) -> list[str]:
    """Modules that returned a 4-D tensor with several positions, once each, in order."""
    names, handles = [], []
    for name, module in model.named_modules():

        def note(_: nn.Module, __: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
                names.append(name)

        handles.append(module.register_forward_hook(note))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return [name for name in names if name and names.count(name) == 1]


@pytest.mark.parametrize(("fixture", "side", "layers"), MODELS)
def test_grad_cam_equals_both_peers(
    fixture: str, side: int, layers: list[str] | None, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(fixture)
    images = random_images(2, side)
    targets = several_targets(model, images)
    if layers is None:
        names = feature_map_names(model, images)
        layers = [names[-1], names[len(names) // 2], names[len(names) // 3]]
    found = fastcam.grad_cam(model, images, targets, layers, size="layer")
    for layer, maps in zip(layers, found, strict=True):
        assert_same_maps(maps, min_max(torchcam_maps(torchcam.GradCAM, model, images, layer, targets)))
        assert_same_maps(maps, min_max(grad_cam_maps(GradCAM, model, images, layer, targets)))


def test_gradients_vary_over_the_middle_layers(peers_resnet18: nn.Module) -> None:
    # What the parity above at layer2 would not show if they did not.
    scores, activation = forward_with(peers_resnet18, random_images(1, 96), "layer2")
    gradient = torch.autograd.grad(scores[0, 3], activation)[0]
    assert (gradient.std((-2, -1)) > 0.1 * gradient.abs().mean((-2, -1))).all()


def test_a_layers_activation_is_what_it_returned(peers_vgg16: nn.Module) -> None:
    # features.28 is a convolution whose output features.29 changes in place: peers see the changed values.
    images = random_images(1, 64)
    targets = several_targets(peers_vgg16, images)
    # The features alone are copied: the classifier's 120 million parameters need not be.
    plain = nn.Sequential(
        copy.deepcopy(peers_vgg16.features), peers_vgg16.avgpool, nn.Flatten(), peers_vgg16.classifier
    )
    for module in plain[0].modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = torchcam_maps(torchcam.GradCAM, plain.eval(), images, "0.28", targets)
    found = fastcam.grad_cam(peers_vgg16, images, targets, "features.28", size="layer")
    assert_same_maps(found, min_max(expected))


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_grad_cam_at_the_images_size(peers_resnet18: nn.Module, layer: str) -> None:
    images = random_images(2, 96)
    targets = several_targets(peers_resnet18, images)
    raw = torchcam_maps(torchcam.GradCAM, peers_resnet18, images, layer, targets)
    # torchcam's ReLU comes first; without a negative value the order does not matter.
    unclipped = grad_cam_sum(peers_resnet18, images, layer, targets)
    torch.testing.assert_close(unclipped.relu(), raw, rtol=1e-4, atol=1e-6)
    expected = F.interpolate(unclipped, (96, 96), mode="bilinear", align_corners=False).relu()
    assert_same_maps(fastcam.grad_cam(peers_resnet18, images, targets, layer), min_max(expected))
    # Some public code normalises first.
    first = F.interpolate(min_max(raw), (96, 96), mode="bilinear", align_corners=False)
    found = fastcam.grad_cam(peers_resnet18, images, targets, layer, normalize_at="layer")
    assert_same_maps(found, first)


def grad_cam_sum(model: nn.Module, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """sum_k mean(d y_c / d A_k) A_k, written out."""
    scores, activation = forward_with(model, images, layer)
    maps = []
    for column in targets.T:
        score = scores.gather(1, column[:, None]).sum()
        gradient = torch.autograd.grad(score, activation, retain_graph=True)[0]
        maps.append((gradient.mean((2, 3), keepdim=True) * activation).sum(1))
    return torch.stack(maps, 1).detach()


def test_cam_equals_its_formula_and_torchcam(peers_resnet18: nn.Module) -> None:
    images = random_images(2, 96)
    targets = several_targets(peers_resnet18, images)
    activation = forward_with(peers_resnet18, images, "layer4")[1].detach()
    weights = peers_resnet18.fc.weight.detach()[targets]
    by_formula = torch.einsum("ntk,nkhw->nthw", weights, activation).relu()
    by_peer = torchcam_maps(torchcam.CAM, peers_resnet18, images, "layer4", targets).relu()
    found = fastcam.cam(peers_resnet18, images, targets, "layer4", size="layer", return_info=True)
    assert_same_maps(found.maps, min_max(by_formula))
    assert_same_maps(found.maps, min_max(by_peer))
    torch.testing.assert_close(found.weights, weights)


class SameSize(nn.Module):
    """A layer as large as the image: there is no upsampling on which the peers could differ."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.last = nn.ReLU()
        self.classifier = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.features(x)).mean((2, 3)))


AS_THEIRS = {"size": "layer", "normalize": False, "score": "logit", "weights": "softmax"}
PEERS = pytest.mark.parametrize(
    ("peer", "maps"),
    [(torchcam.ScoreCAM, torchcam_maps), (ScoreCAM, grad_cam_maps)],
    ids=["torchcam", "grad-cam"],
)


@PEERS
@pytest.mark.parametrize("layer", ["last", "features"], ids=["behind_relu", "signed"])
def test_score_cam_equals_the_peers_where_nothing_is_upsampled(
    layer: str, peer: type, maps: Callable[..., Tensor]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = randomise(SameSize())
        model.classifier.weight.data *= 10
    images = random_images(2, 12)
    targets = several_targets(model, images)
    expected = maps(peer, model, images, layer, targets)
    assert expected.amax((-2, -1)).min() > 0.1
    assert (forward_with(model, images, layer)[1] < 0).any() == (layer == "features")
    for baseline in ("zeros", None):  # a constant per image: softmax does not see it
        found = fastcam.score_cam(model, images, targets, layer, baseline=baseline, **AS_THEIRS)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@PEERS
def test_score_cam_differs_from_the_peers_by_how_masks_are_enlarged(
    peer: type, maps: Callable[..., Tensor], slim_resnet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a mask is the min-max of the channel enlarged with half-pixel centres.

    torchcam enlarges the min-max; grad-cam enlarges with aligned corners.
    """
    images, layer = random_images(2, 32), "layer1.0.conv1"
    targets = several_targets(slim_resnet, images)
    assert 0.2 < (forward_with(slim_resnet, images, layer)[1] < 0).double().mean() < 0.8
    found = min_max(fastcam.score_cam(slim_resnet, images, targets, layer, **AS_THEIRS))
    assert (found - min_max(maps(peer, slim_resnet, images, layer, targets))).abs().max() > 0.01
    if peer is ScoreCAM:
        half_pixel = functools.partial(nn.Upsample, mode="bilinear", align_corners=False)
        monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", half_pixel)
    else:
        enlarge = peer._upsample
        monkeypatch.setattr(peer, "_upsample", lambda self, masks: self._normalize(enlarge(self, masks), 2))
    assert_same_maps(found, min_max(maps(peer, slim_resnet, images, layer, targets)))


@dataclass(frozen=True)
class Masked:
    """What score_cam (Wang 2020; ADCC, section 2) is made of, written out image by image."""

    activations: Tensor  # (N, K, h, w)
    logits: Tensor  # (N, K, classes), of each image times each channel's mask
    blank: Tensor  # (classes,), of zeros

    def weights(self, targets: Tensor, *, baseline: str | None, score: str, weights: str) -> Tensor:
        """(N, T, K)."""
        rows = torch.arange(len(targets))[:, None]
        as_score = (lambda z: z.softmax(-1)) if score == "probability" else (lambda z: z)
        alphas = as_score(self.logits).transpose(1, 2)[rows, targets]
        if baseline == "zeros":
            alphas = alphas - as_score(self.blank)[targets][..., None]
        return alphas.softmax(-1) if weights == "softmax" else alphas


@torch.no_grad()
def masked(model: nn.Module, images: Tensor, layer: str) -> Masked:
    activations = forward_with(model, images, layer)[1]
    up = F.interpolate(activations, images.shape[-2:], mode="bilinear", align_corners=False)
    logits = [model(image * mask[:, None]) for image, mask in zip(images, min_max(up), strict=True)]
    return Masked(activations, torch.stack(logits), model(torch.zeros_like(images[:1]))[0])


@pytest.fixture(scope="module")
def slim_resnet() -> nn.Module:
    """Four stages of one block; some channels of layer2 are dead."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model = randomise(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=12), negative_gammas=False)
        model.fc.weight.data *= 3
        for bn in (model.layer2[0].bn2, model.layer2[0].downsample[1]):
            bn.weight.data[::5] = 0
            bn.bias.data[::5] = -1
    return model


@pytest.fixture(scope="module")
def masked_by_layer2(slim_resnet: nn.Module) -> Masked:
    return masked(slim_resnet, random_images(2, 32), "layer2")


@pytest.mark.parametrize("baseline", ["zeros", None])
@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("weights", ["increase", "softmax"])
def test_score_cam_equals_its_definition(
    slim_resnet: nn.Module, masked_by_layer2: Masked, baseline: str | None, score: str, weights: str
) -> None:
    images = random_images(2, 32)
    targets = several_targets(slim_resnet, images)[:, :2]
    options = {"baseline": baseline, "score": score, "weights": weights}
    alphas = masked_by_layer2.weights(targets, **options)
    sums = torch.einsum("ntk,nkhw->nthw", alphas, masked_by_layer2.activations)
    maps = F.interpolate(sums, (32, 32), mode="bilinear", align_corners=False).relu()
    found = fastcam.score_cam(slim_resnet, images, targets, "layer2", return_info=True, **options)
    skipped = found.left_out["skipped_channels"]
    assert skipped.dtype == torch.int64
    dead = (masked_by_layer2.activations == 0).all(-1).all(-1)
    assert skipped.tolist() == dead.sum(1).tolist()
    assert skipped.min() >= 26
    largest = alphas.abs().amax(-1, keepdim=True)
    difference = (found.weights - alphas).abs().masked_fill(dead[:, None], 0)
    assert (difference <= 1e-4 * largest).all()
    assert (found.maps - min_max(maps)).abs().max() < TOLERANCE


def test_score_cam_does_not_depend_on_the_batch_size(slim_resnet: nn.Module) -> None:
    images = random_images(2, 32)
    whole = fastcam.score_cam(slim_resnet, images, 3, "layer2", batch_size=1000)
    for batch_size in (1, 7):
        parts = fastcam.score_cam(slim_resnet, images, 3, "layer2", batch_size=batch_size)
        assert (parts - whole).abs().max() < TOLERANCE


class TestByHand:
    """x = [[1, 2], [3, 4]]: A0 = x, A1 = [[4, 3], [2, 1]], both of mean 2.5; logits 2.5, 0, 7.5."""

    model = TwoChannels().double().eval()
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)

    def check(self, method: str, expected: list[list[list[float]]], targets: list[int], **options: object) -> None:
        found = fastcam.explain(
            self.model, self.image, method=method, targets=[targets], layer="relu", size="layer",
            normalize=False, **options,
        )  # fmt: skip
        torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))

    def test_cam(self) -> None:
        # Class 0: relu(2 A0 - A1). Class 1: relu(A1 - A0).
        self.check("cam", [[[0, 1], [4, 7]], [[3, 1], [0, 0]]], [0, 1])

    def test_grad_cam(self) -> None:
        # The mean over 4 places brings a quarter to each gradient.
        self.check("grad_cam", [[[0, 0.25], [1, 1.75]], [[0.75, 0.25], [0, 0]]], [0, 1])

    def test_relevance_cam(self) -> None:
        # Seed of class 0: (2.5, -1.25, -1.25). W+ leaves class 0 to A0, classes 1 and 2 to A1: (2.5, -2.5).
        # Class 1 has the logit 0: seed (-1/2, 1, -1/2), alpha = (-1/2, 1/2). No ReLU.
        self.check("relevance_cam", [[[-7.5, -2.5], [2.5, 7.5]], [[1.5, 0.5], [-0.5, -1.5]]], [0, 1])

    def test_score_cam_of_logits(self) -> None:
        # M0 = [[0, 1], [2, 3]] / 3 and x M0 has means (5/3, 10/3): logits (0, 5/3, 10).
        # M1 = [[3, 2], [1, 0]] / 3 and x M1 has means (5/6, 25/6): logits (-2.5, 10/3, 12.5).
        # Zeros have means (0, 5): logits (-5, 5, 15). Class 0 gains (5, 2.5); class 1 loses (10/3, 5/3).
        self.check("score_cam", [[[15, 17.5], [20, 22.5]], [[0, 0], [0, 0]]], [0, 1], score="logit")

    def test_score_cam_without_a_baseline(self) -> None:
        # Class 1: 5/3 A0 + 10/3 A1. Class 2: 10 A0 + 12.5 A1.
        expected = [[[15, 40 / 3], [35 / 3, 10]], [[60, 57.5], [55, 52.5]]]
        self.check("score_cam", expected, [1, 2], score="logit", baseline=None)

    def test_score_cam_of_probabilities(self) -> None:
        def p(logits: list[float], c: int) -> float:
            return math.exp(logits[c]) / sum(math.exp(z) for z in logits)

        zeros, first, second = [-5.0, 5, 15], [0, 5 / 3, 10], [-2.5, 10 / 3, 12.5]
        a, b = p(first, 0) - p(zeros, 0), p(second, 0) - p(zeros, 0)
        expected = [[a * 1 + b * 4, a * 2 + b * 3], [a * 3 + b * 2, a * 4 + b * 1]]
        self.check("score_cam", [expected], [0])

    def test_score_cam_with_softmax_weights(self) -> None:
        # The dead channel's masked image is all zeros: its score, -5, stays in the denominator.
        total = math.exp(0) + math.exp(-2.5) + math.exp(-5)
        a, b = math.exp(0) / total, math.exp(-2.5) / total
        expected = [[a * 1 + b * 4, a * 2 + b * 3], [a * 3 + b * 2, a * 4 + b * 1]]
        self.check("score_cam", [expected], [0], score="logit", weights="softmax")
        self.check("score_cam", [expected], [0], score="logit", weights="softmax", baseline=None)

    def test_normalised_and_enlarged(self) -> None:
        # Bilinear from 2 to 4 without aligned corners: places -1/4, 1/4, 3/4, 5/4, clamped to the edges.
        row = [0, 0.25, 0.75, 1]
        expected = torch.tensor([[(c + 2 * r) / 3 for c in row] for r in row], dtype=torch.float64)
        found = fastcam.relevance_cam(self.model, self.image, 0, "relu", size=(4, 4))
        torch.testing.assert_close(found, expected[None])
