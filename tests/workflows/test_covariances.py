"""Covariances from extraction to prediction: stored as they are, read as their power."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import (
    Bank,
    Classifier,
    TransferClassifier,
    compact,
    export,
    extract,
    fit,
    from_module,
    predict,
)
from featbank.backbones.covariance import power_of, triangle
from featbank.backbones.recipe import Column
from featbank.backbones.views import views_named
from featbank.errors import BackboneError, BankDamaged
from featbank.extraction.run import Settings
from tests.tiny import PREPROCESS, TinyNet, make_images

LAYERS = ["stage1:cov", "stage1:avg", "stage2:cov"]
FLIPS = views_named("flips")


def tiny() -> Any:
    return from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny", classifier="fc")


def stored(bank: Bank, layer: str, view: str = "identity") -> np.ndarray:
    """Return what the shards hold of a column, in the order of `Bank.features`."""
    located = bank.locate(layer=layer, view=view)
    return located.tables[0].read(located.places[0])


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    made = tmp_path_factory.mktemp("covariances")
    make_images(made / "data", 24)
    words: dict[str, Any] = {"layers": LAYERS, "views": "flips", "workers": 0}
    return extract(made / "data", tiny(), made / "bank", **words)


def test_a_bank_holds_covariances_and_gives_their_power(bank: Bank) -> None:
    maps = extract(bank.paths, tiny(), Path(bank.path).with_name("maps"),
                   layers="stage1:flatten", workers=0)  # fmt: skip
    values = maps.features().reshape(24, 8, -1)
    at, weights = triangle(8)
    expected = np.stack([np.cov(one, bias=True).ravel()[at] * weights for one in values])

    np.testing.assert_allclose(stored(bank, "stage1:cov"), expected, rtol=1e-4, atol=1e-6)
    found = bank.features(layer="stage1:cov")
    np.testing.assert_array_equal(found, power_of(stored(bank, "stage1:cov")))
    joined = bank.features(layer=LAYERS)
    assert joined.shape == (24, 36 + 8 + 78)
    np.testing.assert_array_equal(joined[:, :36], found)
    np.testing.assert_array_equal(joined[:, 36:44], bank.features(layer="stage1:avg"))


def test_of_averaged_views_it_is_the_power_of_the_mean(bank: Bank) -> None:
    each = [stored(bank, "stage1:cov", view) for view in FLIPS]
    own = np.stack([power_of(one) for one in each], axis=1)

    mean = bank.features(layer="stage1:cov", views="flips")
    np.testing.assert_allclose(mean, power_of(sum(each) / 4), rtol=1e-4, atol=1e-5)
    assert np.abs(mean - own.mean(axis=1)).max() > 1e-3
    side = bank.select(layer="stage1:cov", views="flips", combine="train").X
    np.testing.assert_array_equal(side, own.reshape(24, -1))


@pytest.mark.parametrize("views", [None, "flips"])
def test_all_ways_to_the_features_lead_to_the_same(
    bank: Bank, tmp_path: Path, views: str | None
) -> None:
    words: dict[str, Any] = {"layer": LAYERS, "views": views}
    wanted = bank.features(**words)

    located = bank.locate(**words)
    assert (located.width, located.dtype) == (wanted.shape[1], np.float32)
    blocks = [located.read(np.arange(start, start + 5)) for start in range(0, 20, 5)]
    np.testing.assert_array_equal(np.concatenate(blocks), wanted[:20])
    if views is None:
        export(bank, tmp_path / "x.npy", layer=LAYERS)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), wanted)
    packed = Bank(compact(bank, tmp_path / "packed.h5"))
    np.testing.assert_array_equal(packed.features(**words), wanted)


@pytest.mark.parametrize("combine", ["features", "decisions", "train"])
def test_a_saved_classifier_sees_what_it_learned_from(
    bank: Bank, tmp_path: Path, combine: str
) -> None:
    words: dict[str, Any] = {"views": "flips", "combine": combine}
    result = fit(bank, "lda", layers=LAYERS, cv=3, tune=False, out=tmp_path, **words)
    path = result.heads[0].classifier or ""

    told = predict(path, bank.paths, model=tiny(), settings=Settings(workers=0))
    known = Classifier.load(path).top(bank.select(layer=LAYERS, **words).X)
    assert [p.label for p in told.predictions] == [best[0].label for best in known]
    for one, best in zip(told.predictions, known, strict=True):
        assert [p.score for p in one.top] == pytest.approx([p.score for p in best], abs=1e-3)


def test_an_estimator_learns_from_the_same_features(bank: Bank) -> None:
    own = TransferClassifier(tiny(), "lda", layers=LAYERS, bank=bank, workers=0)
    own.fit(bank.paths, bank.labels)

    wanted = TransferClassifier("precomputed", "lda")
    wanted.fit(bank.features(layer=LAYERS), bank.labels)
    np.testing.assert_array_equal(
        own.predict_proba(bank.paths), wanted.predict_proba(bank.features(layer=LAYERS))
    )


def test_what_is_stored_in_half_the_bits_is_read_as_float32(tmp_path: Path, bank: Bank) -> None:
    half = extract(bank.paths, tiny(), tmp_path / "bank", layers="stage1:cov", dtype="float16",
                   workers=0)  # fmt: skip

    found, exact = half.features(), bank.features(layer="stage1:cov")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())


def test_a_layer_without_positions_or_with_too_many_channels_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 3)
    with pytest.raises(BackboneError, match="penultimate has 1 position an image"):
        extract(tmp_path / "data", tiny(), tmp_path / "bank", layers="penultimate:cov", workers=0)


def test_rows_that_are_no_covariances_are_damage(bank: Bank) -> None:
    recipe = bank.recipes[0].recipe
    column = Column("stage2", "cov", "rot90")
    keys = bank.select(layer="stage1:avg").digests
    bank.seal(recipe, keys, {column: np.zeros((len(keys), 5), np.float32)})

    with pytest.raises(BankDamaged, match="stage2:cov:rot90:float32 holds no covariances: 5 num"):
        Bank(bank.path).features(layer="stage2:cov", view="rot90")
