from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, Classifier, curve, extract, fit, from_module, rank_features, select
from featbank.errors import EvaluationError, FeaturesMissing
from featbank.heads.choice import LAYER
from tests.tiny import PREPROCESS, TinyNet, make_images

NAMES = ["one@one stage1", "one@one stage2", "one@one penultimate", "two@two penultimate"]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("choosing")
    paths = make_images(folder / "data", 36)
    rows = [f"{path},{path.parent.name},{i // 2},{i / 10}" for i, path in enumerate(paths)]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label,group,share", *rows]) + "\n")
    for name, layers in (("one", ["stage1", "stage2", "penultimate"]), ("two", ["penultimate"])):
        net = from_module(TinyNet(len(name)), transform=PREPROCESS, version=name, name=name)
        extract(table, net, folder / "bank", layers=layers, workers=0)
    return Bank(folder / "bank")


def test_every_layer_of_every_backbone_is_ranked_as_its_features_are(bank: Bank) -> None:
    ranking = select(bank, "ridge", cv=3)
    blocks = {name: bank.features(*name.split()) for name in NAMES}
    selection = bank.select("two")
    plain = rank_features(
        blocks, bank.labels, "ridge", cv=3, groups=selection.groups, digests=selection.digests
    )

    assert {one.name for one in ranking.features} == set(NAMES)
    for name in NAMES:
        assert ranking[name].accuracy == plain[name].accuracy
        assert ranking[name].width == blocks[name].shape[1]
    assert ranking.nested == plain.nested


def test_one_backbones_layers_go_by_their_own_names_and_can_be_joined(bank: Bank) -> None:
    ranking = select(bank, "centroid", recipe="one", layers="stage1,stage2", join="all", cv=2)

    assert {one.name for one in ranking.features} == {
        "stage1", "stage2", "stage1 + stage2", "stage1 + stage2, weighted",
        "stage1 + stage2, reduced",
    }  # fmt: skip


def test_costs_that_can_not_be_measured_are_said(bank: Bank) -> None:
    ranking = select(bank, "centroid", recipe="two", cost=True, cv=2)

    assert ranking.best.cost is None
    assert "was made in Python" in ranking.notes[-1]


def test_features_that_some_images_lack_are_left_out(bank: Bank, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 12)
    net = from_module(TinyNet(3), transform=PREPROCESS, version="one", name="one")
    made = extract(tmp_path / "data", net, tmp_path / "bank", layers=["stage1"], workers=0)
    assert len(made.paths) == 12
    paths[0].unlink()
    make_images(tmp_path / "data", 12, seed=1)
    extract(tmp_path / "data", net, tmp_path / "bank", layers=["stage2"], workers=0)

    ranking = select(tmp_path / "bank", "centroid", cv=2)
    assert [one.name for one in ranking.features] == ["stage2"]
    assert "left out: 12 of 12 images have no features" in ranking.notes[-1]


def test_a_curve_of_a_bank_keeps_groups_apart_from_draws(bank: Bank) -> None:
    found = curve(bank, ["centroid"], recipe="two", tune=False, draws=3)

    assert [p.labels for p in found["centroid"].points] == [1, 2, 4, 8]
    other = curve(bank, "centroid", recipe="two", tune=False, label="share", positive=">1.7")
    assert other.classes == ("share<=1.7", "share>1.7")
    assert curve(bank, "centroid", recipe="two", tune=False, split="random:60/40").draws == 10


def test_a_layer_is_chosen_inside_the_folds_and_alone_in_the_classifier(
    bank: Bank, tmp_path: Path
) -> None:
    result = fit(bank, ["ridge", "svm"], recipe="one", choose_layer=True, cv=3, out=tmp_path)

    for head in result.heads:
        assert all(set(chosen) > {LAYER} for chosen in head.fold_params)
        layer = head.best_params[LAYER]
        again = Classifier.load(head.classifier or "")
        assert [column.layer for column in again.columns] == [layer]
        assert again.provenance["best_params"][LAYER] == layer
        X = bank.features("one", layer)
        assert again.head.n_features_in_ == X.shape[1]
        settings = {k: v for k, v in head.best_params.items() if k != LAYER}
        alone = fit(bank, head.head, recipe="one", layers=layer, params=settings, tune=False,
                    cv=3, out=tmp_path / f"{head.head}-alone.skops")  # fmt: skip
        plain = Classifier.load(alone.heads[0].classifier or "")
        np.testing.assert_array_equal(again.scores(X), plain.scores(X))
    assert "layer=" in result.table()


def test_without_tuning_only_the_layer_is_chosen(bank: Bank) -> None:
    words = {"recipe": "one", "layers": "stage2,stage1", "choose_layer": True, "cv": 2}
    result = fit(bank, "centroid", tune=False, **words)  # type: ignore[arg-type]

    assert set(result.heads[0].best_params) == {LAYER}
    for calibrate in ("platt", "temperature"):
        found = fit(bank, "svm", tune=False, calibrate=calibrate, **words)  # type: ignore[arg-type]
        assert LAYER in found.heads[0].best_params
        assert found.heads[0].predictions.probability is not None


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"recipe": "two"}, EvaluationError, "there is one layer, penultimate"),
        ({"recipe": "one", "layers": "stage1"}, EvaluationError, "nothing to choose from"),
        ({"recipe": "one", "layers": "stage1,stag"}, FeaturesMissing, "no column 'stag'"),
        ({"recipe": "one", "multilabel": True}, EvaluationError, "leave multilabel out"),
    ],
)
def test_a_layer_that_can_not_be_chosen_is_said(
    bank: Bank, words: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fit(bank, "ridge", choose_layer=True, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"layers": "stage9"}, FeaturesMissing, "the bank has no layer stage9; it has"),
        ({"recipe": "three"}, FeaturesMissing, "no recipe 'three'"),
        ({"n_jobs": 0}, EvaluationError, "n_jobs is 0"),
        ({"join": [["one@one stage1", "two"]]}, EvaluationError, "no features 'two'"),
    ],
)
def test_what_can_not_be_selected_is_said(
    bank: Bank, words: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        select(bank, "centroid", **words)  # type: ignore[arg-type]
