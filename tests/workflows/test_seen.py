"""Heads are never scored on images that the network of their features was fine-tuned on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from featbank import (
    Bank,
    FineTuneClassifier,
    TransferClassifier,
    TunedClassifier,
    advise,
    compact,
    compare,
    curve,
    extract,
    finetune,
    fit,
    fit_protocol,
    merge,
    prune,
    repair,
    select,
    verify,
)
from featbank.backbones.tuned import describe_weights, digest_tuned
from featbank.errors import BankDamaged, EvaluationError

NETWORK: dict[str, Any] = {"weights": "none", "input_size": 32}
TRAINING = {**NETWORK, "epochs": 1, "batch_size": 16, "augment": "none", "workers": 0}
N, TRAIN = 36, 24


def write(folder: Path) -> Path:
    """Write noise with random labels and a table: every third image is in test."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(N) % 2)
    rows = ["path,label,split,group"]
    for i in range(N):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        rows.append(f"{i:02}.png,{'ab'[labels[i]]},{'test' if i % 3 == 0 else 'train'},{i // 2}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, networks tuned on all images and on its train, and a bank of each."""
    place = tmp_path_factory.mktemp("seen")
    table = write(place)
    words = {**TRAINING, "columns": {"group": None}}
    finetune(table, "small-cnn-3", out=place / "half.safetensors", **words)
    words = {**TRAINING, "columns": {"split": None, "group": None}}
    finetune(table, "small-cnn-3", out=place / "all.safetensors", cv=2, **words)
    for name in ("half", "all"):
        file = str(place / f"{name}.safetensors")
        columns = {"group": None}
        extract(table, "small-cnn-3", place / name, weights=file, columns=columns, workers=0)
    extract(table, "small-cnn-3", place / "frozen", **NETWORK, workers=0)
    return place


def scored(result: Any) -> set[int]:
    return {int(Path(p).stem) for p in (paths(result))}


def paths(result: Any) -> list[str]:
    return [f"{row:02}.png" for row in result.heads[0].predictions.rows]


def digests(folder: Path, rows: Any) -> list[str]:
    return sorted(hashlib.sha256((folder / f"{i:02}.png").read_bytes()).hexdigest() for i in rows)


def test_a_file_names_the_images_of_its_training(folder: Path) -> None:
    tests = {i for i in range(N) if i % 3 == 0}
    for name, rows in (("all", set(range(N))), ("half", set(range(N)) - tests)):
        loaded = TunedClassifier.load(folder / f"{name}.safetensors").trained_on
        told = describe_weights(folder / f"{name}.safetensors")
        assert told is not None
        for one in (loaded, told.trained_on):
            assert one.digests is not None
            assert [bytes(row).hex() for row in one.digests] == digests(folder, rows)
            assert one.file == f"{name}.safetensors"


WAYS: dict[str, Callable[[Any], Any]] = {
    "fit": lambda bank: fit(bank, "centroid", tune=False, split="none"),
    "select": lambda bank: select(bank, "centroid", split="none"),
    "curve": lambda bank: curve(bank, "centroid", tune=False, split="none", draws=2, sizes=[2]),
    "advise": lambda bank: advise(bank, "centroid", tune=False, split="none"),
    "compare": lambda bank: compare(bank, "centroid", split="none"),
    "protocol": lambda bank: fit_protocol(bank, "fewshot-ridge", split="none", cv=0.4),
    "finetune": lambda bank: finetune(bank=bank, epochs=1, workers=0, split="none", cv=2),
}


@pytest.mark.parametrize("way", WAYS)
def test_random_labels_are_not_scored_on_features_tuned_to_them(folder: Path, way: str) -> None:
    with pytest.raises(
        EvaluationError, match=r"all.safetensors was trained on 36 of 36 labelled images"
    ):
        WAYS[way](folder / "all")


def test_frozen_features_of_random_labels_are_worth_nothing(folder: Path) -> None:
    result = fit(folder / "frozen", "centroid", tune=False, split="none", cv=3)
    assert result.heads[0].metrics["accuracy"].mean < 0.75
    assert not any("seen" in note for note in result.notes)


def test_the_split_of_the_training_stays_valid(folder: Path) -> None:
    result = fit(folder / "half", "centroid", tune=False)
    assert scored(result) == {i for i in range(N) if i % 3 == 0}
    assert any("24 of 36 labelled images were seen" in note for note in result.notes)
    with pytest.raises(
        EvaluationError, match=r"trained on 12 of 12 test images, which leaves none"
    ):
        fit(folder / "all", "centroid", tune=False)


@pytest.mark.parametrize("cv", [2, 0.5])
def test_folds_score_unseen_images_alone(folder: Path, cv: Any) -> None:
    result = fit(folder / "half", "centroid", tune=False, split="none", cv=cv)
    assert scored(result) <= {i for i in range(N) if i % 3 == 0}
    each = np.bincount(result.heads[0].predictions.fold)
    assert (each > 0).all()
    assert (
        fit(folder / "half", "ridge", tune=False, split="none", cv=2, metric_weight=None).images
        == N
    )


def test_groups_of_seen_images_are_seen(folder: Path, tmp_path: Path) -> None:
    file = str(folder / "half.safetensors")
    bank = extract(folder / "table.csv", "small-cnn-3", tmp_path / "bank", weights=file, workers=0)
    with pytest.raises(EvaluationError, match="trained on 36 of 36 labelled images"):
        fit(bank, "centroid", tune=False, split="none", cv=2)  # of two images one is in train
    assert scored(fit(bank, "centroid", tune=False)) == {i for i in range(N) if i % 3 == 0}


def refused(bank: Any) -> None:
    with pytest.raises(EvaluationError, match=r"all.safetensors was trained on 36 of 36"):
        fit(bank, "centroid", tune=False, split="none")


def test_knowledge_of_training_images_survives_what_is_done_to_a_bank(
    folder: Path, tmp_path: Path
) -> None:
    refused(compact(Bank(folder / "all"), tmp_path / "packed.h5"))
    merge(tmp_path / "merged", [tmp_path / "packed.h5"])
    refused(tmp_path / "merged")
    table, file = folder / "table.csv", str(folder / "all.safetensors")
    columns = {"group": None}
    bank = extract(
        table, "small-cnn-3", tmp_path / "p.h5", weights=file, columns=columns, workers=0
    )
    refused(bank)
    (recipe,) = (tmp_path / "merged").glob("small_cnn_3*")
    (recipe / "recipe.json").write_text("{}")
    repair(tmp_path / "merged")
    refused(tmp_path / "merged")
    recipe.rename(tmp_path / "merged" / "misnamed")
    repair(tmp_path / "merged")
    refused(tmp_path / "merged")


def test_lost_knowledge_is_refused_until_it_is_written_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "all", tmp_path / "bank")
    (document,) = (tmp_path / "bank").glob("*/trained-on.json")
    whole = document.read_bytes()
    document.write_bytes(whole.replace(b"A", b"B", 1))
    assert not verify(tmp_path / "bank").ok
    with pytest.raises(BankDamaged):
        fit(tmp_path / "bank", "centroid", tune=False)
    repaired = repair(tmp_path / "bank")
    assert any("is lost" in note for note in repaired.notes)
    with pytest.raises(EvaluationError, match="does not say which images"):
        fit(tmp_path / "bank", "centroid", tune=False)
    words = {"weights": str(folder / "all.safetensors"), "columns": {"group": None}}
    extract(folder / "table.csv", "small-cnn-3", tmp_path / "bank", **words, workers=0)
    assert document.read_bytes() == whole
    prune(tmp_path / "bank", recipes=["small-cnn-3"])
    assert not document.parent.exists()


def old(source: Path, target: Path) -> str:
    """Write a tuned file as an older featbank wrote it."""
    header = source.read_bytes()
    size = int.from_bytes(header[:8], "little")
    described = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["featbank"])
    del described["trained_on"], described["digest"]
    described["format"] = 1
    state = load_file(source)
    from featbank.backbones.recipe import canonical_json

    described["digest"] = digest_tuned(canonical_json(described), state)
    save_file(state, target, metadata={"featbank": canonical_json(described)})
    return str(target)


def test_a_file_of_an_older_featbank_is_read_and_its_features_are_not_scored(
    folder: Path, tmp_path: Path
) -> None:
    file = old(folder / "half.safetensors", tmp_path / "old.safetensors")
    assert TunedClassifier.load(file).classes == ("a", "b")
    bank = extract(folder / "table.csv", "small-cnn-3", tmp_path / "b", weights=file, workers=0)
    with pytest.raises(EvaluationError, match=r"old.safetensors does not say which images"):
        fit(bank, "centroid", tune=False)
    for document in (tmp_path / "b").glob("*/trained-on.json"):
        document.unlink()  # as a bank of an older featbank is
    with pytest.raises(EvaluationError, match=r"old.safetensors does not say which images"):
        fit(tmp_path / "b", "centroid", tune=False)


def test_a_training_that_begins_with_a_tuned_file_knows_of_both(
    folder: Path, tmp_path: Path
) -> None:
    words = {**TRAINING, "weights": str(folder / "half.safetensors")}
    result = finetune(
        folder / "table.csv", "small-cnn-3", out=tmp_path, columns={"group": None}, **words
    )
    assert scored(result.evaluation) == {i for i in range(N) if i % 3 == 0}
    told = TunedClassifier.load(tmp_path / "finetune.safetensors").trained_on
    assert told.digests is not None
    assert len(told.digests) == TRAIN
    words["weights"] = str(folder / "all.safetensors")
    with pytest.raises(EvaluationError, match="36 of 36"):
        finetune(folder / "table.csv", "small-cnn-3", columns={"split": None}, cv=2, **words)


def test_estimators_score_unseen_images_alone(folder: Path, tmp_path: Path) -> None:
    files = [folder / f"{i:02}.png" for i in range(N)]
    labels = np.arange(N) % 2
    tuned = FineTuneClassifier(
        "small-cnn-3", weights="none", input_size=32, epochs=1, augment="none", workers=0
    )
    tuned.fit(files[:TRAIN], labels[:TRAIN]).save(tmp_path / "t.safetensors")
    words = {"weights": str(tmp_path / "t.safetensors"), "bank": tmp_path / "b", "workers": 0}
    classifier = TransferClassifier("small-cnn-3", "logreg", **words)
    with pytest.warns(UserWarning, match="24 of 36 images were seen by the network of t.safe"):
        classifier.fit(files, labels)
    told = classifier.predict(files[TRAIN:]) == labels[TRAIN:]
    assert classifier.score(files, labels) == np.mean(told)
    with pytest.raises(EvaluationError, match="all 24 images were seen"):
        classifier.score(files[:TRAIN], labels[:TRAIN])
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    with pytest.raises(EvaluationError, match="nobody knows which"):
        classifier.score(pixels, labels)
