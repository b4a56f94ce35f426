from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from featbank import ComparisonResult, compare, extract, fit, from_module
from featbank.errors import EvaluationError, FineTuneError
from featbank.evaluation.stored import packed, unpacked
from featbank.finetuning.settings import FineTuneSettings
from featbank.workflows.compare import RowProgress
from featbank.workflows.comparison import table
from featbank.workflows.finetune import finetune
from tests.conftest import MODEL, run
from tests.tiny import PREPROCESS, TinyNet, make_images

HEADS = ("ridge", "centroid")
QUICK = FineTuneSettings(unfreeze="head", epochs=2, batch_size=8, augment="none", valid=0.0)
WORDS: dict[str, Any] = {"cv": 2, "tune": False, "workers": 0, "device": "cpu"}


class Apart:
    """Stands for the processes of rows, and notes which there were."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, work: Callable[[Any], Any], tell: Any) -> Any:
        self.names.append(name)
        return work(tell)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Apart:
    made = Apart()
    monkeypatch.setattr(table, "run_apart", made)
    return made


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of 24 images, some of which bear another class's label: nothing learns them all."""
    folder = tmp_path_factory.mktemp("images")
    paths = make_images(folder / "data", 24)
    rows = [(p, "abc"[("abc".index(p.parent.name) + (i % 4 == 0)) % 3])
            for i, p in enumerate(paths)]  # fmt: skip
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    run("extract", folder / "t.csv", *MODEL, "--bank", folder / "bank", "--workers", "0")
    return folder / "bank"


@pytest.fixture(scope="module")
def kept(
    bank: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, ComparisonResult]]:
    """A comparison, and where its rows are kept."""
    cache = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "run_apart", Apart())
        yield cache, compare(bank, HEADS, finetune={"quick": QUICK}, cache=cache, **WORDS)


def test_rows_have_the_scores_of_fit_and_finetune_on_their_folds(
    bank: Path, kept: tuple[Path, ComparisonResult]
) -> None:
    found = kept[1]
    frozen = fit(bank, HEADS, cv=2, tune=False, n_jobs=1)
    name = "finetune quick"
    tuned = finetune(bank=bank, settings=QUICK, cv=2, workers=0, device="cpu", name=name)

    for alone in (*frozen.heads, *tuned.evaluation.heads):
        row = found[alone.head].result
        assert row.to_dict() == {**alone.to_dict(), "seconds": row.seconds}
        assert np.array_equal(row.predictions.rows, alone.predictions.rows)
        assert np.array_equal(row.predictions.y_pred, alone.predictions.y_pred)
        assert row.metrics["accuracy"].mean < 1
    assert found.evaluation.protocol == frozen.protocol
    assert found.reference in HEADS
    difference = found[name].difference
    assert difference is not None
    assert difference["accuracy"] == found.evaluation.compare(name, found.reference)


def test_each_row_tells_its_costs(kept: tuple[Path, ComparisonResult]) -> None:
    rows = kept[1].rows

    assert all(row.seconds_per_1000 and row.seconds_per_1000 > 0 for row in rows)
    assert all(row.peak_bytes and row.peak_bytes > 50 << 20 for row in rows)
    trained = {row.name: (row.trained, row.parameters) for row in rows}
    assert trained["ridge"] == trained["finetune quick"][:1] * 2 == (3 * 1025, 3 * 1025)
    assert trained["finetune quick"][1] == 344_867
    accuracies = [row.result.metrics["accuracy"].mean for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(kept[1]["finetune quick"].trainings) == 2


def test_the_comparison_is_a_frame_and_shown_as_its_table(
    kept: tuple[Path, ComparisonResult],
) -> None:
    result = kept[1]
    frame = result.to_frame()
    assert list(frame["name"]) == [row.name for row in result.rows]
    assert list(frame["accuracy"]) == [row.result.metrics["accuracy"].mean for row in result.rows]
    assert repr(result) == result.table()


def test_a_longer_comparison_computes_its_new_rows_alone(
    bank: Path, kept: tuple[Path, ComparisonResult], apart: Apart
) -> None:
    cache, before = kept
    after = compare(bank, (*HEADS, "lda"), finetune={"quick": QUICK}, cache=cache, **WORDS)

    assert apart.names == ["lda"]
    assert [row.name for row in after.rows if not row.cached] == ["lda"]
    for row in before.rows:
        again = after[row.name]
        assert again.result.to_dict() == row.result.to_dict()
        told = ("seconds", "seconds_per_1000", "peak_bytes", "trained", "trainings", "settings")
        assert [getattr(again, name) for name in told] == [getattr(row, name) for name in told]
    assert "* kept from an earlier comparison" in after.table()


@pytest.mark.parametrize(
    "other",
    [{"cv": 3}, {"random_state": 1}, {"tune": True}, {"exclude": ["a"]}, {"fresh": True},
     {"class_weight": "balanced"}, {"split": "random:60/40"}],
)  # fmt: skip
def test_a_row_is_computed_again_when_what_it_depends_on_changes(
    other: dict[str, Any], bank: Path, kept: tuple[Path, ComparisonResult], apart: Apart
) -> None:
    words = {**WORDS, **other}
    if "split" in other:
        del words["cv"]
    compare(bank, "ridge", cache=kept[0], **words)

    assert apart.names == ["ridge"]


def test_damaged_rows_are_computed_again_and_said(bank: Path, tmp_path: Path, apart: Apart) -> None:
    compare(bank, HEADS, cache=tmp_path, **WORDS)
    document, other = sorted(tmp_path.glob("*.json"))
    document.write_text(document.read_text().replace("mean", "maen", 1))
    arrays = other.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:-9])
    found = compare(bank, HEADS, cache=tmp_path, **WORDS)

    assert apart.names == [*HEADS, *HEADS]
    assert "was damaged; it was computed again" in found.table()
    assert all(row.cached for row in compare(bank, HEADS, cache=tmp_path, **WORDS).rows)


def test_an_interrupted_comparison_goes_on_with_the_fold_where_it_was(
    bank: Path, tmp_path: Path, apart: Apart
) -> None:
    def stop(at: RowProgress) -> None:
        if at.words.startswith("training 2"):
            raise KeyboardInterrupt

    told = []
    words = {"finetune": {"quick": QUICK}, "cache": tmp_path, **WORDS}
    with pytest.raises(KeyboardInterrupt):
        compare(bank, "ridge", progress=stop, **words)
    assert list(tmp_path.glob("*.training"))
    found = compare(bank, "ridge", progress=told.append, **words)

    assert apart.names == ["ridge", "finetune quick", "finetune quick"]
    assert not any(at.words.startswith("training 1") for at in told)
    assert len(found["finetune quick"].trainings) == 2
    assert not list(tmp_path.glob("*.training"))


def test_where_nothing_can_be_kept_rows_are_computed_all_the_same(
    bank: Path, tmp_path: Path, apart: Apart, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    found = compare(bank, "ridge", finetune={"quick": QUICK}, cache=tmp_path / "file", **WORDS)

    assert [row.kind for row in found.rows] in (["frozen", "finetune"], ["finetune", "frozen"])
    assert [record.message.partition(" in ")[0] for record in caplog.records] == [
        "ridge can't be kept",
        "finetune quick can't be kept",
    ]


def test_what_can_not_be_described_is_computed_each_time_and_said(
    bank: Path, tmp_path: Path, apart: Apart
) -> None:
    head = KNeighborsClassifier(n_neighbors=1, metric=lambda a, b: float(np.abs(a - b).sum()))
    found = compare(bank, head, cache=tmp_path, **WORDS)

    assert "can't be written down" in found.table()
    assert not list(tmp_path.glob("*"))
    described = KNeighborsClassifier(n_neighbors=1)
    for _ in range(2):
        compare(bank, described, cache=tmp_path, **WORDS)
    assert len(apart.names) == 2


def test_sets_of_layers_and_backbones_have_rows_of_their_own(tmp_path: Path, apart: Apart) -> None:
    make_images(tmp_path / "data", 18)
    for name, layers in (("one", ["stage1", "penultimate"]), ("two", ["penultimate"])):
        net = from_module(TinyNet(len(name)), transform=PREPROCESS, version=name, name=name)
        extract(tmp_path / "data", net, tmp_path / "bank", layers=layers, workers=0)
    words = {"cv": 2, "tune": False, "cache": tmp_path / "cache"}
    own = compare(
        tmp_path / "bank", "ridge", recipe="one", layers=["stage1", "stage1,penultimate"], **words
    )
    both = compare(
        tmp_path / "bank", "ridge", recipe=["one", "two"], layers=["stage1", "penultimate"], **words
    )

    assert {row.name for row in own.rows} == {"ridge stage1", "ridge stage1+penultimate"}
    assert {row.name for row in both.rows} == {
        "ridge one@one stage1", "ridge one@one penultimate", "ridge two@two penultimate",
    }  # fmt: skip
    assert len(apart.names) == 4  # "ridge stage1" was there
    assert any("left out: two_two" in note for note in both.notes)
    assert "no time of predictions: one@one was made in Python" in own.table()
    with pytest.raises(FineTuneError, match="was made in Python"):
        compare(tmp_path / "bank", "ridge", recipe="two", finetune="head", **words)


def test_given_splits_are_compared_by_a_bootstrap_and_shown_without_duplicates(
    tmp_path: Path, apart: Apart
) -> None:
    paths = make_images(tmp_path / "data", 24)
    splits = ["test" if i % 3 == 0 else "train" for i in range(24)]
    paths[1].write_bytes(paths[0].read_bytes())
    with (tmp_path / "t.csv").open("w", newline="") as file:
        rows = [(p, p.parent.name, s) for p, s in zip(paths, splits, strict=True)]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    net = from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny")
    extract(tmp_path / "t.csv", net, tmp_path / "bank", workers=0)
    words = {"tune": False, "cache": tmp_path / "cache"}
    found = compare(tmp_path / "bank", HEADS, **words)

    assert "paired, on the same images" in found.table()
    assert found.table().count("  no duplicates") == 2
    again = compare(tmp_path / "bank", HEADS, **words)
    assert again["ridge"].cached
    assert again.table().count("  no duplicates") == 2


def test_a_row_of_other_folds_is_refused(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(name: str, work: Any, tell: Any) -> Any:
        words = dataclasses.replace(work.words, random_state=7)
        return dataclasses.replace(work, words=words)(tell)

    monkeypatch.setattr(table, "run_apart", elsewhere)
    with pytest.raises(EvaluationError, match="ridge was scored on other images or folds"):
        compare(bank, "ridge", cache=tmp_path, **WORDS)
    assert not list(tmp_path.glob("*"))


def test_what_the_budget_cut_short_is_said(bank: Path, tmp_path: Path, apart: Apart) -> None:
    found = compare(
        bank, "ridge", finetune={"long": dataclasses.replace(QUICK, epochs=500)},
        max_seconds=0.5, cache=tmp_path, **WORDS,
    )  # fmt: skip

    assert "finetune long: stopped by time after " in found.table()
    assert " of 500 epochs in 2 of 2 trainings (max_seconds)." in found.table()


def test_a_result_comes_out_of_data_as_it_went_in(bank: Path) -> None:
    head = fit(bank, "ridge", cv=2, n_jobs=1).heads[0]
    again = unpacked(*packed(head), classes=3)

    assert again.to_dict() == head.to_dict()
    for name in ("rows", "fold", "y_true", "y_pred", "scores", "unit"):
        assert np.array_equal(getattr(again.predictions, name), getattr(head.predictions, name))
