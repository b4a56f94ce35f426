"""No feature is found again under another recipe, and none is computed again under the same."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from featbank import Bank, from_module
from featbank.backbones import Column
from featbank.backbones.recipe import EXTRACTION_VERSION, Preprocess, Recipe, canonical_json
from featbank.data import index
from featbank.data.decode import DecodePolicy
from featbank.extraction.run import Settings
from featbank.workflows import extract as workflow
from featbank.workflows.extract import ExtractionResult, Model, extract_to, open_model
from featbank.workflows.status import status
from featbank.workflows.survey import open_sources
from tests.conftest import run
from tests.extraction.fakes import PREPROCESS as EIGHT
from tests.extraction.fakes import FakeLoader
from tests.tiny import PREPROCESS, TinyNet, make_images

BASE = Recipe(
    "fake",
    "module",
    "0" * 64,
    dataclasses.replace(EIGHT, decoder=json.loads(canonical_json(DecodePolicy().to_dict()))),
)

OTHER: dict[str, Any] = {
    "backbone": "other",
    "source": "timm",
    "weights": "1" * 64,
    "precision": "bfloat16",
    "runtime": "torch",
    "version": EXTRACTION_VERSION + 1,
    "preprocess.resize": 9,
    "preprocess.fit": "short",
    "preprocess.crop": (8, 7),
    "preprocess.interpolation": "bicubic",
    "preprocess.mean": (0.5, 0.5, 0.4),
    "preprocess.std": (0.25, 0.25, 0.2),
    "preprocess.fill": (0, 0, 1),
    "preprocess.decoder.version": DecodePolicy().version + 1,
    "preprocess.decoder.exif": False,
    "preprocess.decoder.background": [0, 0, 0],
}
"""Another value for each field of a recipe, all the way down."""

OTHER_COLUMN = {"layer": "early", "pooling": "max", "view": "hflip", "dtype": "float16"}
"""And for each field of a column."""


def fields_of_a_recipe() -> set[str]:
    own = {f.name for f in dataclasses.fields(Recipe)} - {"preprocess"}
    inner = {f"preprocess.{f.name}" for f in dataclasses.fields(Preprocess)}
    decoder = {f"preprocess.decoder.{f.name}" for f in dataclasses.fields(DecodePolicy)}
    return own | inner - {"preprocess.decoder"} | decoder


def changed(recipe: Recipe, field: str) -> Recipe:
    """Return the recipe with one field changed."""
    *path, name = field.split(".")
    if not path:
        return dataclasses.replace(recipe, **{name: OTHER[field]})
    preprocess = recipe.preprocess
    if len(path) == 1:
        preprocess = dataclasses.replace(preprocess, **{name: OTHER[field]})
    else:
        decoder = {**preprocess.decoder, name: OTHER[field]}
        preprocess = dataclasses.replace(preprocess, decoder=decoder)
    return dataclasses.replace(recipe, preprocess=preprocess)


def fake(recipe: Recipe) -> Model:
    return Model(recipe, FakeLoader(), {"module": "fake"}, DecodePolicy(), EIGHT)


@dataclass
class Place:
    """A folder of six images whose times are trusted, and a bank beside it."""

    folder: Path

    def __post_init__(self) -> None:
        self.data, self.bank = self.folder / "data", self.folder / "bank"
        make_images(self.data, 6)

    def extract(
        self, model: Model, *columns: Column, settings: Settings | None = None
    ) -> ExtractionResult:
        settings = settings or Settings(workers=0)
        return extract_to(
            self.bank, open_sources(self.data), model, columns or (Column(),), settings=settings
        )

    def look(self, model: Model, *columns: Column) -> dict[str, Any]:
        found = status(self.bank, open_sources(self.data), model, columns or (Column(),))
        return found.to_dict()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)
    return Place(tmp_path)


def check_new(place: Place, old: Model, new: Model, *fields: str) -> None:
    """Check that nothing of one model is reused for another, and that `status` says why."""
    assert old.recipe is not None
    assert new.recipe is not None
    assert new.recipe.fingerprint != old.recipe.fingerprint
    assert place.extract(old).computed == 6
    foretold = place.look(new)
    assert (foretold["reused"], foretold["to_compute"]) == (0, 6)
    assert foretold["recipe_differs"] == sorted(fields)
    done = place.extract(new)
    assert (done.computed, done.reused) == (6, 0)
    assert place.extract(old).reused == 6  # which has lost nothing by it
    assert len(Bank(place.bank).recipes) == 2


def check_same(place: Place, old: Model, new: Model, settings: Settings | None = None) -> None:
    """Check that everything of one model is reused for another."""
    assert place.extract(old).computed == 6
    foretold = place.look(new)
    assert (foretold["reused"], foretold["recipe_differs"]) == (6, [])
    done = place.extract(new, settings=settings)
    assert (done.computed, done.reused) == (0, 6)


# The recipe, field by field


def test_every_field_of_recipe_and_column_has_a_test() -> None:
    assert set(OTHER) == fields_of_a_recipe()
    assert set(OTHER_COLUMN) == {f.name for f in dataclasses.fields(Column)}


@pytest.mark.parametrize("field", OTHER)
def test_a_field_makes_a_new_recipe_and_status_names_it(place: Place, field: str) -> None:
    check_new(place, fake(BASE), fake(changed(BASE, field)), field)


@pytest.mark.parametrize("field", OTHER)
def test_the_command_names_the_field(
    place: Place, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    place.extract(fake(BASE))
    monkeypatch.setattr(workflow, "open_model", lambda *_, **__: fake(changed(BASE, field)))
    words = ("status", place.data, "--model", "any", "--bank", place.bank)

    assert run(*words, "--json").json["recipe_differs"] == [field]
    assert f"which differs in: {field}\n" in run(*words).out


@contextlib.contextmanager
def key_without(field: str) -> Iterator[None]:
    """Leave a field out of the recipe's key."""

    def fingerprint(recipe: Recipe) -> str:
        data = recipe.to_dict()
        *path, name = field.split(".")
        inner = data
        for part in path:
            inner[part] = dict(inner[part])
            inner = inner[part]
        del inner[name]
        return hashlib.sha256(canonical_json(data).encode()).hexdigest()

    with mock.patch.object(Recipe, "fingerprint", property(fingerprint)):
        yield


@pytest.mark.parametrize("field", OTHER)
def test_a_key_without_the_field_would_be_seen(place: Place, field: str) -> None:
    """The check proves itself: with this field left out of the key, it must fail."""
    with key_without(field), pytest.raises(AssertionError):
        check_new(place, fake(BASE), fake(changed(BASE, field)), field)


@pytest.mark.parametrize("field", OTHER_COLUMN)
def test_a_field_of_the_column_makes_a_new_column(place: Place, field: str) -> None:
    column = dataclasses.replace(Column(), **{field: OTHER_COLUMN[field]})
    place.extract(fake(BASE))
    before = Bank(place.bank).features(layer=Column().name)

    foretold = place.look(fake(BASE), column)
    done = place.extract(fake(BASE), column)

    assert (foretold["to_compute"], foretold["missing_columns"]) == (6, [column.name])
    assert foretold["recipe_differs"] == []
    assert (done.computed, done.reused) == (6, 0)
    bank = Bank(place.bank)
    assert bank.features(layer=column.name).dtype == column.dtype
    assert np.array_equal(bank.features(layer=Column().name), before)
    assert len(bank.recipes) == 1


def test_one_more_column_leaves_the_first_one_alone(place: Place) -> None:
    place.extract(fake(BASE))
    both = place.extract(fake(BASE), Column(), Column("early"))

    assert (both.computed, both.reused) == (6, 0)
    assert [len(s.columns) for s in Bank(place.bank).shards(BASE.fingerprint)] == [1, 1]


def test_of_several_recipes_the_nearest_one_is_compared(place: Place) -> None:
    far = dataclasses.replace(BASE, weights="2" * 64, precision="bfloat16", runtime="torch")
    for recipe in (far, BASE, dataclasses.replace(BASE, backbone="another")):
        place.extract(fake(recipe))

    assert place.look(fake(changed(BASE, "weights")))["recipe_differs"] == ["weights"]
    assert place.look(fake(changed(BASE, "backbone")))["recipe_differs"] == ["backbone"]


# A module of the caller's


def module(
    version: str = "1",
    *,
    seed: int = 0,
    transform: Any = PREPROCESS,
    name: str = "tiny",
    **words: Any,
) -> Model:
    network = TinyNet(seed)
    return open_model(
        from_module(network, transform=transform, version=version, name=name, **words)
    )


def as_tensor(image: Any) -> Any:
    return torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32) / 255).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ({}, {"version": "2"}, ["backbone"]),
        ({}, {"name": "other"}, ["backbone"]),
        ({}, {"classifier": "stage2.0"}, ["backbone"]),
        ({}, {"seed": 1}, ["weights"]),
        ({}, {"precision": "bfloat16"}, ["precision", "runtime"]),
        ({}, {"decode": DecodePolicy(exif=False)}, ["preprocess.decoder.exif"]),
        (
            {},
            {"transform": dataclasses.replace(PREPROCESS, resize=40)},
            ["preprocess.resize"],
        ),
        ({"transform": as_tensor}, {"transform": as_tensor, "version": "2"}, ["backbone"]),
    ],
)
def test_what_a_module_depends_on_makes_a_new_recipe(
    place: Place, old: dict[str, Any], new: dict[str, Any], fields: list[str]
) -> None:
    check_new(place, module(**old), module(**new), *fields)


def test_names_and_versions_of_modules_are_never_confused() -> None:
    words = [
        {"name": "a", "version": "1", "classifier": "fc"},
        {"name": "a", "version": "1#fc"},
        {"name": "a#fc", "version": "1"},
        {"name": "a@1", "version": "1"},
        {"name": "a", "version": "1@1"},
        {"name": "a", "version": "1%401"},
    ]
    recipes = [module(**w).recipe for w in words]

    assert len({recipe.fingerprint for recipe in recipes if recipe}) == len(words)


def test_an_equal_module_made_anew_is_the_same(place: Place) -> None:
    check_same(place, module(), module())


# How the work is done


@pytest.mark.parametrize(
    "settings",
    [
        Settings(workers=2),
        Settings(workers=0, batch_size=1),
        Settings(workers=0, shard_rows=1),
        Settings(workers=0, device="cuda"),  # which need not be there: there is nothing to do
        Settings(workers=0, device="mps"),
    ],
    ids=["workers", "batch", "shards", "cuda", "mps"],
)
def test_how_a_run_goes_about_its_work_is_not_in_the_key(place: Place, settings: Settings) -> None:
    check_same(place, module(), module(), settings)


def test_threads_are_not_in_the_key(place: Place) -> None:
    old, threads = module(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        check_same(place, old, module())
    finally:
        torch.set_num_threads(threads)
