import dataclasses
import io
import json
import os
import pickle
import re
import warnings
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.datasets import make_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier

from featbank.backbones.recipe import Column, Preprocess, Recipe
from featbank.classifier import FORMAT_VERSION, Classifier
from featbank.errors import ClassifierError, UntrustedTypeError
from featbank.evaluation import fit_final
from featbank.heads import list_heads
from featbank.heads.archive import TRUSTED_TYPES, _signed
from featbank.heads.choice import ViewChoice

X, CODES = make_classification(90, 6, n_informative=5, n_redundant=0, n_classes=3, random_state=0)
X = X.astype(np.float32)
Y = np.array(["ant", "bee", "cät"])[CODES]
SETS = [{word, "odd"} if i % 2 else {word} for i, word in enumerate(Y)]
RECIPE = Recipe(
    backbone="tiny",
    source="module",
    weights="ab" * 32,
    preprocess=Preprocess(256, "short", (224, 224), "bilinear", (0.5,) * 3, (0.2,) * 3),
)


def build(head="ridge", y=Y, **options):
    if head == "mlp":
        options["params"] = {"max_epochs": 3, "hidden": 4}
    final = fit_final(X, y, head, tune=False, **{"calibrate": False, **options})
    return Classifier(
        recipe=RECIPE,
        request={"model": "tiny", "weights": None},
        columns=(Column(), Column("layer3", "max")),
        classes=final.classes,
        head=final.estimator,
        head_name=final.head,
        provenance={"accuracy": 0.5},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "ridge.skops"
    build().save(path)
    return path.read_bytes()


def rewritten(data, change):
    """Pass the skops payload through `change` and sign it as featbank would."""
    content = skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    content["featbank"] = json.loads(content["featbank"])
    change(content)
    content["featbank"] = json.dumps(content["featbank"])
    return _signed(skops.io.dumps(content))


@pytest.mark.parametrize("calibrate", [False, "platt", "temperature"])
@pytest.mark.parametrize("name", list_heads())
def test_a_reloaded_classifier_predicts_the_same_without_trust(tmp_path, name, calibrate):
    made = build(name, calibrate=calibrate)
    made.save(tmp_path / "head.skops")
    back = Classifier.load(tmp_path / "head.skops")
    assert back.predict(X) == made.predict(X)
    np.testing.assert_array_equal(back.scores(X), made.scores(X))
    if calibrate or made.predict_proba(X) is not None:
        np.testing.assert_array_equal(back.predict_proba(X), made.predict_proba(X))
    assert (back.recipe, back.request, back.columns) == (RECIPE, made.request, made.columns)
    assert (back.classes, back.head_name, back.notes) == (("ant", "bee", "cät"), name, ())
    assert back.recipe.fingerprint == RECIPE.fingerprint


def test_a_classifier_of_several_labels_tells_them_all(tmp_path):
    made = build("logreg", y=SETS)
    made.save(tmp_path / "head.skops")
    back = Classifier.load(tmp_path / "head.skops", plain=True)
    assert back.multilabel
    assert back.classes == ("ant", "bee", "cät", "odd")
    likely = back.predict_proba(X) > 0.5
    names = np.array(back.classes)
    assert back.labels(X) == [tuple(names[row].tolist()) for row in likely]
    assert back.predict(X) == names[back.scores(X).argmax(axis=1)].tolist()
    assert back.labels(X[:0]) == []
    one = build()
    assert not one.multilabel
    assert one.labels(X) == [(word,) for word in one.predict(X)]


def types_of(head):
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(head))) as archive:
        found = re.findall(
            r'"__class__": "([^"]+)",\s*"__module__": "([^"]+)"',
            archive.read("schema.json").decode(),
        )
    return {f"{module}.{name}" for name, module in found}


def test_the_trusted_list_is_exactly_what_our_heads_need():
    needed = set()
    for name in list_heads():
        for calibrate in (False, "platt", "temperature"):
            needed |= types_of(build(name, calibrate=calibrate).head)
    needed |= types_of(build(y=SETS).head)
    needed |= types_of(build(ViewChoice("ridge", 2, "train")).head)
    needed.add("sklearn.neighbors._nearest_centroid.NearestCentroid")  # of earlier files
    assert {n for n in needed if not n.startswith(("builtins.", "numpy."))} == set(TRUSTED_TYPES)


def test_the_file_is_a_plain_skops_file(saved):
    content = skops.io.loads(saved, trusted=list(TRUSTED_TYPES))
    assert json.loads(content["featbank"])["classes"] == ["ant", "bee", "cät"]
    assert list(content["head"].classes_) == ["ant", "bee", "cät"]


def test_every_changed_byte_is_noticed(tmp_path, saved):
    path = tmp_path / "x.skops"
    random = np.random.default_rng(0)
    for at in [*random.integers(len(saved), size=150), *range(-90, 0, 7)]:
        data = bytearray(saved)
        data[at] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        with pytest.raises(ClassifierError):
            Classifier.load(path)


@pytest.mark.parametrize("cut", [0, 1, 79, 80, 1000, -1])
def test_a_truncated_file_is_refused(tmp_path, saved, cut):
    (tmp_path / "x.skops").write_bytes(saved[:cut])
    with pytest.raises(ClassifierError, match="end is missing"):
        Classifier.load(tmp_path / "x.skops")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ClassifierError, match="No such file"):
        Classifier.load(tmp_path / "none.skops")


class Canary:
    def __reduce__(self):
        return os.mkdir, (os.environ["FEATBANK_CANARY"],)


@pytest.mark.parametrize("dress", ["bare", "signed", "in the archive"])
def test_a_pickle_under_our_extension_is_never_run(tmp_path, monkeypatch, saved, dress):
    canary = tmp_path / "canary"
    monkeypatch.setenv("FEATBANK_CANARY", str(canary))
    data = pickle.dumps(Canary())
    if dress == "signed":
        data = _signed(data + b"\0\0")
    if dress == "in the archive":
        array = np.empty(1, dtype=object)
        array[0] = Canary()
        buffer = io.BytesIO()
        np.save(buffer, array)
        data = archive_of(saved, replace_arrays=buffer.getvalue())
    (tmp_path / "x.skops").write_bytes(data)
    with pytest.raises(ClassifierError):
        Classifier.load(tmp_path / "x.skops")
    assert not canary.exists()


def archive_of(data, *, replace_arrays=None, compression=zipfile.ZIP_STORED, extra=()):
    """Rebuild an archive, signed, with what a hostile hand would change."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            swap = replace_arrays is not None and name.endswith(".npy")
            new.writestr(name, replace_arrays if swap else old.read(name))
        for name, content in extra:
            new.writestr(name, content)
    return _signed(buffer.getvalue())


def refuse(tmp_path, data, words, error=ClassifierError, **options):
    (tmp_path / "x.skops").write_bytes(data)
    for plain in (True, False):
        with pytest.raises(error, match=words) as caught:
            Classifier.load(tmp_path / "x.skops", plain=plain, **options)
    return str(caught.value)


def test_a_bomb_is_refused_before_it_unfolds(tmp_path, saved):
    bomb = [("big.npy", bytes(50_000_000))]
    data = archive_of(saved, compression=zipfile.ZIP_DEFLATED, extra=bomb)
    assert len(data) < 200_000
    refuse(tmp_path, data, "not as featbank writes")


def test_an_array_that_declares_more_than_it_holds_is_refused(tmp_path, saved):
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, described)
    refuse(tmp_path, archive_of(saved, replace_arrays=header.getvalue()), "other than it declares")


def test_an_archive_that_is_not_ours_is_refused(tmp_path):
    refuse(tmp_path, _signed(skops.io.dumps([1, 2])), "no fitted head")
    refuse(tmp_path, _signed(skops.io.dumps({"head": build().head})), "no fitted head")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme", "hello")
    refuse(tmp_path, _signed(buffer.getvalue()), "can't be read as a classifier")


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", ["a", "b", "c"]), ("classes", 3), ("recipe", {}), ("columns", ["a/b"]),
     ("format", "one"), ("versions", {}), ("averaged", 3), ("averaged", 0), ("averaged", "1")],
)  # fmt: skip
def test_a_garbled_description_is_refused(tmp_path, saved, key, value):
    refuse(tmp_path, rewritten(saved, lambda c: c["featbank"].update({key: value})), "x.skops|head")


def test_a_later_format_says_what_to_install(tmp_path, saved):
    def later(content):
        content["featbank"]["format"] = FORMAT_VERSION + 1
        content["featbank"]["versions"]["featbank"] = "9.1"

    refuse(tmp_path, rewritten(saved, later), "written by featbank 9.1.*install")


def test_another_scikit_learn_is_a_note_and_no_warning(tmp_path, saved):
    def older(content):
        content["featbank"]["versions"]["scikit-learn"] = "1.6.0"

    (tmp_path / "x.skops").write_bytes(rewritten(saved, older))
    (note,) = Classifier.load(tmp_path / "x.skops").notes
    assert "1.6.0" in note


def test_an_unknown_type_is_refused_by_name_and_loads_when_trusted(tmp_path):
    made = build(RandomForestClassifier(n_estimators=2, random_state=0))
    made.save(tmp_path / "forest.skops")
    data = (tmp_path / "forest.skops").read_bytes()
    message = refuse(tmp_path, data, "sklearn.tree._tree.Tree", UntrustedTypeError)
    asked = re.findall(r"--trust ([\w.]+\w)", message)
    assert "sklearn.ensemble._forest.RandomForestClassifier" in asked
    refuse(tmp_path, data, "Tree", UntrustedTypeError, trust=["os.system"])
    back = Classifier.load(tmp_path / "forest.skops", trust=asked)
    assert back.predict(X) == made.predict(X)


def test_an_estimator_that_is_no_head_of_ours_needs_trust(tmp_path):
    build(DummyClassifier()).save(tmp_path / "dummy.skops")
    with pytest.raises(UntrustedTypeError, match="DummyClassifier"):
        Classifier.load(tmp_path / "dummy.skops")
    assert Classifier.load(tmp_path / "dummy.skops", trust=["sklearn.dummy.DummyClassifier"])


def test_a_loader_under_a_plain_name_is_refused(tmp_path, saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        schema = json.loads(archive.read("schema.json"))
    schema["__loader__"] = "FunctionNode"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    refuse(tmp_path, _signed(buffer.getvalue()), "builtins.dict", UntrustedTypeError)


@pytest.mark.parametrize(
    ("head", "attribute", "change"),
    [
        ("svm", "_dual_coef_", lambda v: v[:, :1].copy()),
        ("svm", "_intercept_", lambda v: v[:0].copy()),
        ("svm", "support_", lambda v: v[:1].copy()),
        ("svm", "_n_support", lambda v: v + 1000),
        ("svm", "support_vectors_", lambda v: v[:, :2].copy()),
        ("svm", "classes_", lambda v: v[[0, 0, 1]]),
        ("knn", "_fit_X", lambda v: v[:3].copy()),
        ("knn", "_y", lambda v: v + 10**9),
    ],
)
@pytest.mark.parametrize("calibrate", [False, True])
def test_a_head_whose_arrays_lead_out_of_bounds_is_refused(
    tmp_path, head, attribute, change, calibrate
):
    made = build(head, calibrate=calibrate)
    pipeline = made.head.calibrated_classifiers_[0].estimator if calibrate else made.head
    setattr(pipeline[-1], attribute, change(getattr(pipeline[-1], attribute)))
    made.save(tmp_path / "x.skops")
    for plain in (True, False):
        with pytest.raises(ClassifierError, match="contradicts itself"):
            Classifier.load(tmp_path / "x.skops", plain=plain)


def refused_head(tmp_path, head, change, words, both=(True, False)):
    made = build(head)
    change(made.head)
    made.save(tmp_path / "x.skops")
    for plain in both:
        with pytest.raises(ClassifierError, match=words):
            Classifier.load(tmp_path / "x.skops", plain=plain)


def test_an_svc_that_indexes_the_callers_rows_is_refused(tmp_path):
    # A precomputed kernel reads row[support_[i]] in compiled code, unchecked.
    def precomputed(head):
        head[-1].kernel, head[-1].shape_fit_ = "precomputed", (6, 6)
        head[-1].support_[:] = 10**9

    refused_head(tmp_path, "svm", precomputed, "contradicts itself")


def test_an_attribute_in_the_place_of_a_method_is_refused(tmp_path):
    def shadowed(head):
        head[-1].__dict__["decision_function"] = "text"

    words = "in the place of its method decision_function"
    refused_head(tmp_path, "ridge", shadowed, words, both=[False])
    plain = Classifier.load(tmp_path / "x.skops", plain=True)  # which takes arrays, and no methods
    assert plain.predict(X) == build("ridge").predict(X)


def test_a_head_that_can_not_predict_is_refused_on_loading(tmp_path):
    def narrow(head):
        head[-1].coef_ = head[-1].coef_[:, :2].copy()

    refused_head(tmp_path, "ridge", narrow, "can't predict")

    def huge(head):
        for _, step in head.steps:
            step.n_features_in_ = 10**12

    refused_head(tmp_path, "ridge", huge, "can't predict")


def test_arrays_of_items_without_bytes_are_refused(tmp_path, saved):
    header = io.BytesIO()
    described = {"descr": "<U0", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, described)
    refuse(tmp_path, archive_of(saved, replace_arrays=header.getvalue()), "other than it declares")


@pytest.mark.parametrize("header", [b"(" * 5000, b"{'descr': ("])
def test_an_array_header_that_is_no_header_is_refused(tmp_path, saved, header):
    array = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    refuse(tmp_path, archive_of(saved, replace_arrays=array), "is refused")


def test_an_archive_whose_entries_are_damaged_or_encrypted_is_refused(tmp_path, saved):
    plain = archive_of(saved)
    at = plain.rfind(b'"__class__"')
    refuse(tmp_path, resigned(plain, at, b'"__klass__"'), "Bad CRC-32")
    entry = plain.find(b"PK\1\2")
    refuse(tmp_path, resigned(plain, entry + 8, b"\1"), "not as featbank writes")


def resigned(data, at, content):
    changed = bytearray(data[: -2 - 80] + bytes(2))
    changed[at : at + len(content)] = content
    return _signed(bytes(changed))


def test_a_schema_without_end_is_refused(tmp_path, saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        schema = json.loads(archive.read("schema.json"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", json.dumps({**schema, "more": [[]] * 200_000}))
    refuse(tmp_path, _signed(buffer.getvalue()), "too large")


def test_a_head_that_needs_pickle_is_not_saved(tmp_path):
    made = build()
    made.head.steps[-1][1].tag_ = (i for i in range(3))
    with pytest.raises(ClassifierError, match="without pickle"):
        made.save(tmp_path / "x.skops")
    assert list(tmp_path.iterdir()) == []


def test_top_leads_with_the_prediction_and_gives_null_without_probabilities():
    made = build("svm")
    top = made.top(X[:5], k=2)
    assert [row[0].label for row in top] == made.predict(X[:5])
    assert all(len(row) == 2 and row[0].probability is None for row in top)
    calibrated = build("svm", calibrate=True).top(X[:5], k=9)
    assert all(len(row) == 3 for row in calibrated)
    assert sum(p.probability for p in calibrated[0]) == pytest.approx(1)


def test_two_classes_have_two_columns_and_numbers_become_text():
    made = build("svm", y=(CODES > 0).astype(int))
    assert made.classes == ("0", "1")
    assert made.scores(X).shape == (90, 2)
    assert set(made.predict(X)) == {"0", "1"}


def test_no_images_give_no_predictions_and_other_features_an_error():
    made = build("logreg")
    assert made.predict(X[:0]) == []
    assert made.predict_proba(X[:0]).shape == (0, 3)
    with pytest.raises(ClassifierError, match=r"\(90, 5\)"):
        made.predict(X[:, :5])


def test_classes_that_are_not_the_heads_are_refused():
    made = build()
    with pytest.raises(ClassifierError, match="classes_"):
        Classifier(RECIPE, {}, (Column(),), ("bee", "ant", "cät"), made.head, "ridge")


def test_a_plain_classifier_says_the_same_and_keeps_all_else(tmp_path):
    made = build("logreg")
    made.save(tmp_path / "x.skops")

    plain = Classifier.load(tmp_path / "x.skops", plain=True)

    assert type(plain.head).__name__ == "LogisticHead"
    assert dataclasses.replace(plain, head=made.head) == made
    assert plain.top(X) == Classifier.load(tmp_path / "x.skops").top(X)
    with pytest.raises(ClassifierError, match=r"\(90, 5\)"):
        plain.predict(X[:, :5])
    with pytest.raises(ClassifierError, match="copy its file"):
        plain.save(tmp_path / "again.skops")


@pytest.mark.parametrize("damage", ["shape", "type", "name"])
def test_an_array_that_a_plain_head_can_not_use_leaves_it_to_the_estimator(tmp_path, saved, damage):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        schema = archive.read("schema.json").decode()
    last = json.loads(schema)["content"]["head"]["content"]["content"]["steps"]["content"][1]
    name = last["content"][1]["content"]["content"]["coef_"]["file"]
    array = {
        "shape": np.zeros((3, 7)), "type": np.full((3, 6), "x"), "name": np.zeros((3, 6)),
    }[damage]  # fmt: skip
    buffer = io.BytesIO()
    np.save(buffer, array)
    swapped = "x.bin" if damage == "name" else name
    files = {"schema.json": schema.replace(name, swapped).encode(), swapped: buffer.getvalue()}
    data = with_entries(saved, files)
    (tmp_path / "x.skops").write_bytes(data)
    if damage == "name":  # skops asks for no ending
        assert not hasattr(Classifier.load(tmp_path / "x.skops", plain=True).head, "coef")
    else:
        refuse(tmp_path, data, "can't predict")


@pytest.mark.parametrize("marks", [(1, 2), (None, None)])
def test_one_array_is_not_read_again_and_again(tmp_path, saved, marks):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        schema = json.loads(archive.read("schema.json"))
    text = schema["content"]["featbank"]
    array = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode",
             "type": "numpy", "file": "big.npy"}  # fmt: skip
    schema["content"]["more"] = {
        **text, "__class__": "list", "__loader__": "ListNode",
        "content": [{**array, "__id__": mark} for mark in marks],
    }  # fmt: skip
    refuse(tmp_path, with_entries(saved, {"schema.json": json.dumps(schema).encode()}), "twice")


def with_entries(data, files):
    """Rebuild an archive, signed, with other contents of some entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in {*old.namelist(), *files}:
            new.writestr(name, files.get(name) or old.read(name))
    return _signed(buffer.getvalue())


def test_loading_warns_nobody(tmp_path, saved):
    (tmp_path / "x.skops").write_bytes(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier.load(tmp_path / "x.skops")
