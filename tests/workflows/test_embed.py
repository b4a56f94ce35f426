from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import Bank, compact, extract, from_module
from featbank.backbones import Column
from featbank.errors import DataError
from featbank.workflows.embed import Embedded, embed_images, embed_paths
from featbank.workflows.extract import Model, open_model, run_settings
from tests.tiny import PREPROCESS, TinyNet, make_images

COLUMNS = (Column(),)
HERE = run_settings(workers=0, device="cpu")


@pytest.fixture
def model() -> Model:
    return open_model(from_module(TinyNet(), transform=PREPROCESS, version="1"))


def embed(paths: list[Path], model: Model, bank: Path | None = None) -> Embedded:
    return embed_paths(paths, model, COLUMNS, bank=bank, settings=HERE)


def test_rows_come_in_the_order_of_the_paths(tmp_path: Path, model: Model) -> None:
    paths = make_images(tmp_path)

    there = embed(paths, model)
    back = embed(paths[::-1], model)

    assert there.features.shape == (12, 12)
    np.testing.assert_allclose(back.features[::-1], there.features, rtol=1e-5, atol=1e-6)


def test_equal_bytes_are_computed_once(tmp_path: Path, model: Model) -> None:
    paths = make_images(tmp_path, 3)
    shutil.copy(paths[0], tmp_path / "again.png")

    found = embed([*paths, tmp_path / "again.png", paths[0]], model)

    assert (found.computed, found.reused) == (3, 2)
    assert np.array_equal(found.features[0], found.features[3])
    assert np.array_equal(found.features[0], found.features[4])


def test_what_can_not_be_read_leaves_a_gap_and_a_reason(tmp_path: Path, model: Model) -> None:
    paths = make_images(tmp_path, 3)
    (tmp_path / "bad.png").write_bytes(b"bad")

    found = embed([paths[0], tmp_path / "bad.png", paths[1], tmp_path / "gone.png"], model)

    assert found.readable.tolist() == [True, False, True, False]
    assert found.features.shape == (2, 12)
    assert sorted(found.failures) == [1, 3]
    assert "not a JPEG" in found.failures[1]


def test_a_bank_keeps_features_and_gets_no_images(tmp_path: Path, model: Model) -> None:
    paths = make_images(tmp_path / "data", 6)

    assert embed(paths, model, tmp_path / "bank").computed == 6
    again = embed(paths, model, tmp_path / "bank")

    assert (again.computed, again.reused) == (0, 6)
    assert len(Bank(tmp_path / "bank").index) == 0


def test_a_changed_file_is_noticed(tmp_path: Path, model: Model) -> None:
    paths = make_images(tmp_path / "data", 6)
    before = embed(paths, model, tmp_path / "bank")
    shutil.copy(paths[1], paths[0])

    after = embed(paths, model, tmp_path / "bank")

    assert after.computed == 0
    assert np.array_equal(after.features[0], before.features[1])


def test_a_packed_bank_takes_what_it_lacks_and_keeps_the_rest(tmp_path: Path, model: Model) -> None:
    known, new = make_images(tmp_path / "data", 6), make_images(tmp_path / "new", 3, seed=1)
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1")
    bank = extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)
    packed = Path(compact(bank))

    found = embed([*known, *new], model, packed)

    assert (found.computed, found.reused) == (3, 6)
    assert np.array_equal(found.features[:6], bank.features())
    np.testing.assert_allclose(found.features[6:], embed(new, model).features, rtol=1e-5, atol=1e-6)
    assert Bank(packed).paths == bank.paths
    content = packed.read_bytes()
    again = embed([*known, *new], model, packed)
    assert (again.computed, again.reused) == (0, 9)
    assert np.array_equal(again.features, found.features)
    assert packed.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["bank", "bank.h5", "data", "new"]


def test_a_packed_bank_is_made_for_images_in_memory_too(tmp_path: Path, model: Model) -> None:
    images = [np.full((40, 40, 3), value, np.uint8) for value in (10, 200, 10)]

    first = embed_images(images, model, (Column(),), bank=tmp_path / "codes.h5")
    again = embed_images(images, model, (Column(),), bank=tmp_path / "codes.h5")

    assert (first.computed, again.computed) == (2, 0)
    assert np.array_equal(first.features, again.features)
    assert os.listdir(tmp_path) == ["codes.h5"]


def test_images_in_memory_equal_the_same_images_on_disk(tmp_path: Path, model: Model) -> None:
    paths = [path for path in make_images(tmp_path) if path.suffix == ".png"]
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(image.copy())

    found = embed_images(images, model, COLUMNS, settings=HERE)

    np.testing.assert_allclose(found.features, embed(paths, model).features, rtol=1e-5, atol=1e-6)


def test_equal_pixels_are_computed_once(model: Model) -> None:
    images = np.zeros((4, 40, 40, 3), np.uint8)
    images[1:3] = 200

    found = embed_images(images, model, COLUMNS, settings=HERE)

    assert (found.computed, found.reused) == (2, 2)
    assert np.array_equal(found.features[1], found.features[2])


def test_an_array_of_another_kind_is_refused(model: Model) -> None:
    with pytest.raises(DataError, match=r"image 0 is an array of shape \(40, 40, 3\) and float32"):
        embed_images([np.zeros((40, 40, 3), np.float32)], model, COLUMNS, settings=HERE)


def test_nothing_is_nothing(tmp_path: Path, model: Model) -> None:
    found = embed([], model)

    assert (len(found.features), found.computed, found.reused) == (0, 0, 0)
    assert os.listdir(tmp_path) == []
