"""Images with the same bytes and label count once in every workflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import (
    Bank,
    advise,
    compare,
    cross_validate,
    curve,
    extract,
    fit,
    fit_protocol,
    from_module,
    select,
)
from featbank.bank.selection import Selection
from featbank.errors import DataError
from featbank.evaluation import fit_final
from featbank.workflows.copies import merge_copies
from featbank.workflows.finetune import finetune
from featbank.workflows.info import info
from tests.conftest import run
from tests.tiny import PREPROCESS, TinyNet, make_images

WAYS: dict[str, Callable[..., Any]] = {
    "fit": lambda bank, **k: fit(bank, "centroid", tune=False, cv=3, **k),
    "curve": lambda bank, **k: curve(bank, "centroid", tune=False, cv=3, draws=2, sizes=[2], **k),
    "select": lambda bank, **k: select(bank, "centroid", cv=3, **k),
    "advise": lambda bank, **k: advise(bank, "centroid", cv=3, tune=False, **k),
    "protocol": lambda bank, **k: fit_protocol(bank, "fewshot-ridge", cv=0.4, **k),
}


def tiny() -> Any:
    return from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """24 images of 3 classes, and all of them again in another folder."""
    folder = tmp_path_factory.mktemp("copies")
    make_images(folder / "data", 24)
    shutil.copytree(folder / "data", folder / "again")
    return extract((folder / "data", folder / "again"), tiny(), folder / "bank", workers=0)


@pytest.mark.parametrize("way", WAYS)
def test_copies_count_once_and_a_note_says_how_many(doubled: Bank, way: str) -> None:
    once, all_, alone = (
        WAYS[way](doubled, **words) for words in ({}, {"keep_copies": True}, {"source": "data"})
    )
    assert len([note for note in once.notes if note.startswith("24 copies left out")]) == 1
    assert not [note for note in (*all_.notes, *alone.notes) if "copies left out" in note]
    if way == "fit":
        assert [one.images for one in (once, all_, alone)] == [24, 48, 24]
        assert (once.duplicates, all_.duplicates) == (0, 24)
        assert once.class_sizes == alone.class_sizes == (8, 8, 8)
        assert once["centroid"].confusion.tolist() == alone["centroid"].confusion.tolist()


def test_the_first_by_source_and_name_is_kept(doubled: Bank, tmp_path: Path) -> None:
    found = fit(doubled, "centroid", tune=False, cv=3, predictions=tmp_path / "told.csv")

    paths = doubled.select().paths
    kept = [paths[row] for row in found["centroid"].predictions.rows]
    assert {Path(path).parent.parent.name for path in kept} == {"again"}


def test_one_network_is_trained_on_each_image_once(tmp_path: Path) -> None:
    for path in make_images(tmp_path / "data", 18):
        shutil.copy(path, path.with_stem(path.stem + "-copy"))
    words: dict[str, Any] = {
        "weights": "none", "epochs": 1, "cv": 2, "workers": 0, "device": "cpu",
    }  # fmt: skip
    once = finetune(tmp_path / "data", "small-cnn-3", **words)
    assert once.evaluation.images == 18
    assert any(note.startswith("18 copies left out") for note in once.evaluation.notes)
    assert finetune(
        tmp_path / "data", "small-cnn-3", keep_copies=True, **words
    ).evaluation.images == 36  # fmt: skip


def test_compare_counts_copies_once(doubled: Bank, tmp_path: Path) -> None:
    words: dict[str, Any] = {"cv": 2, "tune": False, "cache": tmp_path}
    assert compare(doubled, "centroid", **words).evaluation.images == 24
    assert compare(doubled, "centroid", keep_copies=True, **words).evaluation.images == 48


def test_contradicting_labels_are_all_kept_in_one_fold_with_a_note(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 24)
    other = tmp_path / "data" / "c" / "x.png"
    shutil.copy(paths[1], other)  # an image of class a
    shutil.copy(paths[1], tmp_path / "data" / "c" / "y.png")
    bank = extract(tmp_path / "data", tiny(), tmp_path / "bank", workers=0)

    found = fit(bank, "centroid", tune=False, cv=3)

    assert found.images == 25  # x and y are one
    assert [n for n in found.notes if "under more than one class" in n]
    assert [n for n in found.notes if n.startswith("1 copy left out")]
    rows, folds = (getattr(found["centroid"].predictions, n).tolist() for n in ("rows", "fold"))
    fold_of = dict(zip((bank.paths[row] for row in rows), folds, strict=True))
    assert fold_of[str(paths[1])] == fold_of[str(other)]


def test_copies_across_given_splits_stay(tmp_path: Path) -> None:
    make_images(tmp_path / "data" / "train", 12)
    make_images(tmp_path / "data" / "test", 9, seed=7)
    for target in ("train/a/copy.png", "test/a/copy.png"):
        shutil.copy(tmp_path / "data/train/a/000.png", tmp_path / "data" / target)
    bank = extract(tmp_path / "data", tiny(), tmp_path / "bank", workers=0)

    found = fit(bank, "centroid", tune=False)

    assert (found.images, found.duplicates) == (22, 1)
    assert found["centroid"].without_duplicates is not None
    assert [n for n in found.notes if n.startswith("1 copy left out")]
    crossed = fit(bank, "centroid", tune=False, split="none", cv=2)
    assert (crossed.images, crossed.duplicates) == (21, 0)


def test_a_folder_and_a_table_of_its_files_give_each_file_once(tmp_path: Path) -> None:
    """The folder has the labels; the table splits, groups and weights, and no labels."""
    paths = make_images(tmp_path / "data", 24)
    rows = ["path,split,group,weight"] + [
        f"{path},{'test' if i % 4 == 0 else 'train'},{'g' if i % 4 == 0 else i},{i + 1}"
        for i, path in enumerate(paths)
    ]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    sources = (tmp_path / "data", tmp_path / "table.csv")
    bank = extract(sources, tiny(), tmp_path / "bank", workers=0)

    found = fit(bank, "ridge", tune=False, sample_weight="weight")

    assert "scored on 6 of test" in found.protocol
    assert (found.images, found.groups, found.duplicates) == (24, 19, 0)
    with_all = fit(bank, "ridge", tune=False, split="none", cv=2, keep_copies=True)
    assert with_all.images == 24  # the others have no label


def test_a_column_that_one_source_lacks_leaves_out_its_images_alone(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 12)
    make_images(tmp_path / "more", 3, seed=5)
    rows = ["path,kind", *(f"{path},{'xy'[i % 2]}" for i, path in enumerate(paths))]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    sources = (tmp_path / "data", tmp_path / "table.csv", tmp_path / "more")
    bank = extract(sources, tiny(), tmp_path / "bank", workers=0)

    found = fit(bank, "centroid", tune=False, cv=2, label="kind")

    assert (found.images, found.classes) == (12, ("x", "y"))
    assert "3 images without a label left out." in found.notes
    with pytest.raises(DataError, match="have no column 'kinds'; did you mean kind"):
        fit(bank, "centroid", tune=False, label="kinds")


def test_info_counts_classes_once(doubled: Bank) -> None:
    found = info(doubled)
    assert (found.images, found.labelled, found.copies) == (48, 48, 24)
    assert found.classes == {"a": 8, "b": 8, "c": 8}
    said = run("info", "--bank", doubled.path).out
    assert "48 images (24 copies), 48 labelled" in said


def test_the_command_keeps_copies(doubled: Bank) -> None:
    words = ("fit", "--bank", doubled.path, "--head", "centroid", "--no-save", "--json")
    assert run(*words).json["images"] == 24
    assert run(*words, "--keep-copies").json["images"] == 48


def some(
    digests: str, labels: str, splits: str = "", groups: str = "", column: str = ""
) -> Selection:
    """Return a selection, a letter a row; a dot is nothing."""

    def words(text: str) -> list[str | None]:
        return [None if c == "." else c for c in text or "." * len(digests)]

    keys = np.zeros((len(digests), 32), np.uint8)
    keys[:, 31] = [ord(c) for c in digests]
    return Selection(
        X=np.empty((len(digests), 0)), paths=[str(i) for i in range(len(digests))],
        sources=["s"] * len(digests), labels=words(labels), splits=words(splits),
        groups=words(groups), digests=keys, recipe=None, columns=(), request={},
        further={"w": words(column)},
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "given_splits", "stays", "splits", "groups", "column"),
    [
        (some("xxy", "aab"), True, [0, 2], "...", "...", "..."),
        (some("xxx", "aba"), True, [0, 1], "...", "...", "..."),
        (some("xx", "aa", "pq"), True, [0, 1], "pq", "..", ".."),
        (some("xx", "aa", "pq"), False, [0], "pq", "..", ".."),
        (some("xx", "aa", ".p", ".g", ".1"), True, [0], "pp", "gg", "11"),
        (some("xxx", "aaa", ".pq"), True, [0, 2], "ppq", "...", "..."),
        (some("xx", ".a", "p.", "g.", "1."), True, [1], "pp", "gg", "11"),
        (some("xx", "..", "p."), True, [0, 1], "p.", "..", ".."),
        (some("xx", "a.", ".p"), True, [0], "pp", "..", ".."),
        (some("xx", "ab", "..", ".g", ".1"), True, [0, 1], "..", ".g", ".1"),
    ],
)
def test_who_stays_takes_over_what_copies_know(
    given: Selection, given_splits: bool, stays: list[int], splits: str, groups: str, column: str
) -> None:
    merged, kept = merge_copies(given, given_splits=given_splits)

    assert np.flatnonzero(kept).tolist() == stays
    for found, wanted in (
        (merged.splits, splits), (merged.groups, groups), (merged.further["w"], column),
    ):  # fmt: skip
        for row in stays:
            assert found[row] == (None if wanted[row] == "." else wanted[row])


def test_rows_of_equal_digest_and_label_count_once_from_python() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), np.repeat(["a", "b"], 20)
    twice, labels, digests = np.tile(X, (2, 1)), np.tile(y, 2), [*range(40), *range(40)]
    words: dict[str, Any] = {"tune": False, "cv": 4}

    alone = cross_validate(X, y, "ridge", **words)
    once = cross_validate(twice, labels, "ridge", digests=digests, **words)
    kept = cross_validate(twice, labels, "ridge", digests=digests, keep_copies=True, **words)

    assert once["ridge"].metrics == alone["ridge"].metrics
    assert (once.images, kept.images, kept.duplicates) == (40, 80, 40)
    final = fit_final(twice, labels, "ridge", digests=digests, tune=False)
    assert final.rows.tolist() == list(range(40))


def test_the_group_of_a_copy_still_binds(tmp_path: Path) -> None:
    """Rows 0 and 1 have equal bytes; 1 is left out, and its group holds 0 and 2 together."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(21, 4)), np.array([*"aaa", *"ab" * 9])
    groups = [None, "g", "g", *[None] * 18]
    found = cross_validate(
        X, y, "ridge", digests=[0, 0, *range(1, 20)], groups=groups, tune=False, cv=3
    )
    rows, folds = (getattr(found["ridge"].predictions, n).tolist() for n in ("rows", "fold"))
    fold_of = dict(zip(rows, folds, strict=True))
    assert 1 not in fold_of
    assert fold_of[0] == fold_of[2]
