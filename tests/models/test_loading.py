import sys
import urllib.error
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from fastcam.models import load_model
from fastcam.models.loading import EMBEDDED_PREPROCESSING
from fastcam.models.preprocessing import Preprocessing
from fastcam.models.state_dicts import load_strictly, read_state_dict


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a test must not download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def save(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@pytest.fixture(scope="module")
def squeezenet() -> dict[str, torch.Tensor]:
    return load_model("squeezenet1_1", weights="none").model.state_dict()


@pytest.mark.parametrize(
    ("given", "close"),
    [("resnet5", "resnet50"), ("EfficientNet_lite0", "efficientnet_lite0"), ("vgg", "vgg1")],
)
def test_unknown_model_offers_close_names(given: str, close: str) -> None:
    with pytest.raises(ValueError, match=rf"model '{given}' is unknown; close names: .*{close}"):
        load_model(given, weights="none")


def test_segmentation_models_are_no_classifiers() -> None:
    with pytest.raises(ValueError, match="unknown"):
        load_model("fcn_resnet50", weights="none")


def test_torchvision_model_brings_preprocessing_and_names() -> None:
    loaded = load_model("squeezenet1_1", weights="none")
    assert not loaded.model.training
    assert loaded.preprocessing == Preprocessing(resize=256, crop=(224, 224))
    assert loaded.class_names is not None
    assert loaded.class_names[285] == "Egyptian cat"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(urllib.error.URLError("no route to host"), id="no network"),
        pytest.param(urllib.error.HTTPError("u", 503, "unavailable", {}, None), id="server"),  # type: ignore[arg-type]
        pytest.param(IncompleteRead(b""), id="cut off"),
        pytest.param(TimeoutError("timed out"), id="timeout"),
        pytest.param(RuntimeError("invalid hash value"), id="checksum"),
    ],
)
def test_failed_download_names_the_ways_out(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"weights of resnet18 cannot be downloaded") as caught:
        load_model("resnet18")
    assert "--model efficientnet_lite0" in str(caught.value)
    assert "--weights FILE" in str(caught.value)


@pytest.mark.parametrize("weights", ["default", "IMAGENET1K_V1"])
def test_downloaded_weights_are_loaded(
    weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, squeezenet: dict[str, torch.Tensor]
) -> None:
    def download(url: str, destination: str, *args: Any, **kwargs: Any) -> None:
        torch.save(squeezenet, destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = load_model("squeezenet1_1", weights=weights).model
    assert all(torch.equal(value, squeezenet[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda s: s, id="plain"),
        pytest.param(lambda s: {"state_dict": s, "epoch": 3}, id="wrapped"),
        pytest.param(lambda s: {f"module.{k}": v for k, v in s.items()}, id="parallel"),
        pytest.param(lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}, id="both"),
    ],
)
def test_weights_from_a_file(wrap: Any, squeezenet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = save(tmp_path / "w.pth", wrap(squeezenet))
    model = load_model("squeezenet1_1", weights=file).model
    assert all(torch.equal(value, squeezenet[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(name: str, tmp_path: Path) -> None:
    build = getattr(torchvision.models, name)
    with_auxiliary = build(weights=None, init_weights=False, aux_logits=True).state_dict()
    loaded = load_model(name, weights=save(tmp_path / "w.pth", with_auxiliary))
    own = loaded.model.state_dict()
    assert set(own) < set(with_auxiliary)
    assert all(torch.equal(value, with_auxiliary[key]) for key, value in own.items())
    assert loaded.model.transform_input is True


def test_weights_by_torchvisions_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fail(url: str, *args: Any, **kwargs: Any) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for weights in ("IMAGENET1K_V1", "default"):
        with pytest.raises(ValueError, match="cannot be downloaded"):
            load_model("resnet50", weights=weights)
    known = torchvision.models.ResNet50_Weights
    assert asked == [known.IMAGENET1K_V1.url, known.IMAGENET1K_V2.url]


def test_file_of_a_model_with_other_classes(tmp_path: Path) -> None:
    model = torchvision.models.squeezenet1_1(num_classes=20)
    loaded = load_model("squeezenet1_1", weights=save(tmp_path / "voc.pth", model.state_dict()))
    assert loaded.class_names is None
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 20)


def test_old_names_of_densenet_are_known(tmp_path: Path) -> None:
    state = load_model("densenet121", weights="none").model.state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): value
        for key, value in state.items()
    }  # fmt: skip
    assert set(old) != set(state)
    model = load_model("densenet121", weights=save(tmp_path / "w.pth", old)).model
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_file_under_its_published_name_tells_the_preprocessing(tmp_path: Path) -> None:
    state = torchvision.models.resnet50(weights=None).state_dict()
    first = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    published = load_model("resnet50", weights=save(tmp_path / Path(first.url).name, state))
    other = load_model("resnet50", weights=save(tmp_path / "mine.pth", state))
    assert published.preprocessing.resize == 256
    assert other.preprocessing.resize == 232


def test_weights_that_do_not_fit_are_listed(squeezenet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = dict(squeezenet)
    del state["features.0.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["classifier.1.bias"] = torch.zeros(10)
    file = save(tmp_path / "w.pth", state)
    with pytest.raises(ValueError, match="do not fit SqueezeNet") as caught:
        load_model("squeezenet1_1", weights=file)
    message = str(caught.value)
    assert "1 missing: features.0.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "classifier.1.bias is (10,) in the file and (1000,) in the model" in message


def test_misfit_leaves_the_model_unchanged() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: torch.ones_like(v) for k, v in before.items() if k != "1.bias"}
    with pytest.raises(ValueError, match=r"1 missing: 1\.bias"):
        load_strictly(model, state, source="x")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_long_lists_are_cut() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    with pytest.raises(ValueError, match=r"40 missing: .*0\.weight.* and 34 more"):
        load_strictly(model, {}, source="x")


def test_counters_of_batch_norm_may_be_missing() -> None:
    model = nn.BatchNorm2d(2)
    state = {k: v for k, v in model.state_dict().items() if "tracked" not in k}
    load_strictly(model, state, source="x")


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(nn.Linear(1, 1), "no plain state dict", id="module"),
        pytest.param(_Code(), "no plain state dict", id="code"),
        pytest.param([1, 2], "holds list, no state dict", id="list"),
        pytest.param({"epoch": 3}, "'epoch', which is no tensor", id="numbers"),
        pytest.param({}, "no state dict", id="empty"),
    ],
)
def test_file_without_a_state_dict(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "w.pth", content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda p: p.write_bytes(b""), id="empty"),
        pytest.param(lambda p: p.write_text("hello"), id="text"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:300]), id="cut off"),
        pytest.param(lambda p: p.unlink(), id="missing"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), id="folder"),
    ],
)
def test_unreadable_file_is_named_with_the_reason(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    save(path, {"a": torch.zeros(100)})
    damage(path)
    with pytest.raises(ValueError, match=r"weights file .*w\.pth") as caught:
        read_state_dict(path)
    assert "read ():" not in str(caught.value)


def test_embedded_model_takes_files_under_either_names(tmp_path: Path) -> None:
    random = load_model("efficientnet_lite0", weights="none")
    assert random.preprocessing == EMBEDDED_PREPROCESSING
    state = random.model.state_dict()
    again = load_model("efficientnet_lite0", weights=save(tmp_path / "w.pth", state)).model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in state.items())
    with pytest.raises(ValueError, match=r"do not fit EfficientNetLite0.*missing: stem\.conv\.weight"):
        load_model("efficientnet_lite0", weights=save(tmp_path / "v.pth", {"x": torch.zeros(1)}))


MODULE = """
from torch import nn

SIZE = 4

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 2))

def grey():
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 3, 3)), nn.Conv2d(3, 1, 3), nn.Flatten(), nn.Linear(SIZE, 2))

def colour():
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 1, 3)), nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(SIZE, 2))

def number():
    return 3

def broken():
    raise KeyError("lost")
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_test_nets").mkdir()
    (tmp_path / "own_test_nets" / "tiny.py").write_text(MODULE)
    (tmp_path / "own_test_nets" / "wrong.py").write_text("import a_module_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [m for m in sys.modules if m.startswith("own_test_nets")]:
        monkeypatch.delitem(sys.modules, name)
    return "own_test_nets.tiny"


def test_function_of_ones_own(own_module: str, tmp_path: Path) -> None:
    loaded = load_model(f"{own_module}:build")
    assert isinstance(loaded.model, nn.Sequential)
    assert not loaded.model.training
    assert loaded.class_names is None
    assert loaded.preprocessing == Preprocessing()
    state = {"1.weight": torch.ones(2, 4), "1.bias": torch.zeros(2)}
    model = load_model(f"{own_module}:build", weights=save(tmp_path / "w.pth", state)).model
    assert torch.equal(model.state_dict()["1.weight"], state["1.weight"])


@pytest.mark.parametrize(("function", "channels"), [("grey", 1), ("colour", 3)])
def test_photos_are_grey_where_the_first_convolution_takes_one_channel(
    function: str, channels: int, own_module: str
) -> None:
    loaded = load_model(f"{own_module}:{function}")
    geometry = loaded.preprocessing.changed(resize=(6, 6))
    inputs = geometry.tensor(geometry.view(Image.new("RGB", (9, 7), "red")))
    assert inputs.shape == (1, channels, 6, 6)
    assert loaded.model(inputs).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("own_test_nets.tiny:buld", "no function 'buld'; close names: build", id="function"),
        pytest.param("own_test_nets.tiny:SIZE", "no function 'SIZE'", id="no function"),
        pytest.param("own_test_nets.tiny:number", "returned int; it must return a torch.nn.Module", id="int"),
        pytest.param("own_test_nets.tiny:broken", "raised KeyError: 'lost'", id="raises"),
        pytest.param("own_test_nets.none:build", "cannot be imported", id="module"),
        pytest.param("own_test_nets.wrong:build", "a_module_that_is_not_there", id="its import"),
        pytest.param(":build", "cannot be imported", id="empty module"),
    ],
)
def test_function_that_cannot_be_used(own_module: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name)
