"""How the files in ``v1`` were made, by the first featbank; no test runs this.

They are what stored banks and classifiers of format 1 look like, and stay as they are: a change of
the format leaves them alone, raises the version, and adds a folder beside them.

    python tests/formats/make_v1.py FOLDER
"""

import hashlib
import os
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featbank import Bank, Classifier, Column, Preprocess, Recipe, compact
from featbank.data.index import IndexedSource, Listing, Text

COLUMN, LAYER = Column(), Column("stage", "max", dtype="float16")
PREPROCESS = Preprocess(8, "squash", (8, 8), "bilinear", (0.5,) * 3, (0.25,) * 3)
RECIPES = [Recipe(name, "module", "0" * 64, PREPROCESS) for name in ("first", "second")]
WORDS = ["one", "two", "three", "in no index"]


def key(word):
    return np.frombuffer(hashlib.sha256(word.encode()).digest(), np.uint8)


def features(number, column, words):
    """Return row i of a recipe's column: 100 * recipe + 10 * i, and a quarter more each step."""
    steps = np.arange(3 if column == COLUMN else 2) / 4
    rows = [100 * number + 10 * WORDS.index(word) + steps for word in words]
    return np.asarray(rows, column.dtype)


def birds():
    contents = [("x/1.png", "one"), ("x/2.png", "two"), ("y/3.png", "one"), ("y/4.png", None)]
    contents.append((b"z/\xff\n.png", "three"))
    names = [os.fsencode(name) for name, _ in contents]
    numbers = np.arange(len(names), dtype=np.int64)
    listing = Listing(
        names=names,
        size=numbers + 100,
        mtime=numbers + 10**18,
        ctime=numbers + 10**18 + 1,
        inode=numbers + 7,
        scanned=numbers + 2 * 10**18,
        label=Text.of(["x", "x", "y", "y", "zé"]),
        split=Text.of(["train", "train", "test", None, "test"]),
        group=Text.of(["g1", "g2", "g1", None, None]),
        extra={"age": Text.of(["1", None, "3", "4", "5"])},
    )
    words = [word for _, word in contents]
    return IndexedSource(
        "birds",
        b"/images/birds",
        listing,
        np.stack([np.zeros(32, np.uint8) if word is None else key(word) for word in words]),
        np.array([word is not None for word in words]),
        Text.of([None if word else "it is broken." for word in words]),
        Text.of([None if word else "policy" for word in words]),
    )


def main(folder):
    bank = Bank.create(os.path.join(folder, "bank"))
    bank.update([birds()], documents=[{"name": "birds", "kind": "folder", "root": "/images/birds"}])
    for number, recipe in enumerate(RECIPES):
        bank.register(recipe, {"request": {"module": recipe.backbone}})
        for words in (WORDS[:2], WORDS[2:]):
            keys = np.stack([key(word) for word in words])
            columns = {c: features(number, c, words) for c in (COLUMN, LAYER)}
            bank.seal(recipe, keys, columns)
    compact(bank, os.path.join(folder, "codes.h5"))
    X = np.array([[0, 0, 0], [1, 0, 1], [4, 4, 4], [5, 4, 5]], np.float32)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=100.0)).fit(X, ["x", "x", "y", "y"])
    classifier = Classifier(
        recipe=RECIPES[0],
        request={"module": "first"},
        columns=(COLUMN,),
        classes=("x", "y"),
        head=head,
        head_name="logreg",
    )
    classifier.save(os.path.join(folder, "logreg.skops"))
    np.savetxt(os.path.join(folder, "logreg.txt"), classifier.predict_proba(X), "%.17g")


if __name__ == "__main__":
    main(sys.argv[1])
