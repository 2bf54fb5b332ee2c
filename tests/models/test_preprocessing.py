import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import _geometry

from fastcam.models.loading import EMBEDDED_PREPROCESSING
from fastcam.models.preprocessing import Preprocessing, from_transforms, parse_size


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# 201 to 204: crops whose margins are odd, rounded to either side.
@pytest.mark.parametrize("size", [(300, 200), (61, 400), (240, 240), *((300, n) for n in range(201, 205))], ids=str)
@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b0", "inception_v3", "alexnet"])
def test_equals_torchvisions_transforms(model: str, size: tuple[int, int]) -> None:
    transforms = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    preprocessing = from_transforms(transforms)
    photo = noise(*size)
    assert torch.equal(preprocessing.tensor(preprocessing.view(photo))[0], transforms(photo))


def test_embedded_models_scaling_and_crop() -> None:
    photo = noise(300, 400)
    box = (300 - 262) // 2, (400 - 262) // 2  # 0.875 of 300 is 262.5, rounded to even
    expected = photo.crop((*box, box[0] + 262, box[1] + 262)).resize((224, 224), Image.Resampling.BICUBIC)
    view = EMBEDDED_PREPROCESSING.view(photo)
    assert np.array_equal(np.asarray(view), np.asarray(expected))
    pixels = torch.from_numpy(np.asarray(expected).copy()).permute(2, 0, 1)[None].double()
    scaled = EMBEDDED_PREPROCESSING.tensor(view)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.double(), (pixels - 127) / 128, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        pytest.param({}, (224, 224), id="as it is"),
        pytest.param({"resize": 224}, (224, 224), id="short side 224, crop 224"),
        pytest.param({"resize": (224, 224)}, (224, 224), id="224x224 without a crop"),
        pytest.param({"resize": (96, 64)}, (96, 64), id="exact size"),
        pytest.param({"resize": (96, 64), "crop": 64}, (64, 64), id="exact size and crop"),
        pytest.param({"crop": "none"}, (256, 512), id="no crop"),
        pytest.param({"resize": 100, "crop": "none"}, (100, 200), id="short side alone"),
        pytest.param({"crop": (100, 200)}, (100, 200), id="oblong crop"),
    ],
)
@pytest.mark.parametrize("base", [Preprocessing(), EMBEDDED_PREPROCESSING], ids=["imagenet", "embedded"])
def test_changed_geometry(base: Preprocessing, changes: dict[str, object], size: tuple[int, int]) -> None:
    view = base.changed(**changes).view(noise(600, 300))  # type: ignore[arg-type]
    assert (view.height, view.width) == size
    assert base.changed(**changes).mean == base.mean  # type: ignore[arg-type]


def test_no_change_is_no_change() -> None:
    assert EMBEDDED_PREPROCESSING.changed() is EMBEDDED_PREPROCESSING


def test_exact_resize_keeps_the_whole_photo() -> None:
    photo = Image.new("RGB", (600, 300), "black")
    photo.paste((255, 255, 255), (0, 0, 20, 300))
    view = np.asarray(Preprocessing().changed(resize=(224, 224)).view(photo))
    assert view[100, 0].min() == 255
    assert np.asarray(Preprocessing().view(photo)).max() == 0


def test_crop_larger_than_the_photo() -> None:
    with pytest.raises(ValueError, match=r"crop of 224x224 .* photo of 100x200 .*--resize"):
        Preprocessing().changed(resize=100).view(noise(400, 200))


def test_unknown_word_for_crop() -> None:
    with pytest.raises(ValueError, match="crop is 'all'"):
        Preprocessing().changed(crop="all")


GEOMETRIES = {
    "imagenet": Preprocessing(),
    "embedded": EMBEDDED_PREPROCESSING,
    "exact": Preprocessing().changed(resize=(96, 64)),
    "oblong crop": Preprocessing(resize=130, crop=(100, 121)),
    "bicubic": Preprocessing(resize=97, crop=(96, 96), interpolation=InterpolationMode.BICUBIC),
    "no resize": Preprocessing(resize=None, crop=(61, 61)),
}
SIZES = [(300, 200), (61, 400), (240, 240), (77, 131)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
class TestPhotosAsTensors:
    """What is made of a photo's pixels is what is made of the photo itself."""

    def test_views_agree(self, name: str, size: tuple[int, int]) -> None:
        photo, preprocessing = noise(*size), GEOMETRIES[name]
        expected = torch.from_numpy(np.array(preprocessing.view(photo))).permute(2, 0, 1)
        found = preprocessing.view_pixels(torch.from_numpy(np.array(photo)).permute(2, 0, 1))
        assert found.dtype == torch.uint8
        assert found.shape == expected.shape
        # Noise shows every difference of the filters; a shift by a pixel would be one of 100 and more.
        assert (found.int() - expected.int()).abs().max() <= 2

    def test_views_agree_where_torch_resizes_in_floats(
        self, name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on CUDA devices and on CPUs without AVX2."""
        monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", lambda interpolation: False)
        self.test_views_agree(name, size)

    def test_size_is_told_beforehand(self, name: str, size: tuple[int, int]) -> None:
        preprocessing = GEOMETRIES[name]
        view = preprocessing.view(noise(*size))
        assert preprocessing.size == preprocessing.placement(size[1], size[0]).size == (view.height, view.width)


@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(crop=None), Preprocessing(resize=None, crop=None)], ids=["short side", "as it is"]
)
def test_size_that_depends_on_the_photo(preprocessing: Preprocessing) -> None:
    assert preprocessing.size is None


def test_crop_larger_than_the_photos_pixels() -> None:
    with pytest.raises(ValueError, match=r"crop of 224x224 .* photo of 100x200 .*--resize"):
        Preprocessing().changed(resize=100).view_pixels(torch.zeros(3, 200, 400, dtype=torch.uint8))


def test_scaling_of_a_batch_is_that_of_each_view() -> None:
    views = [Preprocessing().view(noise(300 + n, 280)) for n in range(3)]
    batch = torch.stack([torch.from_numpy(np.array(view)).permute(2, 0, 1) for view in views])
    expected = torch.cat([Preprocessing().tensor(view) for view in views])
    assert torch.equal(Preprocessing().scaled(batch), expected)
    assert batch.dtype == torch.uint8


GREY = Preprocessing(mean=(0.4,), std=(0.2,))


@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(), EMBEDDED_PREPROCESSING, GREY], ids=["rgb", "embedded", "grey"]
)
def test_black_is_what_a_black_photo_becomes(preprocessing: Preprocessing) -> None:
    scaled = preprocessing.scaled(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    expected = torch.tensor(preprocessing.black).view(1, -1, 1, 1).expand(1, -1, 2, 2)
    torch.testing.assert_close(scaled, expected)


def test_one_channel_is_the_photo_in_grey() -> None:
    preprocessing = GREY.changed(resize=(5, 7))
    view = preprocessing.view(noise(30, 20))
    # Pillow's grey, rounded to 8 bits, and torchvision's weights, rounded to 4 digits.
    expected = (np.asarray(view.convert("L")) / 255 - 0.4) / 0.2
    found = preprocessing.tensor(view)
    assert found.shape == (1, 1, 5, 7)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0, 0], expected, rtol=0, atol=0.7 / 255 / 0.2)


@pytest.mark.parametrize(("text", "size"), [("224", 224), ("224x320", (224, 320)), (" 64X32 ", (64, 32)), ("1", 1)])
def test_parse_size(text: str, size: int | tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "224x", "x224", "22.4", "-3", "1x2x3", "none", "224x0", "10000"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        parse_size(text)
