import json
import re
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fastcam
from fastcam.cli import app
from fastcam.datasets.opening import DATASETS
from fastcam.metrics import METRICS
from fastcam.plots import overlay

NETS = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(4)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 7)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.fc(x.flatten(1))


def tiny():
    return Tiny()


def grey():
    model = Tiny()
    model.conv1 = nn.Conv2d(1, 6, 3, padding=1)
    return model


class Dict(Tiny):
    def forward(self, x):
        return {"logits": super().forward(x)}
"""

MODEL = ["--model", "cli_test_nets:tiny"]
SMALL = ["--resize", "32", "--crop", "32"]
NAMES = ("tench", "tiger cat", "owl, barn", "crane", "crane", "cup", "7")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, class names and photos."""
    (tmp_path / "cli_test_nets.py").write_text(NETS)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for shift, name in enumerate(("one.png", "a/two.jpg", "b/two.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.roll(noise, 9 * shift, axis=0)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "cli_test_nets", raising=False)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def one_line(result: Any) -> str:
    """The error stream, which must hold a single line and no traceback."""
    assert result.stderr.startswith("fastcam: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    return result.stderr


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_writes_overlays_maps_and_figure(folder: Path) -> None:
    result = run(
        "explain", "one.png", *MODEL, *SMALL, "--class-names", "names.txt", "-o", "out",
        "--methods", "relevance_cam,grad_cam", "--layers", "relu1,conv2",
        "--targets", "tiger cat, owl, barn,5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    stems = {
        f"one/{method}-{layer}-{target}"
        for method in ("relevance_cam", "grad_cam")
        for layer in ("relu1", "conv2")
        for target in ("1-tiger-cat", "2-owl-barn", "5-cup")
    }
    expected = {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "npy")} | {"one/figure.png"}
    assert files(folder / "out") == expected
    assert "one.png: 12 maps in out/one" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("  ")]
    assert len(lines) == 5
    probabilities = [float(line[0]) for line in lines]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(NAMES[int(line[1])].split() == line[2:] for line in lines)


def test_raw_map_is_the_functions(folder: Path) -> None:
    result = run("explain", "one.png", *MODEL, *SMALL, "-o", "out", "--layers", "relu2", "--targets", "3")
    assert result.exit_code == 0, result.output
    import cli_test_nets

    from fastcam.models import Preprocessing
    from fastcam.photos import read_photo

    preprocessing = Preprocessing(resize=32, crop=(32, 32))
    inputs = preprocessing.tensor(preprocessing.view(read_photo(Path("one.png"))))
    model = cli_test_nets.tiny()
    expected = fastcam.relevance_cam(model, inputs, targets=3, layer="relu2", normalize=False)
    written = np.load("out/one/relevance_cam-relu2-3.npy")
    assert written.shape == (32, 32)
    assert written.dtype == np.float32
    assert written.std() > 0
    np.testing.assert_allclose(written, expected[0].numpy(), rtol=1e-5, atol=1e-7)
    assert f"{model.eval()(inputs).softmax(1).max():.3f}" in result.stdout


def test_defaults_are_predicted_class_and_last_layer(folder: Path) -> None:
    result = run("explain", "one.png", *MODEL, *SMALL, "-o", "out")
    assert result.exit_code == 0, result.output
    top = int(result.stdout.splitlines()[1].split()[1])
    assert f"class {top}" in result.stdout
    assert files(folder / "out") == {
        f"one/relevance_cam-relu2-{top}.png", f"one/relevance_cam-relu2-{top}.npy", "one/figure.png"
    }  # fmt: skip


def test_grey_photos_for_a_model_of_one_channel(folder: Path) -> None:
    model = ["--model", "cli_test_nets:grey"]
    result = run("explain", "one.png", *model, *SMALL, "-o", "out", "--layers", "relu2", "--targets", "3")
    assert result.exit_code == 0, result.output
    import cli_test_nets

    from fastcam.models import Preprocessing
    from fastcam.photos import read_photo

    view = Preprocessing(resize=32, crop=(32, 32)).view(read_photo(Path("one.png")))
    grey = torch.from_numpy(np.asarray(view) / 255 @ [0.2989, 0.587, 0.114])[None, None].float()
    inputs = (grey - 0.449) / 0.226
    expected = fastcam.relevance_cam(cli_test_nets.grey(), inputs, targets=3, layer="relu2", normalize=False)
    written = np.load("out/one/relevance_cam-relu2-3.npy")
    assert written.std() > 0
    np.testing.assert_allclose(written, expected[0].numpy(), rtol=1e-5, atol=1e-7)
    with Image.open("out/one/relevance_cam-relu2-3.png") as image:
        np.testing.assert_array_equal(np.asarray(image), overlay(np.asarray(view), written))


def test_figure_of_many_classes_says_what_it_shows(folder: Path) -> None:
    result = run(
        "explain", "one.png", *MODEL, *SMALL, "-o", "out",
        "--layers", "conv1,relu1,conv2,relu2", "--targets", "0,1,2,3,4,5,6",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == ("one.png: 28 maps in out/one; figure.png shows the first 6 of 7 classes")
    assert len(list((folder / "out" / "one").glob("*.npy"))) == 28


@pytest.mark.parametrize("command", ["explain", "figure segmentation"])
def test_a_photo_without_a_suffix_beside_its_pictures(command: str, folder: Path) -> None:
    Path("one.png").rename("one")
    result = run(*command.split(), "one", "a/two.jpg", *MODEL, *SMALL, "-o", ".")
    assert result.exit_code == 0, result.output
    with Image.open("one") as photo:
        assert photo.size == (60, 40)
    name = "figure.png" if command == "explain" else "segmentation.png"
    assert Path("one-2", name).is_file()
    assert Path("two", name).is_file()


def test_equal_stems_do_not_meet(folder: Path) -> None:
    result = run("explain", "a/two.jpg", "b/two.jpg", "b/../a/two.jpg", *MODEL, *SMALL, "-o", "out")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (folder / "out").iterdir()} == {"a-two", "b-two"}
    a, b = (np.load(next((folder / "out" / name).glob("*.npy"))) for name in ("a-two", "b-two"))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        pytest.param(["--resize", "24x36"], (24, 36), id="resize without a crop"),
        pytest.param(["--resize", "24", "--crop", "none"], (24, 36), id="short side without a crop"),
        pytest.param(["--resize", "32x48", "--crop", "24"], (24, 24), id="both"),
    ],
)
def test_geometry(folder: Path, options: list[str], shape: tuple[int, int]) -> None:
    result = run("explain", "one.png", *MODEL, *options, "-o", "out")
    assert result.exit_code == 0, result.output
    (raw,) = (folder / "out" / "one").glob("*.npy")
    assert np.load(raw).shape == shape
    with Image.open(raw.with_suffix(".png")) as image:
        assert (image.height, image.width) == shape


def test_orientation_reaches_the_network(folder: Path) -> None:
    with Image.open("one.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save("turned.png", exif=exif)
        image.transpose(Image.Transpose.ROTATE_270).save("upright.png")
    result = run("explain", "turned.png", "upright.png", *MODEL, *SMALL, "-o", "out")
    assert result.exit_code == 0, result.output
    turned, upright = (np.load(next((folder / "out" / n).glob("*.npy"))) for n in ("turned", "upright"))
    np.testing.assert_array_equal(turned, upright)


def test_bad_photos_are_named_and_the_others_explained(folder: Path) -> None:
    Path("cut.png").write_bytes(Path("one.png").read_bytes()[:3000])
    Path("text.jpg").write_text("hello")
    result = run("explain", "cut.png", "one.png", "text.jpg", "none.png", "a", *MODEL, *SMALL, "-o", "out")
    assert result.exit_code == 1
    complaints = result.stderr.splitlines()
    assert len(complaints) == 4
    for complaint, name in zip(complaints, ("cut.png", "text.jpg", "none.png", "photo a "), strict=True):
        assert complaint.startswith("fastcam: photo")
        assert name in complaint
    assert {path.name for path in (folder / "out").iterdir()} == {"one"}
    assert "one.png: 1 maps" in result.stdout


def test_photo_smaller_than_the_crop_is_named(folder: Path) -> None:
    Image.new("RGB", (500, 20)).save("narrow.png")
    result = run("explain", "narrow.png", "one.png", *MODEL, "--resize", "32x32", "--crop", "40", "-o", "out")
    assert result.exit_code == 1
    assert "photo narrow.png: a crop of 40x40 does not fit" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--methods", "gradcam"], "grad_cam", id="method"),
        pytest.param(["--methods", "cam,,grad_cam"], "--methods 'cam,,grad_cam' has an empty entry", id="empty"),
        pytest.param(["--layers", "rellu2"], "relu2", id="layer"),
        pytest.param(["--layers", "fc"], "fc", id="layer without positions"),
        pytest.param(["--methods", "cam", "--layers", "relu1"], "cam", id="cam below the last layer"),
        pytest.param(["--targets", "7"], "7", id="target out of range"),
        pytest.param(["--targets", "tench"], "--class-names FILE", id="name without names"),
        pytest.param(["--targets", "tiger ct", "--class-names", "names.txt"], "'tiger cat'", id="close name"),
        pytest.param(["--targets", "crane", "--class-names", "names.txt"], "3 (crane), 4 (crane)", id="ambiguous"),
        pytest.param(["--class-names", "none.txt"], "none.txt", id="no names file"),
        pytest.param(["--class-names", "short.txt"], "2 class names, but the model has 7", id="few names"),
        pytest.param(["--device", "cuda:99"], "--device cuda:99", id="absent device"),
        pytest.param(["--device", "gpu"], "--device 'gpu' is no device", id="device"),
        pytest.param(["--device", "meta"], "--device meta cannot be used here", id="device without data"),
        pytest.param(["--precision", "float12"], "float12", id="precision"),
        pytest.param(["--resize", "big"], "'big'", id="resize"),
        pytest.param(["--crop", "0"], "'0'", id="crop"),
        pytest.param(
            ["--weights", "none.pth"],
            "weights file none.pth does not exist: it must hold weights of this model",
            id="no weights file",
        ),
        pytest.param(["--weights", "empty.pth"], "weights file empty.pth cannot be read (EOFError)", id="empty file"),
        pytest.param(["--weights", "other.pth"], "2 missing: 0", id="weights that do not fit"),
        pytest.param(["--model", "resnet5"], "resnet50", id="model"),
        pytest.param(["--model", "cli_test_nets:tini"], "close names: tiny", id="function"),
        pytest.param(["--model", "cli_test_nets:Dict"], "a dict; have the function of --model return", id="dict"),
        pytest.param(["-o", "names.txt"], "names.txt", id="output is a file"),
    ],
)
def test_wrong_use_is_one_line(folder: Path, options: list[str], message: str) -> None:
    Path("short.txt").write_text("cat\ndog\n")
    torch.save({"other": torch.zeros(1)}, "other.pth")
    Path("empty.pth").touch()
    result = run("explain", "one.png", *MODEL, *SMALL, "-o", "out", *options)
    assert result.exit_code == 2
    assert message.replace("2 missing: 0", "missing: conv1.weight") in one_line(result)
    assert "output=" not in result.stderr
    assert files(folder / "out") == set() if (folder / "out").is_dir() else True


def test_failed_download_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(folder))
    result = run("explain", "one.png", "-o", "out")
    assert result.exit_code == 2
    # torch announces the download on a line of its own.
    line = result.stderr.splitlines()[-1]
    assert line.startswith("fastcam: the weights of resnet50 cannot be downloaded")
    assert "--model efficientnet_lite0" in line
    assert "--weights FILE" in line
    assert "--weights none" in line


def test_weights_from_a_file(folder: Path) -> None:
    from fastcam.models import load_model

    state = load_model("cli_test_nets:tiny").model.state_dict()
    bias = torch.zeros(7)
    bias[3] = 50
    torch.save({"state_dict": {**state, "fc.bias": bias}}, "w.pth")
    result = run("explain", "one.png", *MODEL, *SMALL, "-o", "out", "--weights", "w.pth")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split() == ["1.000", "3", "class", "3"]


def test_names_with_brackets_are_no_markup(folder: Path) -> None:
    Path("brackets.txt").write_text("\n".join(f"[bold]{i}[/x]" for i in range(7)))
    Path("one.png").rename("[red]one.png")
    result = run("explain", "[red]one.png", *MODEL, *SMALL, "-o", "out", "--class-names", "brackets.txt")
    assert result.exit_code == 0, result.output
    assert "[bold]" in result.stdout
    assert "[red]one.png" in result.stdout


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "fastcam", "explain", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--class-names" in done.stdout


def test_no_command_shows_the_help() -> None:
    result = run()
    assert "explain" in result.output
    assert "demo" in result.output


@pytest.mark.parametrize(
    "command",
    ["explain", "evaluate", "report", "methods", "demo", "bench tune"]
    + [f"figure {kind}" for kind in ("depth", "selectivity", "segmentation", "sensitivity", "sanity", "upscaling")],
)
def test_help_is_whole_on_a_narrow_terminal(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"}).stdout
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_help_of_evaluate_names_what_is_valid() -> None:
    shown = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "80"}).stdout
    # A name that is broken over two lines is not found.
    assert all(re.search(rf"\b{name}\b", shown) for name in (*METRICS, *DATASETS, "package.module:function"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "8,none"], "--batches: 'none' given, positive integers between commas are valid"),
        (["--batches", "0"], "--batches: '0' given"),
        (["--precision", "int8"], "--precision: 'int8' given"),
        (["--models", "resnet18,"], "has an empty entry"),
    ],
    ids=["batches", "zero", "precision", "models"],
)
def test_tune_names_what_is_wrong(arguments: list[str], message: str, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    result = run("bench", "tune", "-o", str(table), *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not table.exists()


def test_tune_refuses_a_file_that_is_no_table(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text("[]")
    result = run("bench", "tune", "-o", str(table))
    assert result.exit_code == 2
    assert "holds no JSON object" in result.output
    assert table.read_text() == "[]"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_tune_needs_a_device(tmp_path: Path) -> None:
    result = run("bench", "tune", "-o", str(tmp_path / "table.json"))
    assert result.exit_code == 2
    assert "measures on a CUDA device, and PyTorch finds none here" in result.output


@pytest.mark.parametrize("given", [True, False], ids=["output", "the-devices-own"])
def test_tune_writes_each_entry_at_once(given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tables"
    table = tmp_path / "table.json" if given else folder / "NVIDIA Test.json"
    counts: list[int] = []

    def tune(layers: Any, batches: list[int], precision: str, device: torch.device, **rest: Any) -> None:
        counts.append(sum(layers.values()))
        assert (batches, precision, device.type) == ([4], "tf32", "cuda")
        for key in ("a", "b"):
            if key not in rest["known"]:
                rest["keep"](key, {"algorithm": "triton"})
                assert key in json.loads(table.read_text())

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fastcam.commands.bench, "run_tuning", tune)
    monkeypatch.setattr(fastcam.commands.bench, "table_path", lambda device: folder / "NVIDIA Test.json")
    options = ["-o", str(table)] if given else []
    for _ in range(2):
        result = run("bench", "tune", *options, "--models", "resnet18", "--batches", "4", "--precision", "tf32")
        assert result.exit_code == 0, result.output
        assert f"2 entries in {table}" in result.output.replace("\n", "")
    assert counts == [20, 20]


def test_methods_are_listed_with_family_paper_and_cost() -> None:
    result = run("methods")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(fastcam.methods())
    for method, line in zip(fastcam.methods(), lines[1:], strict=True):
        assert line.split()[:2] == [method.name, method.family]
        assert method.paper in line
        assert line.rstrip().endswith(method.backwards)
        assert method.forwards in line
