import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torchvision
from PIL import Image

from featbank.backbones.preprocess import apply, override
from featbank.backbones.recipe import Preprocess
from featbank.backbones.timm import from_config
from featbank.backbones.torchvision import from_preset
from featbank.data.decode import decode
from featbank.errors import BackboneError, ImageError

SIZES = [
    (640, 480),
    (333, 501),
    (224, 224),
    (232, 257),
    (17, 13),
    (1, 9),
    (9, 1),
    (1, 1),
    (1000, 33),
]
PLAIN = Preprocess(256, "short", (224, 224), "bilinear", (0.5,) * 3, (0.25,) * 3)


def picture(size, seed=0):
    width, height = size
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels_of(normalised, preprocess):
    """Undo the normalising of a reference transform: back to whole grey levels."""
    mean, std = (np.array(v)[:, None, None] for v in (preprocess.mean, preprocess.std))
    grey = (normalised.numpy().astype(np.float64) * std + mean) * 255
    assert np.abs(grey - grey.round()).max() < 1e-3
    return grey.round().astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("enum", "value"),
    [
        ("ResNet50_Weights", "IMAGENET1K_V1"),
        ("ResNet50_Weights", "IMAGENET1K_V2"),
        ("EfficientNet_B0_Weights", "IMAGENET1K_V1"),
        ("Inception_V3_Weights", "IMAGENET1K_V1"),
    ],
)
def test_pixels_equal_torchvisions_preset(enum, value, size):
    import torchvision.models

    preset = getattr(torchvision.models, enum)[value].transforms()
    preprocess = from_preset(preset)
    image = picture(size)
    np.testing.assert_array_equal(apply(preprocess, image), pixels_of(preset(image), preprocess))


@pytest.mark.parametrize("photograph", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("model", ["resnet50", "convnext_tiny", "efficientnet_b4", "vit_b_16"])
def test_photographs_come_out_as_torchvision_prepares_them(model, photograph):
    data = (Path(sklearn.datasets.__file__).parent / "images" / photograph).read_bytes()
    preset = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    preprocess = from_preset(preset)
    expected = pixels_of(preset(Image.open(io.BytesIO(data))), preprocess)
    assert np.array_equal(apply(preprocess, decode(data)), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_pixels_equal_timms_transform(mode, crop_pct, size):
    timm_data = pytest.importorskip("timm.data")
    if mode == "border" and max(size) / min(size) > 64:
        pytest.skip("timm itself fails on slivers of less than half a pixel")
    config = {
        "input_size": (3, 64, 64),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": crop_pct,
        "crop_mode": mode,
    }
    preprocess = from_config(config, what="test")
    image = picture(size)
    reference = timm_data.create_transform(**config)(image)
    np.testing.assert_array_equal(apply(preprocess, image), pixels_of(reference, preprocess))


def test_a_box_that_is_not_square_equals_timms_transform():
    timm_data = pytest.importorskip("timm.data")
    config = {
        "input_size": (3, 48, 80),
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 0.9,
        "crop_mode": "center",
    }
    preprocess = from_config(config, what="test")
    for size in SIZES[:6]:
        image = picture(size)
        reference = timm_data.create_transform(**config)(image)
        np.testing.assert_array_equal(apply(preprocess, image), pixels_of(reference, preprocess))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", ["short", "squash", "long"])
def test_an_image_of_one_channel_comes_out_as_with_three(fit, interpolation, size):
    grey = picture(size).convert("L")
    chosen = dataclasses.replace(PLAIN, fit=fit, interpolation=interpolation, fill=(255, 0, 7))
    assert np.array_equal(apply(chosen, grey), apply(chosen, grey.convert("RGB")))


def test_a_sliver_is_refused_before_it_takes_gigabytes():
    with pytest.raises(ImageError, match=r"1 x 60000 .* would grow to 256 x 15360000"):
        apply(PLAIN, Image.new("RGB", (1, 60_000)))
    squashed = override(PLAIN, squash=True)
    assert apply(squashed, Image.new("RGB", (1, 60_000))).shape == (224, 224, 3)


def test_sizes_override_the_weights_own():
    assert override(PLAIN) == PLAIN
    scaled = override(PLAIN, input_size=448)
    assert (scaled.resize, scaled.crop) == (512, (448, 448))
    plain = override(PLAIN, resize=224, crop=224)
    assert (plain.resize, plain.crop, plain.fit) == (224, (224, 224), "short")
    squashed = override(PLAIN, squash=True)
    assert (squashed.resize, squashed.crop, squashed.fit) == ((224, 224), (224, 224), "squash")
    assert override(PLAIN, squash=True, input_size=64).resize == (64, 64)
    box = dataclasses.replace(PLAIN, resize=(256, 512), crop=(224, 448), fit="short")
    assert override(box, input_size=112).resize == (128, 128)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"input_size": 64, "crop": 64}, "give it alone"),
        ({"squash": True, "resize": 64}, "give --crop, not --resize"),
        ({"crop": 300}, "a crop of 300 does not fit"),
        ({"resize": 200}, "resized to 200"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(BackboneError, match=message):
        override(PLAIN, **words)
