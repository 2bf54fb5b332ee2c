"""Bad input gets an error that names the argument, what it was and what is valid; and changes nothing."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.network.arguments import DeferredChecks, NotFiniteError, resolve_targets
from tests.attribution.test_model_untouched import assert_unchanged, build, snapshot, some_images
from tests.zoo import BasicBlock, conv, conv_bn, head

METHODS: dict[str, Callable[..., Any]] = {
    "cam": fastcam.cam,
    "grad_cam": fastcam.grad_cam,
    "relevance_cam": fastcam.relevance_cam,
    "score_cam": fastcam.score_cam,
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
GOOD = some_images()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build()


def check(
    method: str, model: nn.Module, match: str, *args: Any, error: type[Exception] = ValueError, **kwargs: Any
) -> None:
    """The call raises exactly ``error`` with a message that matches, and leaves the model as it was."""
    before = snapshot(model)
    with pytest.raises(error, match=match) as caught:
        METHODS[method](model, *args, **kwargs)
    assert type(caught.value) is error
    assert_unchanged(model, before)


# -- images


@EVERY_METHOD
@pytest.mark.parametrize(
    ("images", "match"),
    [
        (GOOD[0], r"images.*\(3, 10, 10\)"),
        (GOOD[None], r"images.*\(1, 2, 3, 10, 10\)"),
        (GOOD[0, 0], r"images.*\(10, 10\)"),
        (GOOD[:0], r"images.*(empty|0, 3, 10, 10|no image)"),
        (GOOD[..., :0], r"images.*(empty|2, 3, 10, 0)"),
        (GOOD[:, :2], r"3 channels.*2 channels"),
    ],
    ids=["no_batch", "five_dimensions", "a_plane", "empty_batch", "no_width", "too_few_channels"],
)
def test_shapes_of_images(method: str, images: Tensor, match: str, model: nn.Module) -> None:
    check(method, model, match, images, 0)


@EVERY_METHOD
@pytest.mark.parametrize(
    ("images", "match"),
    [
        ((GOOD * 50).to(torch.uint8), r"images.*uint8"),
        (GOOD.long(), r"images.*int64"),
        (GOOD.bool(), r"images.*bool"),
        (GOOD.to(torch.complex64), r"images.*complex64"),
        (GOOD.numpy(), r"images.*(ndarray|numpy)"),
        ([GOOD[0], GOOD[1]], r"images.*list"),
        (None, r"images.*None"),
        (GOOD.to_sparse(), r"images: a tensor of layout torch\.sparse_coo given.*to_dense"),
    ],
    ids=["uint8", "int64", "bool", "complex", "numpy", "list", "none", "sparse"],
)
def test_types_of_images(method: str, images: Any, match: str, model: nn.Module) -> None:
    check(method, model, match, images, 0, error=TypeError)


@EVERY_METHOD
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_images_that_are_not_finite(method: str, value: float, model: nn.Module) -> None:
    images = some_images()
    images[1, 2, 3, 4] = value
    message = r"images: NaN or infinite values in image\(s\) 1; all must be finite"
    check(method, model, message, images, 0, error=NotFiniteError)


# -- targets


@EVERY_METHOD
@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (5, r"targets.*5"),
        (-1, r"targets.*-1"),
        ([0, 5], r"targets.*5"),
        (torch.tensor([[0, 1], [2, 99]]), r"targets.*99"),
        ([-3, 0], r"targets.*-3"),
        ([0, 1, 2], r"targets.*(3|length).*2"),
        ([0], r"targets.*1"),
        (torch.zeros(3, 2, dtype=torch.long), r"targets.*3, 2"),
        (torch.zeros(2, 2, 1, dtype=torch.long), r"targets.*2, 2, 1"),
        (torch.zeros(2, 0, dtype=torch.long), r"targets.*2, 0"),
        ([[0, 1], [2]], r"targets"),
        ([], r"targets: none given.*None, an int, \(2,\) or \(2, T\) integers are valid"),
        ([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]], r"targets: 2 one-hot.*indices.*targets\.argmax\(1\)"),
    ],
    ids=[
        "too_large", "negative", "one_too_large", "several_too_large", "one_negative", "too_many", "too_few",
        "too_many_rows", "three_dimensions", "no_columns", "ragged", "empty", "one_hot",
    ],
)  # fmt: skip
def test_values_and_lengths_of_targets(method: str, targets: Any, match: str, model: nn.Module) -> None:
    check(method, model, match, GOOD, targets)


@pytest.mark.parametrize(
    "targets",
    [[[0, 1, 0, 0, 0], [0, 1, 1, 0, 0]], [[0, 1, 0, 0, 2], [1, 0, 0, 0, 0]], [[0, 1, 0], [0, 0, 1]], [[0], [1]]],
    ids=["two_ones", "a_two", "fewer_columns", "one_column"],
)
def test_indices_are_not_taken_for_one_hot(targets: list[list[int]], model: nn.Module) -> None:
    assert fastcam.grad_cam(model, GOOD, targets).shape[1] == len(targets[0])


def test_indices_of_two_classes_are_not_taken_for_one_hot() -> None:
    two = nn.Sequential(conv_bn(3, 4), head(4, 2)).eval()
    expected = torch.stack([fastcam.grad_cam(two, GOOD, target) for target in (0, 1)], dim=1)
    torch.testing.assert_close(fastcam.grad_cam(two, GOOD, [[0, 1], [0, 1]]), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16], ids=str)
def test_a_narrow_dtype_counts_no_fewer_classes(dtype: torch.dtype) -> None:
    """1000 is 232 in uint8, and -24 in int8."""
    found, _ = resolve_targets(
        torch.tensor([120, torch.iinfo(dtype).max]).to(dtype),
        torch.zeros(2, 1000 if dtype != torch.int16 else 40_000),
        DeferredChecks(),
    )
    assert found.tolist() == [[120], [torch.iinfo(dtype).max]]


def test_targets_on_a_device_are_not_waited_for() -> None:
    checks = DeferredChecks()
    # Values of a meta tensor cannot be read at all.
    resolve_targets(torch.zeros(2, 5, dtype=torch.int64, device="meta"), torch.zeros(2, 5, device="meta"), checks)
    assert len(checks.failed) == 2


@EVERY_METHOD
def test_the_valid_targets_are_named(method: str, model: nn.Module) -> None:
    check(method, model, r"(0.*4|5 classes)", GOOD, 7)


@EVERY_METHOD
@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (torch.tensor([0.0, 1.0]), r"targets.*float"),
        (1.0, r"targets.*float"),
        ([0.5, 1], r"targets.*float"),
        (torch.tensor([True, False]), r"targets.*bool"),
        (True, r"targets.*bool"),
        ("cat", r"targets.*str"),
        (np.array([0.0, 1.0]), r"targets.*float"),
        (torch.eye(5)[:2], r"targets.*float32.*targets\.argmax\(1\)"),
    ],
    ids=["float_tensor", "float", "float_in_list", "bool_tensor", "bool", "str", "float_array", "float_one_hot"],
)
def test_types_of_targets(method: str, targets: Any, match: str, model: nn.Module) -> None:
    check(method, model, match, GOOD, targets, error=TypeError)


# -- layers


@EVERY_METHOD
@pytest.mark.parametrize(
    ("layer", "close"),
    [
        ("block.con1", "block.conv1"),
        ("blok", "block"),
        ("stern", "stem"),
        (["stem", "block.bn3"], "block.bn2"),
    ],
    ids=["nested", "typo", "letter", "in_a_list"],
)
def test_unknown_layers_get_close_names(method: str, layer: Any, close: str, model: nn.Module) -> None:
    wrong = layer if isinstance(layer, str) else layer[1]
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"layer") as caught:
        METHODS[method](model, GOOD, 0, layer)
    assert wrong in str(caught.value)
    assert close in str(caught.value)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("layer", "offered"),
    [("module.block.conv1", "block.conv1"), ("_orig_mod.module.stem", "stem"), ("module.stem@0", "stem@0")],
    ids=["data_parallel", "compiled", "call"],
)
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: model], ids=["wrapped", "names_only"])
def test_names_with_a_wrappers_prefix(
    wrap: Callable[[nn.Module], nn.Module], layer: str, offered: str, model: nn.Module
) -> None:
    with pytest.raises(ValueError, match=rf"no layer '{layer}'; write '{offered}', without the wrapper's"):
        fastcam.grad_cam(wrap(model), GOOD, 0, layer)


@EVERY_METHOD
@pytest.mark.parametrize("layer", ["fc", "pool"], ids=["linear", "one_position"])
def test_layers_without_a_feature_map(method: str, layer: str, model: nn.Module) -> None:
    check(method, model, rf"(?s)layer.*{layer}", GOOD, 0, layer)


@EVERY_METHOD
def test_layers_that_the_forward_does_not_use(method: str, model: nn.Module) -> None:
    # PlainNet has a dropout that it never calls.
    check(method, model, r"(?s)layer.*drop", GOOD, 0, "drop")


@EVERY_METHOD
def test_other_bad_layers(method: str, model: nn.Module) -> None:
    check(method, model, r"layer.*(not|no) ", GOOD, 0, nn.ReLU())
    check(method, model, r"layer.*(empty|at least one|\[\])", GOOD, 0, [])
    check(method, model, r"layer.*int", GOOD, 0, 3, error=TypeError)
    check(method, model, r"layer.*int", GOOD, 0, ["stem", 3], error=TypeError)
    check(method, model, r"(?s)layer.*stem@1", GOOD, 0, "stem@1")
    check(method, model, r"(?s)layer.*stem@x", GOOD, 0, "stem@x")


def test_cam_needs_pooling_and_one_linear_layer(model: nn.Module) -> None:
    check("cam", model, r"(?i)(pool|linear)", GOOD, 0, "stem")
    hidden = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(400, 5)).eval()
    check("cam", hidden, r"(?i)(pool|linear)", GOOD, 0, "0")
    two = nn.Sequential(conv_bn(3, 4), head(4, 6), nn.ReLU(), nn.Linear(6, 5)).eval()
    check("cam", two, r"(?i)(pool|linear)", GOOD, 0, "0")


# -- options


@EVERY_METHOD
def test_sizes_of_numpys_integers(method: str, model: nn.Module) -> None:
    assert METHODS[method](model, GOOD, 0, size=(np.int64(5), np.int32(6))).shape == (2, 5, 6)


@EVERY_METHOD
@pytest.mark.parametrize("size", ["huge", (0, 5), (5, -1), (5,), (5, 6, 7), 7, (5.5, 6), (True, 6), None], ids=str)
def test_bad_sizes(method: str, size: Any, model: nn.Module) -> None:
    before = snapshot(model)
    with pytest.raises((ValueError, TypeError), match=r"size.*height, width"):
        METHODS[method](model, GOOD, 0, size=size)
    assert_unchanged(model, before)


@EVERY_METHOD
def test_bad_options(method: str, model: nn.Module) -> None:
    check(method, model, r"precision.*int4.*(float16|bfloat16)", GOOD, 0, precision="int4")
    check(method, model, r"normalize_at.*image.*input", GOOD, 0, normalize_at="image")
    check(method, model, r"output", GOOD, 0, output="logits", error=TypeError)


@pytest.mark.parametrize("method", [["grad_cam", "grad_cam"], ["cam", "grad_cam", "cam"], []], ids=len)
def test_a_repeated_method(method: list[str], model: nn.Module) -> None:
    # Results are a dict by name: two of a name would be one.
    told = rf"method: {re.escape(repr(method))} given, a name or a list of different names is valid"
    before = snapshot(model)
    for call in (
        lambda: fastcam.explain(model, GOOD, 0, method=method),
        lambda: fastcam.ucag(model, GOOD, 0, method=method),
        lambda: fastcam.Explainer(model, method=method),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    assert_unchanged(model, before)


@pytest.mark.parametrize("value", ["yes", None, 2, [True], torch.ones(2)], ids=["str", "none", "int", "list", "tensor"])
def test_bad_values_of_normalize(value: Any, model: nn.Module) -> None:
    check("grad_cam", model, r"normalize: .* given, one of True, False is valid", GOOD, 0, normalize=value)


def test_unknown_methods(model: nn.Module) -> None:
    for call in (
        lambda: fastcam.explain(model, GOOD, method="relevance"),
        lambda: fastcam.Explainer(model, method="relevance"),
    ):
        with pytest.raises(ValueError, match=r"(?s)method.*relevance.*relevance_cam"):
            call()


def test_options_of_another_method(model: nn.Module) -> None:
    with pytest.raises((TypeError, ValueError), match="baseline"):
        fastcam.explain(model, GOOD, method="grad_cam", baseline=None)
    with pytest.raises((TypeError, ValueError), match="baseline"):
        fastcam.Explainer(model, method="relevance_cam", baseline=None)(GOOD)


@EVERY_METHOD
def test_models_that_are_no_module(method: str) -> None:
    with pytest.raises(TypeError, match=r"model.*(Module|function)"):
        METHODS[method](lambda x: x, GOOD)


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"(?s)cuda-graphs.*reference"), fastcam.use_backend("cuda-graphs"):
        pass


# -- models


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classes = conv_bn(3, 4), conv(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.stem(x))


class OneNumber(Segmenter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((1, 2, 3))


class Dictionary(Segmenter):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(x).mean((2, 3))}


class WholeNumbers(Segmenter):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3)).argmax(1, keepdim=True)


@EVERY_METHOD
@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Segmenter, r"(?s)model.*(2, 5, 10, 10|\(N, classes\)|classifier)"),
        (OneNumber, r"(?s)model.*(\(2,\)|\(N, classes\)|classifier)"),
        (Dictionary, r"(?s)dict.*output"),
        (WholeNumbers, r"(?s)model.*(int64|floating|classifier)"),
    ],
    ids=["segmenter", "one_number", "dict_without_output", "whole_numbers"],
)
def test_models_that_are_no_classifier(method: str, kind: type[nn.Module], match: str) -> None:
    model = kind().eval()
    before = snapshot(model)
    with pytest.raises((ValueError, TypeError), match=match):
        METHODS[method](model, GOOD, 0, "stem")
    assert_unchanged(model, before)


@EVERY_METHOD
def test_outputs_that_pick_nothing(method: str) -> None:
    model = Dictionary().eval()
    before = snapshot(model)
    with pytest.raises((ValueError, TypeError, KeyError), match=r"(?s)(output|scores)"):
        METHODS[method](model, GOOD, 0, "stem", output=lambda answer: answer["scores"])
    with pytest.raises((ValueError, TypeError), match=r"output"):
        METHODS[method](model, GOOD, 0, "stem", output=lambda answer: answer)
    assert_unchanged(model, before)


class NoFeatureMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(300, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@EVERY_METHOD
def test_models_without_a_feature_map(method: str) -> None:
    check(method, NoFeatureMap().eval(), r"(?i)layer", GOOD, 0)


class ReadsValues(nn.Module):
    """In a named inner module: control flow that depends on the values."""

    class Chooser(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.chooser, self.head = conv_bn(3, 4), self.Chooser(), head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.chooser(self.stem(x)))


class LoopsOverValues(ReadsValues):
    """As many steps as the largest value says."""

    class Chooser(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(int(x.max())):
                x = x / 2
            return x


@EVERY_METHOD
@pytest.mark.parametrize("kind", [ReadsValues, LoopsOverValues], ids=["branch", "loop"])
def test_models_that_cannot_be_captured(method: str, kind: type[nn.Module]) -> None:
    model = kind().eval()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"(?s)capture.*chooser") as caught:
        METHODS[method](model, GOOD, 0, "stem")
    assert len(str(caught.value)) < 2000
    assert_unchanged(model, before)


class Normed(nn.Module):
    """Layer norm over the channels, inside a named block."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(4, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.after, self.head = conv_bn(3, 4), self.Block(), conv_bn(4, 4), head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.block(self.stem(x))))


def test_operations_without_a_rule_are_named() -> None:
    model = Normed().eval()
    check("relevance_cam", model, r"(?s)layer_norm.*block\.norm|block\.norm.*layer_norm", GOOD, 0, "stem")
    # Above the operation there is no need of a rule for it; and other methods need none.
    assert fastcam.relevance_cam(model, GOOD, 0, "after").shape == (2, 10, 10)
    assert fastcam.relevance_cam(model, GOOD, 0).shape == (2, 10, 10)
    assert fastcam.grad_cam(model, GOOD, 0, "stem").shape == (2, 10, 10)
    assert fastcam.score_cam(model, GOOD, 0, "stem").shape == (2, 10, 10)


RULES = ("z+", "epsilon", "gamma", "alpha_beta", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box")
PROPAGATING = [pytest.param("lrp", {"rule": rule}, id=f"lrp-{rule}") for rule in RULES] + [
    pytest.param(method, {}, id=method) for method in ("clrp", "sglrp", "excitation_backprop", "rap", "rsp", "agf")
]


@pytest.mark.parametrize(("method", "options"), PROPAGATING)
def test_every_rule_names_an_operation_that_it_does_not_know(method: str, options: dict[str, Any]) -> None:
    model = Normed().eval()
    # rsp goes from the layer to the images, the others from the logits to the layer.
    layer = "after" if method == "rsp" else "stem"
    if method == "rsp":
        options = {"pixel_range": (-9.0, 9.0)}
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"no rule.*layer_norm.*module 'block\.norm'"):
        fastcam.explain(model, GOOD, 0, layer, method=method, **options)
    assert_unchanged(model, before)


class Windowed(nn.Module):
    """Like a block of Swin's: channels last, cut into windows and put together again, added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.gate, self.act = nn.LayerNorm(4), nn.Linear(4, 4), nn.Identity(), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        windows = self.mix(self.norm(x).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3))
        return self.act(x + self.gate(windows.transpose(2, 3).reshape(n, h, w, c)))


class ChannelsLast(nn.Module):
    def __init__(self, *, back: bool) -> None:
        super().__init__()
        self.stem, self.block, self.back = conv_bn(3, 4), Windowed(), back
        self.merge, self.after, self.head = nn.Linear(8, 6), nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.stem(x).permute(0, 2, 3, 1))
        y = self.merge(torch.cat([y[:, 0::2], y[:, 1::2]], dim=-1))
        return self.head(self.after(y.permute(0, 3, 1, 2)).mean((2, 3)) if self.back else y.mean((1, 2)))


@pytest.mark.parametrize(
    ("layer", "size"),
    [(name, "10, 10, 4") for name in ("block.norm", "block.gate", "block.act", "block")] + [("merge", "5, 10, 6")],
)
def test_channels_that_stand_last_are_told(layer: str, size: str) -> None:
    offered = "'stem.0', 'stem.1', 'stem', 'stem.2', 'after'"
    told = rf"'{layer}' has its channels last: its output is \(N, {size}\).*choose one of {offered}$"
    check("grad_cam", ChannelsLast(back=True).eval(), told, GOOD, 0, layer)


def test_channels_that_stand_last_elsewhere_are_no_matter() -> None:
    model = ChannelsLast(back=True).eval()
    default, named = (fastcam.grad_cam(model, GOOD, 0, layer, size="layer") for layer in (None, "after"))
    assert default.shape == (2, 5, 10)
    assert default.equal(named)
    assert fastcam.grad_cam(model, GOOD, 0, "stem", size="layer").shape == (2, 10, 10)
    check("grad_cam", ChannelsLast(back=False).eval(), "none given, and 'merge'.* has its channels last", GOOD)


class Attention(nn.Module):
    """A product of two values, neither of which is a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = conv_bn(3, 4), conv(4, 4), conv(4, 4), head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.left(x) * self.right(x))


def test_a_product_without_a_gate_has_no_rule() -> None:
    check("relevance_cam", Attention().eval(), r"(?s)mul", GOOD, 0, "stem")


@EVERY_METHOD
def test_images_too_small_for_the_model(method: str) -> None:
    model = nn.Sequential(BasicBlock(3, 4), nn.MaxPool2d(2), nn.MaxPool2d(4), head(4)).eval()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"(?s)(images|capture).*small"):
        METHODS[method](model, GOOD[..., :4, :4], 0)
    assert_unchanged(model, before)


@EVERY_METHOD
def test_a_dtype_other_than_the_models(method: str, model: nn.Module) -> None:
    """Images of another floating type are taken in the model's or refused by name."""
    try:
        maps = METHODS[method](model, GOOD.double(), 0)
    except TypeError as error:
        assert "images" in str(error)  # noqa: PT017
        assert "float64" in str(error)  # noqa: PT017
    else:
        assert torch.allclose(maps.float(), METHODS[method](model, GOOD, 0), atol=1e-5)


# -- weights


@EVERY_METHOD
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["first", "last"])
def test_weights_that_are_not_finite(method: str, name: str, value: float) -> None:
    """A fused ReLU would take a NaN for 0 and explain what is left."""
    broken = build()
    weights = [p for p in broken.parameters() if p.dim() > 1]
    with torch.no_grad():
        weights[0 if name == "first" else -1].flatten()[0] = value
    with pytest.raises(ValueError, match="model: its logits for these images are NaN or infinite"):
        METHODS[method](broken, GOOD, 0)


def test_an_overflow_that_never_reaches_the_logits() -> None:
    """inf, then -inf, then 0 behind a ReLU."""
    hidden = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = nn.Sequential(hidden, nn.Linear(2, 4)).eval()
    with torch.no_grad():
        hidden[0].weight.fill_(3e4)
        hidden[2].weight.fill_(-1)
    images = torch.ones(1, 3, 6, 6)
    assert fastcam.grad_cam(model, images, 0, "0.1").isfinite().all()
    message = "model: its grad_cam maps for these images are NaN or infinite; float16 overflows beyond 65504"
    with pytest.raises(ValueError, match=message):
        fastcam.grad_cam(model, images, 0, "0.1", precision="float16")
    with pytest.raises(ValueError, match=message):
        fastcam.ucag(model, images, 0, "0.1", method="grad_cam", crop=4, patches=2, scale=1, precision="float16")


class Tokens(nn.Module):
    """A vision transformer in small: patches, attention over tokens with a class token, no feature map behind."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 5, 5), nn.Parameter(torch.ones(1, 1, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.heads, self.final, self.fc = nn.Identity(), nn.LayerNorm(8), nn.Linear(8, 4)
        self.order = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        y = self.norm(x) if self.order else self.norm(x).transpose(0, 1)
        y = self.heads(self.attention(y, y, y, need_weights=False)[0].unflatten(2, (2, 4))).flatten(2)
        return self.fc(self.final(x + (y if self.order else y.transpose(0, 1)))[:, 0])


@EVERY_METHOD
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch_first", "tokens_first"])
def test_transformers_have_no_layer_by_default(method: str, batch_first: bool) -> None:
    model = Tokens(batch_first=batch_first).eval()
    check(method, model, r"layer: none given, and behind 'patches'.*tokens.*name layer='patches'", GOOD, 0)


def test_layers_of_transformers_that_can_be_named() -> None:
    model = Tokens(batch_first=False).eval()
    assert fastcam.grad_cam(model, GOOD, 0, "patches").shape == (2, 10, 10)
    assert fastcam.gradient(model, GOOD, 0).shape == (2, 10, 10)
    # Values by head, five tokens first: four dimensions, and no image in the first of them.
    named = r"'heads' is no feature map: its output is \(5, 2, 2, 4\).*choose one of 'patches'"
    check("grad_cam", model, named, GOOD, 0, "heads")


class Regrouped(nn.Module):
    """Positions flattened and unfolded again, at an earlier feature map's size: still positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, 4), head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x.flatten(2).relu().unflatten(2, x.shape[2:]) * 2)


def test_positions_unfolded_again_are_positions() -> None:
    info = fastcam.grad_cam(Regrouped().eval(), GOOD, 0, return_info=True)
    assert info.layer.startswith("mul")


@EVERY_METHOD
@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript_is_refused(method: str, kind: str, model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.ReLU())) if kind == "script" else torch.jit.trace(model, GOOD)
    with pytest.raises(TypeError, match=r"model: a TorchScript module given.*pass the torch\.nn\.Module"):
        METHODS[method](scripted, GOOD, 0)


class Quantised(nn.Module):
    """The type that torch.ao's conversion puts in a module's place, as far as the message goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, 4), head(4)
        fake = type("Linear", (nn.ReLU,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})
        self.head.add_module("quantised", fake())

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("LinearPackedParamsBase has no field with name '__obj_flatten__'")


def test_quantised_models_are_named() -> None:
    check("grad_cam", Quantised().eval(), r"module 'head\.quantised' is quantised.*floating-point model", GOOD, 0)


def test_an_output_that_fails_is_named(model: nn.Module) -> None:
    check("grad_cam", model, r"in `output`.*KeyError: 'logit'", GOOD, 0, output=lambda y: {"logits": y}["logit"])


def test_errors_are_raised_and_not_logged_too(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)).eval()
    with pytest.raises(ValueError, match=r"in module '3' \(Linear\): .*reduction dim"):
        fastcam.grad_cam(fixed, GOOD)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not capfd.readouterr().err


def test_one_image_alone_is_no_reason_to_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither where the code fixes the batch at 1 nor where the model is no classifier."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc = conv(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.stem(x).mean((2, 3)).view(1, -1))

    assert fastcam.grad_cam(One().eval(), GOOD[:1], 0).shape == (1, 10, 10)
    with pytest.raises(ValueError, match=r"returns a tensor of shape \(-1, 4, 10, 10\)"):
        fastcam.grad_cam(conv(3, 4).eval(), GOOD[:1], 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")


def test_lazy_modules_are_named() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), head(4)).eval()
    with pytest.raises(ValueError, match=r"model: '0\.weight', of a lazy module.*model\(images\)"):
        fastcam.grad_cam(lazy, GOOD, 0)


def test_models_that_begin_with_nothing() -> None:
    model = nn.Sequential(nn.Identity(), conv_bn(3, 4), head(4)).eval()
    assert fastcam.grad_cam(model, GOOD, 0).shape == (2, 10, 10)
    with pytest.raises(ValueError, match=r"model: a classifier.*returns a tensor of shape \(-1, 3, 10, 10\)"):
        fastcam.grad_cam(nn.Sequential(), GOOD, 0)


class Undecided(nn.Module):
    """Its course depends on the values of the images."""

    def __init__(self, course: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.course = course

    def forward(self, x: Tensor) -> Tensor:
        return self.course(x)


@pytest.mark.parametrize(
    "course",
    [lambda x: x if x.mean() > 0 else -x, lambda x: x[..., : int(x.amax()) + 1]],
    ids=["branch", "size"],
)
def test_what_depends_on_values_is_named_and_nothing_printed(
    course: Callable[[Tensor], Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    undecided = nn.Sequential(conv(3, 4), Undecided(course), head(4)).eval()
    told = r"in module '1' \(Undecided\), at `.*`: a branch, a loop or a size there depends on the values of the images"
    with pytest.raises(ValueError, match=told):
        fastcam.grad_cam(undecided, GOOD)
    assert capfd.readouterr() == ("", "")
