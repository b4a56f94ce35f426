"""Messages of scores name images of a bank by their paths."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featbank import Bank, curve, extract, fit, fit_protocol, from_module, select
from featbank.bank.selection import Located
from featbank.errors import EvaluationError
from featbank.evaluation.inputs import named
from tests.tiny import PREPROCESS, TinyNet, make_images

WAYS: dict[str, Callable[[Bank], Any]] = {
    "fit": lambda bank: fit(bank, "centroid", tune=False, cv=3),
    "several-labels": lambda bank: fit(
        bank, "ridge", tune=False, cv=3, label="marks", multilabel=True
    ),
    "curve": lambda bank: curve(bank, "centroid", tune=False, cv=3, draws=2, sizes=[2]),
    "select": lambda bank: select(bank, "centroid", cv=3),
    "protocol": lambda bank: fit_protocol(bank, "fewshot-ridge", cv=0.4),
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("rows")
    paths = make_images(folder / "data", 24)
    copy = folder / "data" / "c" / "copy.png"
    shutil.copy(paths[1], copy)  # an image of class a
    table = ["path,label,marks"]
    for i, path in enumerate([*paths, copy]):
        label = "" if i == 0 else path.parent.name
        table.append(f"{path},{label},{label and ('u;' if i % 2 else 'v;') + label}")
    (folder / "table.csv").write_text("\n".join(table) + "\n")
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    return extract(folder / "table.csv", backbone, folder / "bank", workers=0)


def copies(bank: Bank) -> list[str]:
    chosen = bank.select()
    keys = [row.tobytes() for row in chosen.digests]
    return [p for p, k in zip(chosen.paths, keys, strict=True) if keys.count(k) > 1]


@pytest.mark.parametrize("way", WAYS)
def test_images_under_two_classes_are_named_by_path(bank: Bank, way: str) -> None:
    notes = WAYS[way](bank).notes

    one, other = copies(bank)
    (told,) = (note for note in notes if "more than one class" in note)
    assert told.endswith(f"({one}, {other}).")


@pytest.mark.parametrize("way", WAYS)
def test_images_without_a_label_are_counted_once(bank: Bank, way: str) -> None:
    notes = WAYS[way](bank).notes

    assert [n for n in notes if "without a label" in n] == ["1 image without a label left out."]


@pytest.mark.parametrize("way", WAYS)
def test_features_that_are_not_finite_are_told_by_path(
    bank: Bank, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Located.read

    def broken(self: Located, images: Any) -> Any:
        features = read(self, images)
        features[[5, 9], 0] = np.nan
        return features

    path = bank.select().paths[5]
    monkeypatch.setattr(Located, "read", broken)
    with pytest.raises(EvaluationError, match=rf"2 of 24 .* the first is {path}; leave"):
        WAYS[way](bank)


def test_a_class_that_reads_like_rows_stays_as_it_is() -> None:
    note = "1 image stands under more than one class: '(rows 7).' and 'b' (rows 0, 1)."

    assert named(note, ["x.png", "y.png"]) == note.replace("rows 0, 1", "x.png, y.png")
