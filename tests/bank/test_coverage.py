"""Coverage: a lost shard is counted by the columns that it held, on banks made by hand."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import hdf5
from featbank.backbones.recipe import Column
from featbank.bank.bank import Bank
from featbank.bank.coverage import bank_coverage, lost_columns
from featbank.bank.maintenance import compact, verify
from featbank.bank.merge import merge
from featbank.bank.prune import prune
from featbank.bank.repair import repair
from featbank.data.index import IndexedSource
from tests.bank.builders import OTHER, RECIPE, features, keys, source

WHOLE, FLIPPED, LAYER = Column(), Column(view="hflip"), Column("blocks.4", "max")
WORDS = [f"image {i}" for i in range(20)]
FEW = WORDS[:6]


def indexed(name: str, words: list[str], columns: tuple[Column, ...] | None) -> IndexedSource:
    part = source(name, {f"{word}.png": word for word in words}, root=f"/{name}".encode())
    if columns is None:  # as an older version wrote it
        return part
    return part.requesting(RECIPE.fingerprint, [column.name for column in columns])


@pytest.fixture(params=[True, False], ids=["recorded", "not recorded"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    """All images as they are and mirrored; another layer of one source's, in a shard of its own."""
    bank = Bank.create(tmp_path / "bank")
    asked = (WHOLE, FLIPPED)
    bank.update(
        [
            indexed("all", WORDS, asked if request.param else None),
            indexed("few", FEW, (*asked, LAYER) if request.param else None),
        ],
        documents=[{"name": name, "kind": "flat", "root": f"/{name}"} for name in ("all", "few")],
    )
    bank.register(RECIPE, {})
    for part in (WORDS[:10], WORDS[10:]):
        bank.seal(RECIPE, keys(part), {c: features(part, c) for c in (WHOLE, FLIPPED)})
    bank.seal(RECIPE, keys(FEW), {LAYER: features(FEW, LAYER)})
    return bank


def shard_of(bank: Bank, column: Column) -> Path:
    return Path(next(s.path for s in bank.shards(RECIPE.fingerprint) if column in s.columns))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def recorded(bank: Bank) -> bool:
    return bool(bank.index.sources["few"].requested)


def test_a_column_of_one_source_is_not_missing_of_the_others(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path / "bank")
    bank.update([indexed("all", WORDS, (WHOLE,)), indexed("few", FEW, (WHOLE, LAYER))])
    bank.register(RECIPE, {})
    bank.seal(RECIPE, keys(WORDS), {WHOLE: features(WORDS)})
    bank.seal(RECIPE, keys(FEW), {LAYER: features(FEW, LAYER)})
    found = {one.column: one for one in bank_coverage(bank)[RECIPE.slug]}
    assert found[WHOLE.name].images == 26
    assert found[LAYER.name].images == 12  # the same six images are in both sources
    assert lost_columns(bank_coverage(bank)) == {}
    os.unlink(shard_of(bank, LAYER))
    assert verify(bank.path).missing == {RECIPE.slug: {LAYER.name: 6}}


@pytest.mark.parametrize("how", ["features flipped", "heading flipped", "deleted"])
def test_the_one_shard_of_a_column_is_lost(bank: Bank, how: str) -> None:
    path = shard_of(bank, LAYER)
    known = recorded(bank) or how == "features flipped"  # else nothing names the column any more
    lost = {RECIPE.slug: {LAYER.name: 6 if recorded(bank) else 26}} if known else {}
    if how == "deleted":
        path.unlink()
    else:
        flip(path, -1 if how.startswith("features") else 0)
    found = verify(bank.path)
    assert found.ok == (how == "deleted")
    if known:
        assert found.missing == lost
    done = repair(bank.path)
    assert done.columns.get(RECIPE.slug, {}).get(LAYER.name, 0) == (
        lost[RECIPE.slug][LAYER.name] if known else 0
    )
    if recorded(bank):
        assert done.columns == lost
        assert set(done.to_compute) == {f"/few/{word}.png" for word in FEW}
    again = Bank(bank.path)
    assert verify(again).ok
    assert verify(again).missing == done.columns
    again.seal(RECIPE, keys(FEW), {LAYER: features(FEW, LAYER)})
    if recorded(bank):
        assert lost_columns(bank_coverage(Bank(bank.path))) == {}


def test_a_shard_with_several_views_loses_each(bank: Bank) -> None:
    flip(shard_of(bank, FLIPPED), -1)
    lost = repair(bank.path).columns[RECIPE.slug]
    assert lost[WHOLE.name] == lost[FLIPPED.name] >= 10
    assert LAYER.name not in lost or not recorded(bank)


def test_what_is_missing_stays_missing_in_a_packed_bank(bank: Bank, tmp_path: Path) -> None:
    shard_of(bank, LAYER).unlink()
    path = compact(Bank(bank.path), tmp_path / "codes.h5")
    lost = {RECIPE.slug: {LAYER.name: 6}} if recorded(bank) else {}
    assert verify(path).missing == lost
    assert verify(path).ok
    assert bank_coverage(Bank(path))[RECIPE.slug][-1].column == WHOLE.name


def test_an_extraction_that_did_not_end_is_counted(bank: Bank) -> None:
    part = bank.index.sources["few"]
    bank.update([part.requesting(RECIPE.fingerprint, [WHOLE.name, "stage:avg:identity:float32"])])
    found = verify(bank.path).missing[RECIPE.slug]
    assert found["stage:avg:identity:float32"] == 6


def test_a_merge_brings_what_was_extracted(bank: Bank, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bank.path, copy)
    part = bank.index.sources["few"]
    bank.update([part.requesting(RECIPE.fingerprint, ["more:avg:identity:float32"])])
    merge(copy, [bank.path])
    assert Bank(copy).index.sources["few"].requested == bank.index.sources["few"].requested
    merge(tmp_path / "new.h5", [bank.path])
    assert verify(tmp_path / "new.h5").missing == verify(bank.path).missing


def test_a_recipe_that_was_pruned_is_missed_by_nobody(bank: Bank) -> None:
    bank.update(
        [part.requesting(OTHER.fingerprint, [WHOLE.name]) for part in bank.index.sources.values()]
    )
    bank.register(OTHER, {})
    bank.seal(OTHER, keys(WORDS), {WHOLE: features(WORDS)})
    prune(bank.path, [OTHER.slug])
    index = Bank(bank.path).index
    assert all(OTHER.fingerprint not in part.requested for part in index.sources.values())
    assert recorded(Bank(bank.path)) == recorded(bank)
    bank.register(OTHER, {})
    bank.seal(OTHER, keys(WORDS), {LAYER: features(WORDS, LAYER)})
    assert OTHER.slug not in verify(bank.path).missing


def test_images_that_can_not_be_read_lack_nothing(tmp_path: Path) -> None:
    bank = Bank.create(tmp_path / "bank")
    part = source("all", {"1.png": "one", "2.png": None, "3.png": "three"})
    gone = part.listing.size.copy()
    gone[2] = -1
    part = dataclasses.replace(part, listing=dataclasses.replace(part.listing, size=gone))
    bank.update([part.requesting(RECIPE.fingerprint, [WHOLE.name])])
    bank.register(RECIPE, {})
    bank.seal(RECIPE, keys(["one"]), {WHOLE: np.asarray(features(["one"]))})
    (found,) = bank_coverage(bank)[RECIPE.slug]
    assert (found.images, found.missing) == (1, 0)


@pytest.mark.parametrize("linked", ["shard", "quarantine", "index"])
def test_nothing_is_read_through_a_link(bank: Bank, tmp_path: Path, linked: str) -> None:
    path, elsewhere = shard_of(bank, LAYER), tmp_path / "elsewhere"
    if linked == "quarantine":
        flip(path, -1)
        repair(bank.path)
        os.rename(Path(bank.path, "quarantine"), elsewhere)
        os.symlink(elsewhere, Path(bank.path, "quarantine"))
    else:
        path = path if linked == "shard" else Path(bank.path, "index.h5")
        os.rename(path, elsewhere)
        os.symlink(elsewhere, path)
    opened: list[str] = []
    read = hdf5.open_inspected

    def watched(path: str) -> Any:
        opened.append(os.path.realpath(path))
        return read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "open_inspected", watched)
        verify(bank.path)
        repair(bank.path)
        verify(bank.path)
    assert opened
    assert not [path for path in opened if path.startswith(str(elsewhere))]
