import importlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script of the benchmarks, and forget it and the variables it sets afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def load(path):
        monkeypatch.syspath_prepend(str((BENCHMARKS / path).parent))
        name = Path(path).stem
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return load


def test_steady_rate_leaves_out_each_process_start_and_sums_processes(script, tmp_path):
    def write(process, start_up, seconds_an_image):
        times = [start_up * (i > 15) + i * seconds_an_image for i in range(64)]
        (tmp_path / process).write_bytes(struct.pack("64d", *times))

    write("1", start_up=100.0, seconds_an_image=0.1)
    write("2", start_up=1.0, seconds_an_image=0.2)
    assert script("peers/marks.py").steady_rate(tmp_path) == pytest.approx(10 + 5)


def test_claims_need_a_side_that_ran(script):
    extraction = script("extraction.py")
    case = extraction.CASES[0]
    rates = {"script 0 workers": 10.0, "ceiling: decoding": 400.0, "ceiling: network": 100.0}
    found = {name: {"rate": rate, "rates": [rate, rate / 2]} for name, rate in rates.items()}
    found["featbank"] = {"rate": 76.0, "rates": [76.0, 38.0]}  # the machine was slow at times
    found["featbank torch"] = {"skipped": "failed: it crashed"}
    features = np.ones((3, 4), np.float32)
    extraction.compare(found, {"script 0 workers": features, "featbank": features * 1.5})
    assert found["featbank"]["ratio"] == pytest.approx(7.6)
    assert found["featbank"]["of_ceiling"] == pytest.approx(0.95)
    assert found["featbank"]["error"]["max"] == pytest.approx(0.5)
    held = extraction.claims(case, found)
    assert held["featbank: at least 7 times the script"] is True
    assert held["featbank: at least 90% of the ceiling"] is True
    assert held["featbank: features within 0.0001"] is False
    assert held["featbank torch: features within 0.0001"] is False
    assert held["featbank bfloat16: at least 12 times the script"] is None


def test_a_package_that_is_faster_breaks_the_claim(script):
    extraction = script("extraction.py")
    found = {"featbank": {"rate": 10.0}, "timm": {"rate": 11.0}, "img2vec": {"rate": 9.0}}
    held = extraction.claims(extraction.CASES[1], found)
    assert held["featbank: not slower than timm"] is False
    assert held["featbank: not slower than img2vec"] is True


def test_the_same_jpegs_are_made_each_time_and_no_two_are_alike(script, tmp_path):
    pytest.importorskip("elpv_dataset")
    make = script("extraction.py").make_jpegs
    first = [path.read_bytes() for path in make(tmp_path / "a", (80, 60), 3)]
    again = [path.read_bytes() for path in make(tmp_path / "b", (80, 60), 3)]
    assert first == again
    assert len(set(first)) == 3


def test_a_leak_is_shown_where_the_naive_score_rises_and_featbanks_does_not(script):
    leakage = script("leakage.py")
    X, y = leakage.features(None, 120)
    planted, labels, digests = leakage.with_copies(X, y, 0.0)
    for row, digest in enumerate(digests):
        np.testing.assert_array_equal(planted[row], X[digest])
        assert labels[row] == y[digest]
    assert len(set(leakage.with_copies(X, y, 0.05)[2])) == len(planted) == 180

    def judged(*means):
        return leakage.judged(*(leakage.Estimate(m, m - 0.03, m + 0.03, (m,)) for m in means))

    assert judged(0.8, 0.9, 0.81)["held"] is True
    assert judged(0.8, 0.805, 0.8)["held"] is False
    assert judged(0.8, 0.9, 0.84)["held"] is False


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("k", [2, 4])
def test_parity_holds_both_sides_against_scikit_learns_own_objectives(script, k, weight):
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.svm import SVC, LinearSVC

    parity = script("parity.py")
    X, y = make_classification(90, 8, n_informative=6, n_classes=k, flip_y=0.2, random_state=0)
    w, C = parity.of_classes(weight, y), 0.3
    random = np.random.default_rng(0)
    for head, objective in (
        (LogisticRegression(C=C, tol=1e-10, max_iter=9999, class_weight=weight), parity.log_loss),
        (LinearSVC(C=C, tol=1e-10, max_iter=99_999, class_weight=weight), parity.squared_hinge),
    ):
        head.fit(X, y)
        least = objective((head.coef_, head.intercept_), X, y, C, w)
        for _ in range(20):  # a minimum: whatever is near lies above
            moved = head.coef_ + 1e-2 * random.normal(size=head.coef_.shape)
            assert (objective((moved, head.intercept_), X, y, C, w) >= least - 1e-9).all()
    svc = SVC(C=C, tol=1e-8, class_weight=weight).fit(X, y)
    duals, K = parity.scattered(svc, len(X)), rbf_kernel(X, gamma=svc._gamma)
    least = parity.dual_loss(duals, K, y, C, w)
    assert (parity.dual_loss(0.99 * duals, K, y, C, w) > least).all()
    assert least[0] < 0


def test_parity_refers_to_float64(script):
    parity = script("parity.py")
    X = np.random.default_rng(0).normal(5, 1, (30, 3)).astype(np.float32)
    case = parity.Case("", X, np.arange(30) % 2)
    rows, scored = case.folds[0]
    Z, others = parity.scaled(case, rows, scored)
    exact = (X.astype(float) - X[rows].mean(axis=0, dtype=float)) / X[rows].std(axis=0, dtype=float)
    np.testing.assert_allclose(Z, exact[rows], rtol=1e-12)
    np.testing.assert_allclose(others, exact[scored], rtol=1e-12)


def test_parity_is_lost_by_what_its_claim_names(script):
    parity = script("parity.py")
    X, y = np.zeros((12, 1), np.float32), np.arange(12) % 2
    good = {"coef": 1e-5, "above": 1e-6, "default": 1e-3, "agree": 0.999, "default_agree": 0.9}
    scores = np.array([[0.5, 0.6, 0.7], [0.8, 0.7, 0.9]])

    def held(path="ridge", theirs=scores, **changes):
        return parity.measured(
            path,
            parity.Case("", X, y),
            values=[good, {**good, **changes}],
            scores=scores,
            theirs=theirs,
            choices=[1, 2],
        )["held"]

    assert held()
    assert not held(above=2e-4)
    assert not held(coef=0.01)
    assert held("logreg", coef=0.1)
    assert held(agree=0.91)
    assert not held(agree=0.89)
    assert not held(theirs=scores[::-1])
    assert held("knn")
    assert not held("knn", theirs=scores + 1e-6)


def test_heads_are_compared_on_the_same_folds_and_a_clear_loser_breaks_the_claim(script):
    quality = script("heads_quality.py")
    X, y = quality.faces(6, 10, 32)
    assert len(X) == 60
    assert np.bincount(y).tolist() == [10] * 6
    data = quality.Features("faces", X, y)
    found = quality.measure(data, ["ridge", "centroid"])
    together = quality.cross_validate(X, y, ["ridge", "centroid"])
    other = "centroid" if found["best"] == "ridge" else "ridge"
    (behind,) = (row["behind"] for row in found["heads"] if row["head"] == other)
    assert behind == together.compare(other, found["best"]).to_dict()
    assert found["best"] in quality.table_of(found).splitlines()[2]

    def claimed(mean, high, seconds=1.0, data="bank"):
        row = {"behind": {"mean": mean, "ci95": [-1.0, high]}, "seconds": seconds}
        heads = [{**row, "head": head} for head in quality.HEADS]
        return list(quality.claims([{"data": data, "heads": heads}]).values())

    assert claimed(-0.05, 0.01) == [True, True]
    assert claimed(-0.005, -0.001) == [True, True]
    assert claimed(-0.05, -0.01) == [True, False]
    assert claimed(0.0, 0.0, seconds=25.0) == [False, True]
    assert claimed(-0.5, -0.4, data="faces-like") == [None]
    assert list(quality.claims([]).values()) == [None]


def test_cells_chooses_blocks_and_settings_by_inner_folds_alone(script):
    elpv = script("elpv.py")
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    good, bad = random.normal(y[:, None], 0.3, (60, 3)), random.normal(size=(60, 3))
    sets = {
        name: elpv.squared_distances(X, slice(None)) / 3
        for name, X in (("bad", bad), ("good", good))
    }
    folds = [(np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))]
    best, settings, inside = elpv.choose(sets, y, np.ones(60), folds)
    assert best == "good"
    assert inside > 0.9
    assert {name: value in elpv.GRID[name] for name, value in settings.items()} == dict.fromkeys(
        elpv.GRID, True
    )


def test_a_row_of_cells_is_set_beside_what_was_published(script):
    elpv = script("elpv.py")

    def held(mean):
        chosen = [{"blocks": "block 3"}] * 2
        scores = elpv.Scores([mean - 0.01, mean + 0.01], [0.8], [0.9], chosen)
        row = elpv.Row("everything", scores, elpv.Scores([0.7, 0.75], [0.6], [0.65], chosen))
        told = row.to_dict()
        assert told["to_published"]["VGG-19 fine-tuned"]["mean"] == pytest.approx(
            mean - 1581 / 1788
        )
        assert told["to_published"]["VGG-19 fine-tuned"]["se"] > 0.0125  # of theirs alone
        table = elpv.table_of([told])
        assert f"{mean:.2%}" in table
        assert "72.50%" in table
        return list(elpv.claims([told]).values())

    assert held(0.89) == [None, True]
    assert held(0.88) == [None, False]
    assert list(elpv.claims([]).values()) == [None, None]


def test_scores_of_cells_are_weighted(script):
    scores = script("elpv.py").Scores()
    scores.add(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([1, 1 / 3, 2 / 3]), {})
    assert scores.accuracy == [pytest.approx(2 / 3)]
    assert scores.f1 == [pytest.approx(0.5)]


def test_cells_are_held_out_by_label_and_type(script, tmp_path):
    pytest.importorskip("elpv_dataset")
    elpv = script("elpv.py")
    cells = elpv.cells_of(tmp_path)
    assert len(cells.y) == 2624
    for train, test in cells.splits(2):
        assert not set(train) & set(test)
        share = np.bincount(cells.strata[test]) / np.bincount(cells.strata)
        np.testing.assert_allclose(share, 0.25, atol=0.002)
        assert cells.weight[test].sum() == pytest.approx(598, abs=5)
    for train, test in cells.module_splits(2):
        assert len(train) + len(test) == 2624
        assert not set(cells.module[train]) & set(cells.module[test])
        assert len(set(cells.module[test])) == 11
    first = (tmp_path / "cells.csv").read_text().splitlines()[1].split(",")
    assert first[0] == cells.paths[0]
    assert first[1] == ("defective" if cells.y[0] else "functional")
    assert float(first[2]) == cells.weight[0]
    assert first[3] == ("test" if 0 in cells.splits(1)[0][1] else "train")


def test_a_head_that_is_far_behind_its_best_setting_breaks_the_claim(script):
    defaults = script("defaults.py")
    X, y = script("heads.py").make_features(120, 20, 3)
    data = defaults.Features("made", X, y)
    train, test = defaults.draw(y, 5, seed=1)
    assert np.bincount(y[train]).tolist() == [5, 5, 5]
    assert not set(train) & set(test)

    for head in ("svm", "knn", "logreg"):
        for size in (2, "all"):
            line = defaults.judged(defaults.measure(data, size, head, 2))
            assert len(line["default"]) == 2
            assert (line["tuned"] is None) == (size == 2)
            assert line["behind"] >= 0 or size != 2
            assert head in defaults.table_of([line])

    def held(default, best, *, table=False, tuned=None):
        settings = {"C=1": default, "C=2": best}
        line = {"data": "d", "size": 20 if tuned else 2, "head": "svm", "table": table}
        return defaults.judged({**line, "default": default, "tuned": tuned, "settings": settings})

    assert held([0.8, 0.9], [0.82, 0.93])["held"]
    assert not held([0.8, 0.9], [0.82, 0.95])["held"]
    assert held([0.8, 0.9], [0.82, 0.95], table=True)["held"]
    assert held([0.1, 0.1], [0.8, 0.9], tuned=[0.8, 0.86])["held"]
    ours, other = held([0.8, 0.9], [0.8, 0.9]), held([0.84, 0.9], [0.84, 0.9])
    (compared,) = defaults.to_logreg([ours, {**other, "head": "logreg"}])
    assert compared["held"]
    assert compared["ahead"] == pytest.approx(-0.02)
