"""Rows and batches: images from anywhere, in an order that a seed decides."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from featbank.backbones.preprocess import apply
from featbank.errors import DataError
from featbank.finetuning.augment import augmentation
from featbank.finetuning.images import Images
from featbank.finetuning.loading import Epochs, Rows, batches_of, loader
from tests.finetuning.small import Y, images
from tests.tiny import PREPROCESS


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (1, 4, [1]),
        (5, 4, [5]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_an_epoch_holds_each_row_once_and_no_batch_of_one(
    n: int, size: int, lengths: list[int]
) -> None:
    order = Epochs(np.arange(n), size, seed=0)
    batches = list(order)
    assert [len(batch) for batch in batches] == lengths
    assert len(order) == len(lengths)
    assert sorted(row for batch in batches for row, _ in batch) == list(range(n))


def test_each_epoch_has_its_own_order_and_seeds() -> None:
    order = Epochs(np.arange(20), 20, seed=0)
    ((first,), (again,)) = list(order), list(order)
    order.epoch = 1
    (second,) = list(order)
    assert first == again
    assert [row for row, _ in first] != [row for row, _ in second]
    assert not {seed for _, seed in first} & {seed for _, seed in second}


def test_evaluation_sees_the_pixels_of_the_recipe() -> None:
    plain = augmentation("none", PREPROCESS, n_classes=3)
    rows = Rows(images(), Y, plain.image)
    pixels, y = next(iter(loader(rows, batches_of(np.array([4, 2]), 8), workers=0)))
    assert y.tolist() == [Y[4], Y[2]]
    assert np.array_equal(pixels[1].permute(1, 2, 0), apply(PREPROCESS, images().read(2)))


def test_rows_travel_to_processes_that_are_spawned() -> None:
    light = augmentation("light", PREPROCESS, n_classes=3)
    rows = Rows(images(), Y, light.image)
    copy = pickle.loads(pickle.dumps(rows))
    assert copy[(3, 77)][0].equal(rows[(3, 77)][0])
    batches = batches_of(np.arange(4), 2)
    spawned = loader(rows, batches, workers=1, context="spawn")
    here = loader(rows, batches, workers=0)
    assert all(a[0].equal(b[0]) for a, b in zip(spawned, here, strict=True))


def test_images_in_memory_are_checked() -> None:
    with pytest.raises(DataError, match=r"image 1 is neither .* but of shape \(4, 4\)"):
        Images.of_arrays([Image.new("L", (4, 4)), np.zeros((4, 4), np.uint8)])
    assert Images.of_arrays([Image.new("L", (4, 4))]).read(0).mode == "RGB"


def test_a_digest_follows_the_pixels() -> None:
    blank = np.zeros((2, 4, 4, 3), np.uint8)
    rows = np.arange(2)
    assert Images.of_arrays(blank).digest(rows) == Images.of_arrays(blank.copy()).digest(rows)
    assert Images.of_arrays(blank).digest(rows) != Images.of_arrays(blank + 1).digest(rows)
