import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.backbones import apply
from featbank.backbones.preprocess import FROM_TRANSFORM
from featbank.errors import FineTuneError
from featbank.finetuning.augment import augmentation
from featbank.finetuning.settings import AUGMENTS
from tests.tiny import PREPROCESS

WIDE = dataclasses.replace(PREPROCESS, resize=(36, 54), fit="squash", crop=(32, 48))


def picture(width=60, height=45, seed=0):
    """Return an image of smooth colours, so that a small change of it stays small."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def plain(preprocess, image):
    return torch.from_numpy(apply(preprocess, image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("preprocess", [PREPROCESS, WIDE])
@pytest.mark.parametrize("name", AUGMENTS)
def test_an_image_has_the_size_of_the_crop(name, preprocess):
    pixels = augmentation(name, preprocess, n_classes=3).image(picture(), 7)

    assert pixels.shape == (3, *preprocess.crop)
    assert pixels.dtype == torch.uint8


def test_none_is_what_evaluation_does():
    image = picture()
    pixels = augmentation("none", PREPROCESS, n_classes=3).image(image, 7)

    assert torch.equal(pixels, plain(PREPROCESS, image))


@pytest.mark.parametrize("name", [name for name in AUGMENTS if name != "none"])
def test_a_change_follows_from_its_seed_alone(name):
    first = augmentation(name, PREPROCESS, n_classes=3)
    again = pickle.loads(pickle.dumps(first))
    images = {seed: first.image(picture(), seed) for seed in range(12)}

    torch.rand(5)
    for seed in (11, 3, 7):
        assert torch.equal(again.image(picture(), seed), images[seed])
    assert len({pixels.numpy().tobytes() for pixels in images.values()}) > 6


@pytest.mark.parametrize("name", AUGMENTS)
def test_the_generators_stay_as_they_were(name):
    augment = augmentation(name, PREPROCESS, n_classes=3)
    before = torch.get_rng_state()

    augment.image(picture(), 7)
    augment.batch(torch.rand(4, 3, 8, 8, generator=seeded(0)), torch.arange(4) % 3, seeded(1))

    assert torch.equal(torch.get_rng_state(), before)


def test_light_keeps_the_whole_image_in_view():
    image = picture()
    whole = plain(PREPROCESS, image).float()
    augment = augmentation("light", PREPROCESS, n_classes=3)
    middle = (slice(None), slice(8, 24), slice(8, 24))

    flipped = 0
    for seed in range(20):
        pixels = augment.image(image, seed).float()
        gaps = [
            (pixels - side)[middle].abs().mean() for side in (whole, torch.flip(whole, dims=[2]))
        ]
        assert min(gaps) < 12, "a rotation by 10 degrees hardly changes the middle"
        flipped += bool(gaps[1] < gaps[0])
    assert 4 <= flipped <= 16


def seen(name, image):
    """Return the mean share of a black and white image's white left half, over seeds."""
    augment = augmentation(name, PREPROCESS, n_classes=3)
    pixels = torch.stack([augment.image(image, seed) for seed in range(60)])
    return (pixels > 127).float().mean(dim=(1, 2, 3))


def test_crops_show_parts_of_an_image():
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, :32] = 255
    image = Image.fromarray(halves)

    assert seen("light", image).std() < 0.05
    for name in ("crop", "flowers", "strong"):
        assert seen(name, image).std() > 0.1, name
    assert 0.01 < seen("standard", image).std() < 0.1, "it shows at least 80 % of the image"


def test_flowers_reflects_the_border_and_standard_rotates_it_away():
    white = Image.new("RGB", (224, 224), (255, 255, 255))
    large = dataclasses.replace(PREPROCESS, resize=256, crop=(224, 224))
    black = {
        name: sum(
            bool((augmentation(name, large, n_classes=3).image(white, seed) < 99).any())
            for seed in range(10)
        )
        for name in ("crop", "light", "standard")
    }

    assert black["crop"] == 0
    assert black["light"] >= 8, "the corners of a rotated image are empty"
    assert black["standard"] < black["light"], "the centre of a larger one has fewer"


def test_empty_corners_take_the_fill():
    grey = dataclasses.replace(PREPROCESS, fill=(255, 0, 0))
    augment = augmentation("light", grey, n_classes=3)
    black = Image.new("RGB", (60, 60))

    pixels = torch.stack([augment.image(black, seed) for seed in range(5)])
    assert pixels[:, 0].max() == 255
    assert pixels[:, 1:].max() == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (900, 3), (5, 5)])
@pytest.mark.parametrize("name", AUGMENTS)
def test_an_image_of_any_shape_will_do(name, size):
    image = Image.new("RGB", size, (9, 99, 199))

    assert augmentation(name, PREPROCESS, n_classes=3).image(image, 1).shape == (3, 32, 32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", [name for name in AUGMENTS if name != "strong"])
def test_batches_are_mixed_by_strong_alone(name):
    pixels, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    mixed, targets = augmentation(name, PREPROCESS, n_classes=3).batch(pixels, y, seeded(0))

    assert mixed is pixels
    assert targets is y


def test_strong_mixes_images_and_classes_by_the_same_share():
    # Image i shows nothing but i, so that its pixels say what was mixed into it.
    y = torch.arange(6)
    pixels = y.float().reshape(6, 1, 1, 1).expand(6, 3, 40, 40).contiguous()
    augment = augmentation("strong", PREPROCESS, n_classes=6)

    kinds = set()
    for seed in range(12):
        mixed, targets = augment.batch(pixels, y, seeded(seed))
        assert torch.equal(targets, augment.batch(pixels, y, seeded(seed))[1])
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        shares = targets @ torch.arange(6.0)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares, atol=1e-3, rtol=1e-3)
        kinds.add("mixup" if mixed[1].unique().numel() == 1 else "cutmix")
    assert kinds == {"mixup", "cutmix"}
    assert torch.equal(pixels[:, 0, 0, 0], y.float()), "the caller's pixels stay as they were"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(FineTuneError, match=r"no augment 'strnog'; did you mean strong"):
        augmentation("strnog", PREPROCESS, n_classes=3)


def test_a_transform_function_can_not_be_augmented():
    theirs = dataclasses.replace(PREPROCESS, fit=FROM_TRANSFORM)

    with pytest.raises(FineTuneError, match="transform function"):
        augmentation("light", theirs, n_classes=3)
