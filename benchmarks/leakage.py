"""Claim: copies planted in the data raise a naive score; featbank's stays where it was.

Half of the images are copied, once byte for byte, once with noise of 5 % added to the features, as
a second photograph of the same thing would have. All copies are kept (`keep_copies`): the naive
score splits them, as scikit-learn's `StratifiedKFold` would; featbank's keeps identical images
together by their digests, and noisy ones by `near_duplicates`. "Before" is featbank's score without
any copies. The claim holds where every head's naive score is at least a point (0.01) above the
score before, and featbank's at most half an interval; and where featbank, by default, counts
identical images once and so gives the score before to the last digit. How far a naive score rises
is how much a head learns by heart: nearest neighbours most, a regularised linear one least.

    python benchmarks/leakage.py --bank bank --out leakage.json

Without --bank the features are synthetic: classes that overlap, in 300 columns.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from featbank import Bank, cross_validate, make_head
from featbank.evaluation import Estimate
from featbank.evaluation.text import interval

SHARE, NOISE, SIMILARITY = 0.5, 0.05, 0.995
RISE = 0.01
HEADS = {"knn, k=1": ("knn", {"n_neighbors": 1}), "svm": ("svm", {}), "logreg": ("logreg", {})}


def features(bank: str | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels, at most `rows` of them."""
    if bank is None:
        from sklearn.datasets import make_classification

        X, y = make_classification(
            min(rows, 600),
            300,
            n_informative=10,
            n_clusters_per_class=1,
            class_sep=0.4,
            flip_y=0.1,
            random_state=0,
        )
        return X.astype(np.float32), y.astype(str)
    chosen = Bank(bank).select()
    known = np.flatnonzero([label is not None for label in chosen.labels])
    _, first = np.unique(chosen.digests[known], axis=0, return_index=True)
    kept = known[np.sort(first)]
    if len(kept) > rows:
        kept = np.sort(np.random.default_rng(0).choice(kept, rows, replace=False))
    return chosen.X[kept], np.array(chosen.labels)[kept].astype(str)


def with_copies(
    X: np.ndarray, y: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Append copies of half of the rows; also return what is equal for images of equal bytes."""
    random = np.random.default_rng(1)
    copied = random.choice(len(X), int(SHARE * len(X)), replace=False)
    copies = X[copied]
    length = np.linalg.norm(copies, axis=1, keepdims=True) / np.sqrt(X.shape[1])
    copies = copies + (noise * length * random.normal(size=copies.shape)).astype(X.dtype)
    digests = copied if noise == 0 else np.arange(len(X), len(X) + len(copied))
    return np.vstack([X, copies]), np.append(y, y[copied]), [*range(len(X)), *digests.tolist()]


def measure(X: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Return for each kind of copy and head the three accuracies, and whether the claim held."""
    heads = [make_head(name, **params) for name, params in HEADS.values()]
    options: dict[str, Any] = {"tune": False, "n_jobs": 1}
    before = cross_validate(X, y, heads, **options)
    found = []
    for kind, noise, near in (("identical", 0.0, None), ("near", NOISE, SIMILARITY)):
        planted, labels, digests = with_copies(X, y, noise)
        words = {"digests": digests, "near_duplicates": near, **options}
        after = cross_validate(planted, labels, heads, keep_copies=True, show_leak=True, **words)
        once = before if noise else cross_validate(planted, labels, heads, **words)
        for name, old, new, one in zip(HEADS, before.heads, after.heads, once.heads, strict=True):
            assert new.naive is not None
            scores = [head["accuracy"] for head in (old.metrics, new.naive, new.metrics)]
            row = {"copies": kind, "head": name, **judged(*scores)}
            row["held"] &= one.metrics["accuracy"].values == scores[0].values
            found.append(row)
    return found


def judged(before: Estimate, naive: Estimate, honest: Estimate) -> dict[str, Any]:
    """Return the accuracies as plain data, with the verdict."""
    half = (before.high - before.low) / 2
    return {
        "before": before.to_dict(),
        "naive": naive.to_dict(),
        "featbank": honest.to_dict(),
        "held": naive.mean - before.mean >= RISE and honest.mean - before.mean <= half,
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", help="a bank with labels, such as featbank demo makes")
    parser.add_argument("--rows", type=int, default=3000, help="images at most")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    X, y = features(options.bank, options.rows)
    rows = measure(X, y)
    print(f"accuracy of 5 folds, {len(X)} images, {int(SHARE * len(X))} copies planted")
    print(f"{'copies':<11}{'head':<10}{'before':>22}{'naive':>22}{'featbank':>22}  claim")
    for row in rows:
        cells = ""
        for name in ("before", "naive", "featbank"):
            ends = Estimate(row[name]["mean"], *row[name]["ci95"], ())
            cells += interval(ends).rjust(22)
        print(f"{row['copies']:<11}{row['head']:<10}{cells}  {'held' if row['held'] else 'NOT'}")
    held = all(row["held"] for row in rows)
    print("the claim held" if held else "the claim did NOT hold")
    if options.out:
        result = {
            "claim": __doc__.splitlines()[0], "images": len(X), "bank": options.bank is not None,
            "rows": rows, "held": held,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
