from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank import Bank, Classifier, curve, extract, fit, from_module, predict, select
from featbank.backbones.recipe import Column
from featbank.data import index
from featbank.data.decode import decode
from featbank.errors import BackboneError, EvaluationError, FeaturesMissing, HeadError
from featbank.extraction.run import Settings
from featbank.heads.choice import LAYER
from featbank.heads.outputs import outputs
from featbank.workflows.extract import extract_to, open_model, parse_columns
from featbank.workflows.status import status
from featbank.workflows.survey import open_sources
from tests.tiny import PREPROCESS, TinyNet, make_images

FLIPS = ["identity", "hflip", "vflip", "rot180"]


def tiny() -> Any:
    return from_module(TinyNet(), transform=PREPROCESS, version="1", name="tiny", classifier="fc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("views")
    paths = make_images(made / "data", 36)
    rows = [f"{p},{p.parent.name},{i % 2 + 0.5},a;b" for i, p in enumerate(paths)]
    (made / "table.csv").write_text("\n".join(["path,label,weight,tags", *rows]) + "\n")
    layers = ["stage1", "stage2", "penultimate"]
    extract(made / "table.csv", tiny(), made / "bank", layers=layers, views="flips", workers=0)
    return made


@pytest.fixture(scope="module")
def bank(folder: Path) -> Bank:
    return Bank(folder / "bank")


# Extracting


def test_only_views_that_are_missing_are_computed_and_each_image_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)
    make_images(tmp_path / "data", 6)
    decoded = []

    def counting(*args: Any, **words: Any) -> Any:
        decoded.append(1)
        return decode(*args, **words)

    backbone = tiny()
    network: Any = backbone.network

    def run(views: str) -> tuple[int, int, int]:
        decoded.clear()
        network.calls = 0
        done = extract_to(
            tmp_path / "bank",
            open_sources(tmp_path / "data"),
            open_model(backbone),
            parse_columns(None, views=views),
            settings=Settings(workers=0, decode=counting, batch_size=6),
        )
        return done.computed, len(decoded), network.calls

    assert run("identity") == (6, 6, 1)
    before = Bank(tmp_path / "bank").features()
    assert run("flips") == (6, 6, 3)
    assert run("flips") == (0, 0, 0)
    foretold = status(
        tmp_path / "bank",
        open_sources(tmp_path / "data"),
        open_model(backbone),
        parse_columns(None, views="d4"),
    )
    assert foretold.to_compute == 6
    assert [name.split(":")[2] for name in foretold.missing_columns] == [
        "rot270", "rot90", "transpose", "transverse",
    ]  # fmt: skip
    assert run("d4") == (6, 6, 4)
    assert run("flips") == (0, 0, 0)
    np.testing.assert_array_equal(Bank(tmp_path / "bank").features(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_has_the_features_of_the_image_turned_by_hand(tmp_path: Path, workers: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("data", "mirrored"):
        (tmp_path / name).mkdir()
    for i in range(3):
        image = Image.fromarray(rng.integers(0, 256, (36, 36, 3), np.uint8))
        image.save(tmp_path / "data" / f"{i}.png")
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(tmp_path / "mirrored" / f"{i}.png")

    words: dict[str, Any] = {
        "model": "squeezenet1_1", "weights": "none", "resize": 36, "crop": 32, "workers": workers
    }  # fmt: skip
    turned = extract(tmp_path / "data", bank=tmp_path / "one", views="flips", **words)
    plain = extract(tmp_path / "mirrored", bank=tmp_path / "two", **words)

    np.testing.assert_allclose(
        turned.features(view="hflip"), plain.features(), rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(turned.features(view="hflip"), turned.features(), rtol=1e-3)


def test_layers_that_name_a_view_have_that_one() -> None:
    columns = parse_columns("stage1, stage2:max:rot90", views="flips")

    assert columns == (
        *(Column("stage1", view=view) for view in FLIPS),
        Column("stage2", "max", "rot90"),
    )
    with pytest.raises(BackboneError, match="no views 'd8'"):
        parse_columns(None, views="d8")


def test_quarter_turns_of_an_oblong_input_are_refused_before_the_work(tmp_path: Path) -> None:
    import dataclasses

    make_images(tmp_path / "data", 3)
    oblong = dataclasses.replace(PREPROCESS, crop=(32, 24))
    backbone = from_module(TinyNet(), transform=oblong, version="1")

    with pytest.raises(BackboneError, match="needs a square input, and the network's is 32 x 24"):
        extract(tmp_path / "data", backbone, tmp_path / "bank", views="d4", workers=0)
    assert not (tmp_path / "bank").exists()
    extract(tmp_path / "data", backbone, tmp_path / "bank", views="flips", workers=0)


# Reading


def test_images_as_they_are_are_meant_unless_views_are_named(bank: Bank) -> None:
    assert bank.features(layer="stage1").shape == (36, 8)
    np.testing.assert_array_equal(
        bank.features(layer="stage1"), bank.features(layer="stage1:avg:identity")
    )
    one = np.stack([bank.features(layer="stage1", view=view) for view in FLIPS])
    assert not np.allclose(one[0], one[1])
    for views in ("flips", "all"):
        mean = bank.features(layer="stage1", views=views)
        np.testing.assert_allclose(mean, one.mean(axis=0), rtol=1e-6)
    side = bank.select(layer=["stage1", "stage2"], views="flips", combine="train")
    assert [c.view for c in side.columns] == [v for v in FLIPS for _ in range(2)]
    assert side.X.shape == (36, 4 * (8 + 12))
    np.testing.assert_allclose(
        bank.features(layer=["stage1", "stage2"], views="flips"),
        side.X.reshape(36, 4, 20).mean(axis=1),
        rtol=1e-6,
    )


def test_views_that_are_not_there_are_said(bank: Bank) -> None:
    with pytest.raises(FeaturesMissing, match=r"no column stage1:avg:rot90:float32 .* --views d4"):
        bank.features(layer="stage1", views="d4")
    with pytest.raises(FeaturesMissing, match="view 'rot90'"):
        bank.features(layer="stage1", view="rot90")


# Learning


def scored(bank: Bank, head: Any, **words: Any) -> Any:
    return fit(bank, head, cv=3, layers="stage2", **words).heads[0]


def test_averaged_features_are_scored_as_such(bank: Bank) -> None:
    from featbank import cross_validate

    own = bank.select(layer="stage2", views="flips")
    wanted = cross_validate(own.X, own.labels, "svm", cv=3, digests=own.digests).heads[0]

    found = scored(bank, "svm", views="flips")
    assert found.metrics["accuracy"] == wanted.metrics["accuracy"]
    assert found.to_dict()["fold_params"] == wanted.to_dict()["fold_params"]


@pytest.mark.parametrize("combine", ["features", "decisions", "train"])
@pytest.mark.parametrize("head", ["svm", "logreg"])
def test_a_saved_classifier_turns_new_images_itself(
    bank: Bank, tmp_path: Path, head: str, combine: str
) -> None:
    result = fit(bank, head, layers="stage1,stage2", views="flips", combine=combine, cv=3,
                 out=tmp_path)  # fmt: skip
    path = result.heads[0].classifier or ""
    classifier = Classifier.load(path)

    assert [c.view for c in classifier.columns] == [v for v in FLIPS for _ in range(2)]
    assert classifier.provenance["combine"] == combine
    network = tiny()
    told = predict(path, bank.paths[:6], model=network, settings=Settings(workers=0, batch_size=6))
    assert network.network.calls == 4
    own = bank.select(layer=["stage1", "stage2"], views="flips", combine=combine)
    for one, known in zip(told.predictions, classifier.top(own.X[:6]), strict=True):
        assert [p.label for p in one.top] == [p.label for p in known]
        assert [p.score for p in one.top] == pytest.approx([p.score for p in known], abs=1e-5)

    views = bank.select(layer=["stage1", "stage2"], views="flips", combine="train")
    each = views.X.reshape(36, 4, 20)
    inner = getattr(classifier.head, "estimator", classifier.head).steps
    from sklearn.pipeline import Pipeline

    if combine == "features":
        wanted = outputs(Pipeline(inner), each.mean(axis=1)).scores
    elif head == "logreg":
        wanted = sum(Pipeline(inner).predict_proba(each[:, v]) for v in range(4)) / 4
    else:
        wanted = sum(outputs(Pipeline(inner), each[:, v]).scores for v in range(4)) / 4
    np.testing.assert_allclose(classifier.scores(own.X), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combine", ["features", "decisions", "train"])
def test_a_layer_is_chosen_in_all_of_its_views(bank: Bank, tmp_path: Path, combine: str) -> None:
    result = fit(bank, "ridge", choose_layer=True, views="flips", combine=combine, cv=3,
                 out=tmp_path)  # fmt: skip

    classifier = Classifier.load(result.heads[0].classifier or "")
    layer = result.heads[0].best_params[LAYER]
    assert [column.view for column in classifier.columns] == FLIPS
    assert {column.layer for column in classifier.columns} == {layer}
    X = bank.select(layer=layer, views="flips", combine=combine).X
    assert classifier.predict(X) == bank.labels.tolist()


@pytest.mark.parametrize("combine", ["features", "decisions", "train"])
def test_calibration_weights_and_thresholds_go_with_views(bank: Bank, combine: str) -> None:
    words: dict[str, Any] = {"views": "flips", "combine": combine}
    for method in ("platt", "temperature"):
        found = scored(bank, "svm", calibrate=method, sample_weight="weight", **words)
        assert found.predictions.probability is not None
    found = scored(bank, "logreg", class_weight="balanced", exclude=["c"],
                   threshold="balanced_accuracy", **words)  # fmt: skip
    assert {"threshold"} <= set(found.fold_learned[0])


def test_an_images_views_never_straddle_folds(tmp_path: Path) -> None:
    """Labels by chance: only a head that saw another view of an image could know its own."""
    make_images(tmp_path / "data", 60, classes=1)
    paths = sorted((tmp_path / "data").rglob("*.*"))
    labels = np.random.default_rng(0).permutation(np.arange(60) % 2)
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    bank = extract(tmp_path / "table.csv", tiny(), tmp_path / "bank", layers="stage1:flatten",
                   views="flips", workers=0)  # fmt: skip

    found = fit(bank, "knn", views="flips", combine="train", cv=5, tune=True).heads[0]
    assert found.metrics["accuracy"].mean < 0.75
    assert len(found.predictions.rows) == 60


def test_layers_are_ranked_once_whatever_their_views(bank: Bank) -> None:
    names = {"stage1", "stage2", "penultimate"}
    plain, mean = select(bank, "ridge", cv=3), select(bank, "ridge", cv=3, views="flips")

    assert {one.name for one in plain.features} == {one.name for one in mean.features} == names
    assert plain["stage1"].width == mean["stage1"].width == 8
    named = select(bank, "ridge", cv=3, layers="stage1,stage1:avg:hflip")
    assert {one.name for one in named.features} == {"stage1:avg:identity", "stage1:avg:hflip"}


def test_a_curve_learns_from_views(bank: Bank) -> None:
    words: dict[str, Any] = {"layers": "stage2", "tune": False, "draws": 2, "sizes": [1, 4]}
    found = curve(bank, "ridge", views="flips", combine="train", **words)

    assert [point.labels for point in found["ridge"].points] == [1, 4]
    assert found.notes[0] == "4 views an image: all learned from, decisions averaged."


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"views": "flip"}, EvaluationError, "views 'flip' are unknown: did you mean flips"),
        ({"views": "flips", "combine": "max"}, EvaluationError, "not by 'max'"),
        ({"combine": "train"}, EvaluationError, "no views were named; add --views flips"),
        ({"views": "d4"}, FeaturesMissing, "stage2:avg:rot90:float32"),
        ({"views": "flips", "combine": "train", "label": "tags", "multilabel": True},
         EvaluationError, "for one label an image"),
        ({"views": "flips", "combine": "train", "memory": "1kB", "head": "logreg"}, HeadError,
         "can't be averaged from blocks"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_said(
    bank: Bank, words: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fit(bank, **{"head": "svm", "layers": "stage2", "cv": 3, **words})


def test_averaged_features_are_read_in_blocks_where_they_do_not_fit(bank: Bank) -> None:
    words: dict[str, Any] = {"views": "flips", "tune": False}
    assert scored(bank, "logreg", memory="1kB", **words).metrics["accuracy"].mean == (
        scored(bank, "logreg", **words).metrics["accuracy"].mean
    )
