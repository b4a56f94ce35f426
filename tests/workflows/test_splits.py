"""Splits made on request: kept in the index of the bank, on banks made by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from featbank.bank.bank import Bank
from featbank.bank.layered import LayeredBank, extending
from featbank.bank.maintenance import compact
from featbank.bank.merge import merge
from featbank.bank.prune import prune
from featbank.bank.repair import repair
from featbank.data.index import StoredSplit
from featbank.errors import DataError
from featbank.workflows.info import info
from featbank.workflows.rows import ChosenRows, select_rows
from tests.bank.builders import COLUMN, RECIPE, features, keys, source
from tests.faults import faulty

SPEC = "random:70/15/15"
TITLE = (SPEC, 0, "label")


def filled(bank: Bank, n: int, *, name: str = "pics", folder: str = "x") -> Bank:
    """Index `n` images of each of three classes, with features."""
    words = [f"{label} {i}" for label in "abc" for i in range(n)]
    contents = {f"{folder}/{word}.png": word for word in words}
    labels = [path.partition("/")[2][0] for path in sorted(contents)]
    number = [f"{int(path[-6:-4]) % 2}" for path in sorted(contents)]
    bank.update([source(name, contents, labels=labels, extra={"parity": number})])
    bank.register(RECIPE, {})
    bank.seal(RECIPE, keys(words), {COLUMN: features(words)})
    return bank


def rows(bank: Bank, split: str | None = SPEC, **words: Any) -> ChosenRows:
    words = {"label": None, "positive": None, "classes": None, "exclude": (), **words}
    options = {"recipe": None, "layers": None, "source": None, "random_state": 0}
    return select_rows(bank, split=split, **{**options, **words})


def splits_of(bank: Bank, **words: Any) -> dict[bytes, str]:
    found = rows(bank, **words)
    assert found.splits is not None
    pairs = zip(found.selection.digests, found.splits, strict=True)
    return {key.tobytes(): str(split) for key, split in pairs}


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return filled(Bank.create(tmp_path / "bank"), 12)


def test_an_image_that_is_added_moves_no_other(bank: Bank) -> None:
    before = splits_of(bank)
    assert 5 <= Counter(before.values())["test"] <= 6
    filled(bank, 15)
    after = splits_of(bank)
    assert {key: after[key] for key in before} == before
    labels = dict(zip(map(bytes, rows(bank).selection.digests), rows(bank).y, strict=True))
    for label in "abc":
        counts = Counter(split for key, split in after.items() if labels[key] == label)
        assert abs(counts["test"] - 15 * 0.15) < 1
    assert splits_of(bank, split="random:0.7/0.15/0.15") == after


def test_moved_and_renamed_images_stay(bank: Bank) -> None:
    before = splits_of(bank)
    filled(bank, 12, folder="elsewhere")
    assert splits_of(bank) == before
    filled(bank, 12, name="copies")
    assert splits_of(bank) == before
    assert [note.split(" left")[0] for note in rows(bank).notes] == ["36 copies"]


def test_another_seed_label_or_spec_is_another_split(bank: Bank) -> None:
    splits_of(bank)
    for words in (
        {"random_state": 1},
        {"label": "parity"},
        {"positive": "parity>0"},
        {"split": "kfold:4"},
    ):
        splits_of(bank, **words)
    assert list(bank.index.splits) == sorted(
        [
            TITLE,
            (SPEC, 1, "label"),
            (SPEC, 0, "parity"),
            (SPEC, 0, "parity>0"),
            ("kfold:4", 0, "label"),
        ]
    )


def test_classes_that_are_left_out_share_the_split(bank: Bank) -> None:
    some = splits_of(bank, exclude=["c"])
    assert len([split for split in some.values() if split != "None"]) == 24
    whole = splits_of(bank)
    assert {key: whole[key] for key, split in some.items() if split != "None"}.items() <= (
        some.items()
    )
    assert list(bank.index.splits) == [TITLE]


def test_nothing_is_written_where_nothing_is_new(bank: Bank) -> None:
    splits_of(bank)
    path = os.path.join(bank.path, "index.h5")
    before = os.stat(path)
    splits_of(bank)
    rows(bank, "first:3/2")
    rows(bank, "none")
    rows(bank, None)
    assert os.stat(path).st_ino == before.st_ino


def test_a_packed_bank_has_the_splits_and_says_what_it_does_not_keep(bank: Bank) -> None:
    before = splits_of(bank)
    path = compact(bank)
    assert splits_of(Bank(path)) == before
    assert rows(Bank(path)).notes == ()
    other = rows(Bank(path), random_state=1)
    (note,) = other.notes
    assert "is not kept" in note
    assert "one packed file" in note
    assert rows(Bank(path), random_state=1).splits == other.splits


def test_a_bank_that_can_not_be_written_deals_the_same(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Bank, change: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Bank, "store_splits", refuse)
    found = rows(bank)
    assert "can't be written" in found.notes[0]
    assert bank.index.splits == {}
    monkeypatch.undo()
    assert rows(bank).splits == found.splits
    assert rows(bank).notes == ()


def test_two_that_ask_at_the_same_time_agree(bank: Bank) -> None:
    code = (
        "from pathlib import Path\n"
        "from featbank.bank.bank import Bank\n"
        "from tests.workflows.test_splits import splits_of\n"
        f"found = splits_of(Bank({bank.path!r}))\n"
        "print(sorted((key.hex(), split) for key, split in found.items()))"
    )
    asked = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate()[0] for process in asked}
    assert len(said) == 1
    wanted = sorted((key.hex(), split) for key, split in bank.index.splits[TITLE].splits().items())
    assert said == {f"{wanted}\n"}


def test_a_disk_that_fails_leaves_the_old_index(bank: Bank) -> None:
    splits_of(bank)
    with faulty() as fs:
        splits_of(bank, random_state=1)
    for at in range(1, len(fs.calls) + 1):
        with faulty(at):
            notes = rows(bank, random_state=10 + at).notes
        stored = Bank(bank.path).index.splits
        assert {TITLE, (SPEC, 1, "label")} <= stored.keys()
        assert ((SPEC, 10 + at, "label") in stored) or "is not kept" in notes[0]


def test_merging_keeps_the_assignments_of_the_target(bank: Bank, tmp_path: Path) -> None:
    mine = splits_of(bank)
    other = filled(Bank.create(tmp_path / "other"), 14, folder="y")
    theirs = splits_of(other)
    turned = {key: "train" if split == "test" else "test" for key, split in theirs.items()}
    other.store_splits(lambda index: [StoredSplit.of(*TITLE, turned)])
    splits_of(other, random_state=5)
    merge(bank.path, [other.path])
    stored = Bank(bank.path).index.splits
    assert list(stored) == [TITLE, (SPEC, 5, "label")]
    assert stored[TITLE].splits() == {**turned, **mine}
    merge(tmp_path / "new.h5", [bank.path])
    assert Bank(tmp_path / "new.h5").index.splits.keys() == stored.keys()


def test_a_packed_bank_that_is_extended_keeps_its_splits(bank: Bank, tmp_path: Path) -> None:
    before = splits_of(bank)
    path = compact(bank, tmp_path / "codes.h5")
    with extending(path) as target:
        assert isinstance(target, LayeredBank)
        filled(target, 13)
        assert target.index.splits[TITLE].splits() == before
    assert splits_of(Bank(path)).items() >= before.items()


def test_prune_and_repair_keep_the_splits(bank: Bank) -> None:
    before = splits_of(bank)
    filled(bank, 5)  # the other images are gone
    prune(bank)
    repair(bank)
    assert Bank(bank.path).index.splits[TITLE].splits() == before
    filled(bank, 12)
    assert splits_of(bank) == before


def test_a_repair_that_loses_the_index_says_that_splits_are_dealt_again(bank: Bank) -> None:
    splits_of(bank)
    path = Path(bank.path, "index.h5")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert any("--split" in note for note in repair(bank.path).notes)


def test_a_split_is_had_in_the_order_of_the_features(bank: Bank) -> None:
    with pytest.raises(DataError, match="`featbank fit --split` makes one"):
        bank.splits(SPEC)
    wanted = rows(bank, exclude=["c"]).splits
    found = bank.splits("random:0.7/0.15/0.15")
    assert found.tolist() == wanted
    assert len(bank.features()[found == "test"]) == wanted.count("test") > 0
    with pytest.raises(DataError, match="random:70/15/15 by label, seed 0"):
        bank.splits(SPEC, random_state=1)


def test_info_lists_them(bank: Bank) -> None:
    splits_of(bank)
    (found,) = info(bank).made_splits
    assert (found["spec"], found["seed"], found["label"]) == TITLE
    assert sum(found["images"].values()) == 36


def test_an_index_of_format_1_takes_splits(tmp_path: Path) -> None:
    stored = Path(__file__).parents[1] / "formats" / "v1" / "bank"
    shutil.copytree(stored, tmp_path / "bank")
    bank = Bank(tmp_path / "bank")
    found = rows(bank, "random:50/50", recipe="first", layers="penultimate")
    assert found.splits is not None
    assert len(Bank(bank.path).index.splits) == 1
