import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank.errors import ClassifierError
from featbank.heads import make_head
from featbank.heads.archive import dump_head, load_head
from featbank.heads.multilabel import OneVsRestHead, one_vs_rest
from featbank.heads.outputs import outputs

X, Y = make_multilabel_classification(120, 10, n_classes=4, n_labels=2, random_state=0)
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize("head", ["logreg", "svm", "linear-svm", "ridge", "knn", "centroid", "lda"])
def test_it_is_one_vs_rest_around_the_whole_head(head):
    ours = one_vs_rest(make_head(head, random_state=0), CLASSES).fit(X, Y)
    solved = head in ("logreg", "linear-svm")  # by our solver, to its tolerance
    solver = {"tol": 1e-10, "max_iter": 10**5} if solved else {}
    near = 1e-3 if solved else 1e-4
    theirs = OneVsRestClassifier(make_head(head, random_state=0, **solver)).fit(X, Y)
    assert np.array_equal(ours.predict(X), theirs.predict(X))
    assert list(ours.classes_) == list(CLASSES)
    if hasattr(theirs, "decision_function") and head != "knn":
        assert np.allclose(ours.decision_function(X), theirs.decision_function(X), atol=near)
    assert hasattr(ours, "predict_proba") == hasattr(theirs, "predict_proba")
    if hasattr(ours, "predict_proba"):
        assert np.allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=near)


def test_weights_reach_each_labels_classifier():
    weights = np.random.default_rng(0).uniform(0.1, 2, len(X))
    ours = one_vs_rest(make_head("ridge"), CLASSES)
    ours.fit(X, Y, standardscaler__sample_weight=weights, ridgeclassifier__sample_weight=weights)
    scaled = StandardScaler().fit(X, sample_weight=weights).transform(X)
    one = make_head("ridge").steps[-1][1].fit(scaled, Y[:, 2], sample_weight=weights)
    assert np.allclose(ours.decision_function(X)[:, 2], one.decision_function(scaled))


def test_a_head_without_steps_is_wrapped_as_it_is():
    head = one_vs_rest(RandomForestClassifier(5, random_state=0), CLASSES).fit(X, Y)
    assert isinstance(head, OneVsRestHead)
    assert head.predict_proba(X).shape == (120, 4)


def test_a_label_that_all_rows_have_is_named():
    always = Y.copy()
    always[:, 1] = 1
    with pytest.raises(ValueError, match="label 'bee' is on all of the 120 rows"):
        one_vs_rest(make_head("ridge"), CLASSES).fit(X, always)


def test_outputs_tell_labels_and_scores():
    head = one_vs_rest(make_head("logreg"), CLASSES).fit(X, Y)
    told = outputs(head, X)
    assert np.array_equal(told.labels, head.predict(X))
    assert np.array_equal(told.codes, head.decision_function(X).argmax(axis=1))


@pytest.mark.parametrize("head", ["logreg", "svm", "ridge", "knn", "lda"])
def test_it_survives_its_file(head):
    fitted = one_vs_rest(make_head(head), CLASSES).fit(X, Y)
    _, again, _ = load_head(dump_head("{}", fitted), "here", plain=True)
    assert np.array_equal(again.predict(X), fitted.predict(X))
    assert list(again.classes_) == list(CLASSES)


def test_labels_keep_the_order_that_they_were_given_in():
    fitted = one_vs_rest(make_head("ridge"), CLASSES[::-1]).fit(X, Y)
    _, again, _ = load_head(dump_head("{}", fitted), "here")
    assert list(again.classes_) == list(CLASSES[::-1])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda last: last.estimators_.pop(),
        lambda last: setattr(last, "classes_", np.array(["ant", "ant", "cat", "dog"])),
        lambda last: setattr(last, "estimators_", {"0": last.estimators_[0]}),
        lambda last: setattr(last.estimators_[1], "classes_", np.array([0, 1, 2])),
        lambda last: setattr(last, "predict", 3),
    ],
    ids=["one-fewer", "name-twice", "no-list", "three-classes", "shadowed"],
)
def test_a_file_that_contradicts_itself_is_refused(spoil):
    fitted = make_pipeline(StandardScaler(), OneVsRestHead(make_head("ridge")[-1], classes=CLASSES))
    fitted.fit(X, Y)
    spoil(fitted[-1])
    with pytest.raises(ClassifierError, match="is refused"):
        load_head(dump_head("{}", fitted), "here")
