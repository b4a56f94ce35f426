from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank import FineTuneResult, FineTuneSettings, TunedClassifier, finetune, fit
from featbank.backbones.request import Request
from featbank.errors import (
    BackboneError,
    DataError,
    EvaluationError,
    FineTuneError,
    SourceNotFound,
    UnknownLayer,
)
from featbank.evaluation.result import EvaluationResult
from featbank.finetuning.images import Images
from featbank.workflows.finetune import find_learning_rate, settings_for
from featbank.workflows.trainings import Budget, TrainingProgress
from tests.conftest import Tour
from tests.tiny import make_images

SMALL: dict[str, Any] = {
    "model": "squeezenet1_1",
    "weights": "none",
    "input_size": 64,
    "epochs": 1,
    "batch_size": 8,
    "augment": "none",
    "workers": 0,
}


def parts(result: EvaluationResult, paths: list[str]) -> list[tuple[str, int]]:
    told = result.heads[0].predictions
    return [(paths[row], int(fold)) for row, fold in zip(told.rows, told.fold, strict=True)]


@pytest.fixture(scope="module")
def scored(tour: Tour, tmp_path_factory: pytest.TempPathFactory) -> FineTuneResult:
    folder = tmp_path_factory.mktemp("scored")
    return finetune(tour.data, **SMALL, cv=3, valid=0.25, out=folder, history=folder / "h.json")


def test_folds_are_those_of_fit_on_a_bank_of_the_same_folder(
    tour: Tour, scored: FineTuneResult
) -> None:
    from featbank import Bank

    heads = fit(tour.bank, "centroid", cv=3, tune=False, n_jobs=1)
    paths = Bank(tour.bank).paths

    assert parts(scored.evaluation, paths) == parts(heads, paths)
    assert scored.evaluation.protocol == heads.protocol
    assert scored.evaluation.classes == heads.classes
    of_bank = finetune(bank=tour.bank, **SMALL, cv=3)
    assert parts(of_bank.evaluation, paths) == parts(heads, paths)


def test_what_is_watched_is_neither_learned_from_nor_scored(scored: FineTuneResult) -> None:
    assert [one.name for one in scored.trainings] == ["fold 1", "fold 2", "fold 3", "final"]
    assert [(one.images, one.watched) for one in scored.trainings] == [
        *[(7, 3)] * 3,
        (12, 3),
    ]
    assert len(np.unique(scored.evaluation.heads[0].predictions.rows)) == 15


def test_the_result_tells_what_each_epoch_brought(scored: FineTuneResult) -> None:
    data = json.loads(json.dumps(scored.to_dict(), allow_nan=False))

    assert data["heads"][0]["classifier"] == scored.classifier
    assert data["trainable"] == data["parameters"] > 700_000
    for training in data["trainings"]:
        (epoch,) = training["history"]
        assert epoch["train_loss"] > 0
        assert epoch["valid_loss"] > 0
    assert "final" in scored.table()
    saved = json.loads((Path(scored.classifier or "").parent / "h.json").read_text())
    assert saved == scored.histories


def test_the_result_is_a_frame_of_one_row_and_shown_as_its_table(scored: FineTuneResult) -> None:
    (row,) = scored.to_frame().to_dict("records")
    found = scored.evaluation.heads[0].metrics["accuracy"]
    assert (row["accuracy"], row["accuracy_low"]) == (found.mean, found.low)
    assert (row["trainable"], row["parameters"]) == (scored.trainable, scored.parameters)
    assert row["classifier"] == scored.classifier
    assert repr(scored) == scored.table()


def test_the_saved_file_is_the_final_network(tour: Tour, scored: FineTuneResult) -> None:
    tuned = TunedClassifier.load(scored.classifier or "")

    assert tuned.classes == ("a", "b", "c")
    assert tuned.provenance["images"] == 15
    assert tuned.provenance["history"] == scored.histories["final"]
    paths = sorted(str(path) for path in tour.data.rglob("*.*"))
    told = tuned.predict_proba(Images.of_files(paths), workers=0)
    assert told.shape == (15, 3)
    np.testing.assert_allclose(told.sum(axis=1), 1, rtol=1e-5)


def test_given_splits_are_kept_and_valid_is_watched(tmp_path: Path) -> None:
    for seed, (split, n) in enumerate({"train": 12, "valid": 6, "test": 9}.items()):
        make_images(tmp_path / "data" / split, n, seed=seed)

    result = finetune(tmp_path / "data", **SMALL, out=tmp_path)

    (train,) = result.trainings  # what is saved would learn from the same
    assert (train.images, train.watched) == (12, 6)
    assert (tmp_path / "finetune.safetensors").exists()
    assert len(result.evaluation.heads[0].predictions.rows) == 9

    shutil.rmtree(tmp_path / "data" / "test")
    result = finetune(tmp_path / "data", **SMALL, valid=0.25, out=tmp_path)
    train, final = result.trainings
    assert (train.images, train.watched) == (9, 3)
    assert (final.images, final.watched) == (12, 6)
    assert len(result.evaluation.heads[0].predictions.rows) == 6


def test_an_image_that_can_not_be_read_is_a_note(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 12)
    (tmp_path / "data" / "a" / "bad.jpg").write_bytes(b"no image")
    Image.open(paths[0]).save(tmp_path / "data" / "a" / "copy.png")

    result = finetune(tmp_path / "data", **SMALL, cv=2)

    assert result.evaluation.images == 12  # the copy has the bytes of another
    assert any("1 image can't be read" in note for note in result.evaluation.notes)
    assert any("bad.jpg" in note for note in result.evaluation.notes)


def test_a_bank_whose_images_have_changed_is_refused(tour: Tour, tmp_path: Path) -> None:
    from featbank import extract

    shutil.copytree(tour.data, tmp_path / "data")
    bank = extract(
        tmp_path / "data",
        "squeezenet1_1",
        tmp_path / "bank",
        weights="none",
        input_size=64,
        workers=0,
    )
    gone = next((tmp_path / "data").rglob("*.png"))
    gone.unlink()

    with pytest.raises(DataError, match=r"1 of 15 images .* are gone"):
        finetune(bank=bank, cv=2, epochs=1)


def test_a_bank_brings_its_backbone(tour: Tour) -> None:
    result = finetune(bank=tour.bank, cv=2, epochs=1, workers=0, unfreeze="head")

    assert result.recipe.backbone == "shufflenet_v2_x0_5"
    assert result.recipe.preprocess.crop == (64, 64)
    assert 0 < result.trainable < result.parameters


def test_time_is_for_all_trainings_together(tour: Tour) -> None:
    result = finetune(tour.data, **{**SMALL, "epochs": 5000}, cv=2, max_seconds=3)

    assert {one.stopped for one in result.trainings} == {"time"}
    assert any("max_seconds ended 2 of 2" in note for note in result.evaluation.notes)
    with pytest.raises(FineTuneError, match="max_seconds is a number above 0"):
        finetune(tour.data, **SMALL, max_seconds=-1)


@pytest.mark.parametrize(
    ("seconds", "epochs", "told"), [((None, 1e-3), [3, 1], True), ((1e-3, 1e-3), [1, 1], False)]
)
def test_folds_that_time_let_train_unequally_are_told(
    tour: Tour,
    monkeypatch: pytest.MonkeyPatch,
    seconds: tuple[float | None, ...],
    epochs: list[int],
    told: bool,
) -> None:
    shares = iter(seconds)
    monkeypatch.setattr(Budget, "share", lambda *_, **__: next(shares))
    result = finetune(tour.data, **{**SMALL, "epochs": 3}, cv=2)

    assert [len(one.history) for one in result.trainings] == epochs
    assert any("max_seconds ended" in note for note in result.evaluation.notes)
    said = "folds trained unequally (1 to 3 epochs): their scores are not of one setting"
    assert any(note.startswith(said) for note in result.evaluation.notes) == told


def test_each_training_may_take_an_equal_share_of_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("featbank.workflows.trainings.time", SimpleNamespace(monotonic=lambda: 1e3))
    budget = Budget.of(100.0)

    assert budget.share(4) == 25
    assert Budget.of(100.0, begun=940.0).share(2) == 20
    assert 0 < (Budget.of(1.0, begun=940.0).share(2) or 0) < 0.1
    assert budget.share(4, reserved=20.0) == 20
    assert Budget().share(3) is None


KILLED = """
import os, signal, sys
from featbank import finetune

def progress(now):
    if (now.number, now.epoch.epoch, now.epoch.step) == (2, 2, 1):
        os.kill(os.getpid(), signal.SIGKILL)

finetune(sys.argv[1], "squeezenet1_1", weights="none", input_size=64, epochs=3, batch_size=8,
         cv=2, valid=0.25, workers=0, checkpoints=sys.argv[2], progress=progress)
"""


def test_a_killed_run_goes_on_to_the_same_result(tour: Tour, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tour.data, kept], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (kept / "training-1.npz").is_file()
    assert (kept / "training-2").is_dir()
    words = {**SMALL, "epochs": 3, "augment": "light", "cv": 2, "valid": 0.25}
    trained = []

    with pytest.raises(FineTuneError, match=r"differs in settings\.lr"):
        finetune(tour.data, **words, lr=0.1, checkpoints=kept, resume=True)
    resumed = finetune(
        tour.data, **words, checkpoints=kept, resume=True,
        progress=lambda now: trained.append((now.number, now.epoch.epoch)),
    )  # fmt: skip
    whole = finetune(tour.data, **words)

    assert set(trained) == {(2, 2), (2, 3)}  # fold 1 was done, and an epoch of fold 2
    a, b = (one.evaluation.heads[0].predictions.probability for one in (resumed, whole))
    np.testing.assert_array_equal(a, b)
    for one, other in zip(resumed.trainings, whole.trainings, strict=True):
        assert one.best_epoch == other.best_epoch
        assert [e["train_loss"] for e in one.history] == [e["train_loss"] for e in other.history]
    assert not kept.exists()


def test_what_is_left_of_another_run_is_begun_anew_unless_resumed(
    tour: Tour, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text('{"format": 1}')
    (tmp_path / "training-1").mkdir()
    (tmp_path / "training-1.npz").write_bytes(b"of another run")
    (tmp_path / "mine.txt").write_text("stays")

    result = finetune(tour.data, **SMALL, cv=2, checkpoints=tmp_path)

    assert len(result.trainings) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(FineTuneError, match="no checkpoints to resume"):
        finetune(tour.data, **SMALL, resume=True)


def test_where_nothing_is_to_be_resumed_a_run_begins_and_says_so(
    tour: Tour, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="featbank"):
        finetune(tour.data, **SMALL, cv=2, checkpoints=tmp_path / "kept", resume=True)

    assert f"no checkpoints in {tmp_path / 'kept'}; beginning anew." in caplog.messages


def test_what_a_run_was_ended_in_is_not_thrown_away_unasked(tour: Tour, tmp_path: Path) -> None:
    def end(told: TrainingProgress) -> None:
        if told.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(tour.data, **SMALL, cv=2, checkpoints=tmp_path, progress=end)
    with pytest.raises(FineTuneError, match="--resume to go on"):
        finetune(tour.data, **SMALL, cv=2, checkpoints=tmp_path)
    numbers: list[int] = []
    finetune(
        tour.data,
        **SMALL,
        cv=2,
        checkpoints=tmp_path,
        resume=True,
        progress=lambda told: numbers.append(told.number),
    )
    assert set(numbers) == {2}


def test_a_folder_that_bears_the_name_of_a_training_is_not_removed(
    tour: Tour, tmp_path: Path
) -> None:
    (tmp_path / "training-1").mkdir()
    (tmp_path / "training-1" / "notes.txt").write_text("mine")

    with pytest.raises(FineTuneError, match=r"holds training-1, which is no checkpoint"):
        finetune(tour.data, **SMALL, cv=2, checkpoints=tmp_path)

    assert (tmp_path / "training-1" / "notes.txt").read_text() == "mine"


def test_a_run_that_could_not_save_its_network_goes_on_without_training_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featbank.workflows import finetune as workflow

    for seed, (split, n) in enumerate({"train": 12, "test": 6}.items()):
        make_images(tmp_path / "data" / split, n, seed=seed)
    words = {**SMALL, "valid": 0.25, "out": tmp_path, "checkpoints": tmp_path / "kept"}
    with monkeypatch.context() as patched:
        patched.setattr(workflow, "_save", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            finetune(tmp_path / "data", **words)
    steps = []

    result = finetune(
        tmp_path / "data", **words, resume=True, max_seconds=600, progress=steps.append
    )

    assert steps == []
    tuned = TunedClassifier.load(result.classifier or "")
    (training,) = result.trainings
    assert tuned.provenance["history"] == list(training.history)


def test_what_is_watched_belongs_to_what_is_resumed(tmp_path: Path) -> None:
    made = sorted(make_images(tmp_path, 24), key=lambda path: path.stem)
    labels = [path.parent.name for path in made]
    paths = [path.rename(tmp_path / path.name) for path in made]
    splits = ["train"] * 12 + ["valid"] * 6 + ["test"] * 6
    table = tmp_path / "images.csv"

    def write() -> None:
        rows = zip(map(str, paths), labels, splits, strict=True)
        table.write_text("\n".join(["path,label,split", *map(",".join, rows)]))

    def stop(now: TrainingProgress) -> None:
        raise KeyboardInterrupt

    write()
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        finetune(table, **SMALL, checkpoints=kept, progress=stop)
    splits[11] = "valid"  # of the same rows, fewer are learned from
    write()

    with pytest.raises(FineTuneError, match="differs in folds"):
        finetune(table, **SMALL, checkpoints=kept, resume=True)


def test_the_file_tells_of_the_training_whose_network_it_is(tmp_path: Path) -> None:
    for seed, (split, n) in enumerate({"train": 12, "test": 6}.items()):
        make_images(tmp_path / "data" / split, n, seed=seed)
    image = next((tmp_path / "data" / "train" / "a").iterdir())
    shutil.copy(image, tmp_path / "data" / "test" / "a" / f"copy{image.suffix}")

    result = finetune(tmp_path / "data", **SMALL, out=tmp_path)

    assert [one.name for one in result.trainings] == ["train", "without duplicates"]
    tuned = TunedClassifier.load(result.classifier or "")
    assert tuned.provenance["history"] == result.histories["train"]


def test_a_learning_rate_is_looked_for_on_a_first_trainings_images(tour: Tour) -> None:
    found = find_learning_rate(tour.data, **SMALL, low=1e-5, high=0.1, steps=12)

    assert len(found.losses) == len(found.rates) <= 12
    assert found.rates[0] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"unfreeze": "layer9"}, UnknownLayer, "no layer 'layer9'"),
        ({"unfreeze": 99}, FineTuneError, "the last 99 were to train"),
        ({"classes": ["a"]}, EvaluationError, "all 5 labelled images are of one class"),
        ({"cv": 9}, EvaluationError, "ask for at most 5 folds"),
        ({"optimiser": "sgd"}, TypeError, "has no option 'optimiser'"),
        ({"optimizer": "sgdd"}, FineTuneError, "there is no optimizer 'sgdd'"),
        ({"init": "probe", "hidden": [5]}, FineTuneError, "a head of one linear layer"),
        ({"settings": FineTuneSettings(), "lr": 1.0}, FineTuneError, "beside settings="),
        ({"class_weight": {"d": 2.0}}, FineTuneError, "the class 'd', which there is none of"),
        ({"out": "/proc/nowhere/x.safetensors"}, DataError, "can't be written"),
        ({"bank": "bank"}, DataError, "a source and a bank were named"),
        ({"sources": ["data"]}, DataError, "give them with a bank alone"),
        ({"device": "tpu"}, BackboneError, "device is auto"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_sentence(
    tour: Tour, words: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {**SMALL, **words}
    if "settings" in words:
        for name in ("epochs", "batch_size", "augment"):
            del given[name]
    with pytest.raises(error, match=said) as caught:
        finetune(tour.data, **given)
    assert "\n" not in str(caught.value)


def test_classes_of_any_name_are_trained_kept_and_saved(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 12)
    for folder, name in (("a", b"tab, big"), ("b", b"gr\xc3\xb6\xc3\x9fe"), ("c", b"\xff")):
        os.rename(tmp_path / "data" / folder, os.fsencode(tmp_path / "data") + b"/" + name)

    words = {"cv": 2, "out": tmp_path, "checkpoints": tmp_path / "kept"}
    result = finetune(tmp_path / "data", **SMALL, **words, history=tmp_path / "h.json")

    classes = ("größe", "tab, big", os.fsdecode(b"\xff"))
    assert sorted(result.evaluation.classes) == sorted(classes)
    assert TunedClassifier.load(result.classifier or "").classes == result.evaluation.classes


def test_a_class_with_one_image_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 8, classes=2)
    lone = tmp_path / "data" / "z" / "lone.png"
    lone.parent.mkdir()
    Image.new("RGB", (40, 40)).save(lone)

    with pytest.raises(EvaluationError, match="class 'z' has too few different images"):
        finetune(tmp_path / "data", **SMALL)


def test_no_images_are_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        finetune(tmp_path / "nowhere", **SMALL)
    with pytest.raises(DataError, match="there are no images"):
        finetune(tmp_path, **SMALL)
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image has a label"):
        finetune(tmp_path, **SMALL)
    (tmp_path / "a").mkdir()
    (tmp_path / "bad.png").rename(tmp_path / "a" / "bad.png")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        finetune(tmp_path, **SMALL)


def test_a_network_without_training_learns_as_fast_as_its_head() -> None:
    scratch = Request("squeezenet1_1", weights="none")

    assert settings_for(scratch).backbone_lr == 1
    assert settings_for(scratch, backbone_lr=0.5).backbone_lr == 0.5
    assert settings_for(Request("squeezenet1_1")).backbone_lr == 0.1
