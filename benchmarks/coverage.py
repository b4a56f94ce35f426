"""Claim: intervals of 95 % hold the truth in 90 to 99 of 100 data sets, whatever made the scores.

Many data sets are drawn from known distributions (two Gaussian classes), heads are scored on each,
and it is counted how often the interval holds the truth: the head's expected score, the mean over
all data sets of the same size. "Classifier" is how often it holds the accuracy of the one
classifier that is fitted on all rows, measured on 20,000 fresh ones. The rows:

- 5 folds, 5 x 5 folds, 20 times 25 % held out, and one test set of 25 %, each with its mean width,
  beside Nadeau and Bengio's corrected t of the same folds;
- groups: images of a group share an offset, and groups are held out;
- differences of two heads, and of two heads that do not differ, with the share of false alarms;
- the best of six heads that hardly differ: by how much its score is too high, as it stands and
  corrected for the choice, and how often the adjusted p-values see a difference that is none.

Balanced accuracy of 50 images is measured and not claimed: a head that hardly ever predicts the
smaller class has a skewed one, and intervals hold it in 83 to 97 of 100 data sets.

The claim holds where coverage of every other row of featbank's is within 0.90 to 0.99, false alarms
are at most 0.08, and the corrected score of the best is off by less than 0.015.

    python benchmarks/coverage.py --out coverage.json      half an hour on one core
    python benchmarks/coverage.py --quick                  two minutes
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featbank import cross_validate, make_head
from featbank.evaluation.choice import choose
from featbank.evaluation.comparison import adjusted, differences
from featbank.evaluation.intervals import Estimate, corrected_t
from featbank.evaluation.text import aligned

METHODS: dict[str, dict[str, Any]] = {
    "5 folds": {"cv": 5},
    "5 x 5 folds": {"cv": 5, "repeats": 5},
    "20 x 25 %": {"cv": 0.25, "repeats": 20},
    "test set": {"cv": 0.25},
}
RATIO = {"5 folds": 1 / 4, "5 x 5 folds": 1 / 4, "20 x 25 %": 1 / 3}
HEADS = ("logreg", "lda", "ridge", "centroid")
COLUMNS = {50: 20, 200: 100, 1000: 100}
"""Features by number of images: fewer than images, but not by far."""

SCORES = ("accuracy", "balanced_accuracy", "roc_auc")
LEAST, MOST = 0.90, 0.99
ALARMS, BIAS = 0.08, 0.015
BEST_OF = 6
FRESH = 20_000


@dataclass
class Row:
    """Intervals of one kind, a data set each, and what they should hold."""

    what: str
    n: int
    found: list[Estimate] = field(default_factory=list)
    fitted: list[float] = field(default_factory=list)
    plain: list[tuple[float, float]] = field(default_factory=list)
    claimed: bool = True

    def summary(self) -> dict[str, Any]:
        """Return coverage and mean widths."""
        ends = np.array([(one.low, one.high) for one in self.found])
        some = ~np.isnan(ends[:, 0])  # a head that predicts one class alone varies in nothing
        truth = float(np.mean([one.mean for one in self.found]))
        told: dict[str, Any] = {"what": self.what, "images": self.n, "sets": len(self.found)}
        told |= {
            "truth": truth,
            "coverage": _held(ends[some], truth),
            "without": int((~some).sum()),
        }
        told["width"] = float(np.mean(ends[some, 1] - ends[some, 0]))
        told["of_classifier"] = _held(ends, np.array(self.fitted)) if self.fitted else None
        if self.plain:
            plain = np.array(self.plain)
            told["nadeau_bengio"] = _held(plain, truth)
            told["nadeau_bengio_width"] = float(np.mean(plain[:, 1] - plain[:, 0]))
        # Two binomial standard errors of so few data sets are no failure.
        slack = 2 * np.sqrt(0.95 * 0.05 / len(self.found))
        told["held"] = bool(not self.claimed or LEAST - slack <= told["coverage"] <= MOST + slack)
        return told


def _held(ends: np.ndarray, truth: Any) -> float:
    return float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))


def drawn(
    n: int, columns: int, random: np.random.Generator, *, share: float = 0.4, signal: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of two Gaussian classes that ten columns tell apart."""
    y = (np.arange(n) < share * n).astype(int)
    X = random.normal(size=(n, columns))
    X[:, :10] += signal * (2 * y - 1)[:, None]
    return X, y


def scores(n: int, sets: int) -> Iterator[Row]:
    """Score heads on every data set by every method."""
    rows: dict[tuple[str, str, str], Row] = {}
    apart = {name: Row(f"logreg - centroid, accuracy, {name}", n) for name in METHODS}
    fresh, labels = drawn(FRESH, COLUMNS[n], np.random.default_rng(1))
    for number in range(sets):
        X, y = drawn(n, COLUMNS[n], np.random.default_rng([n, number]))
        fitted = {h: float(make_head(h).fit(X, y).score(fresh, labels)) for h in HEADS}
        for name, words in METHODS.items():
            result = cross_validate(X, y, list(HEADS), tune=False, n_jobs=1, **words)
            for head in HEADS:
                for score in SCORES[:1] if head != "logreg" else SCORES:
                    row = rows.setdefault(
                        (head, score, name),
                        Row(
                            f"{head}, {score.replace('_accuracy', '')}, {name}",
                            n,
                            claimed=n > 50 or score != "balanced_accuracy",
                        ),
                    )
                    one = result[head].metrics[score]
                    row.found.append(one)
                    if name in RATIO:
                        row.plain.append(_clipped(corrected_t(one.values, RATIO[name])))
                    if score == "accuracy":
                        row.fitted.append(fitted[head])
            gap = result.compare("logreg", "centroid")
            apart[name].found.append(gap)
            if name in RATIO:
                apart[name].plain.append(corrected_t(gap.values, RATIO[name]))
    yield from rows.values()
    yield from apart.values()


def _clipped(ends: tuple[float, float]) -> tuple[float, float]:
    return max(0.0, ends[0]), min(1.0, ends[1])


def grouped(groups: int, sets: int) -> Iterator[Row]:
    """Score a head where images of a group share an offset, and groups are held out."""
    n = 20 * groups
    row = Row(f"centroid, accuracy, 5 folds of {groups} groups", n)
    for number in range(sets):
        random = np.random.default_rng([groups, number])
        group = np.arange(n) % groups
        X, _ = drawn(n, 20, random)
        y = random.integers(0, 2, n)
        X[:, :10] += 0.3 * (2 * y - 1)[:, None]
        X += random.normal(scale=0.5, size=(groups, 20))[group]
        result = cross_validate(X, y, "centroid", tune=False, groups=group, cv=5, n_jobs=1)
        row.found.append(result["centroid"].metrics["accuracy"])
    yield row


def several(n: int, sets: int) -> dict[str, Any]:
    """Compare six heads that see different columns, which are equally good."""
    naive, corrected, within, alarms, pairs = [], [], [], [], []
    for number in range(sets):
        random = np.random.default_rng([7, n, number])
        y = np.arange(n) % 2
        heads = []
        for i in range(BEST_OF):
            X = random.normal(size=(n, 12)) + 0.25 * (2 * y - 1)[:, None]
            one = cross_validate(X, y, "centroid", tune=False, cv=5, n_jobs=1).heads[0]
            heads.append(_named(one, str(i)))
        choice = choose(heads, "accuracy", seed=0)
        assert choice is not None
        naive.append(choice.naive)
        corrected.append(choice.score.mean)
        within.append((choice.score.low, choice.score.high))
        p = adjusted(heads, choice.best, ["accuracy"])
        alarms.append(min(one["accuracy"] for one in p.values()) < 0.05)
        gap = differences(heads[0], heads[1], ["accuracy"])["accuracy"]
        pairs.append(not gap.low <= 0 <= gap.high)
    truth = float(np.mean([_truth(n, number) for number in range(sets)]))
    told: dict[str, Any] = {"heads": BEST_OF, "images": n, "sets": sets, "truth": truth}
    told["naive_bias"] = float(np.mean(naive) - truth)
    told["corrected_bias"] = float(np.mean(corrected) - truth)
    told["corrected_coverage"] = _held(np.array(within), truth)
    told["false_alarms_of_any"] = float(np.mean(alarms))
    told["false_alarms_of_one_pair"] = float(np.mean(pairs))
    slack = 2 * np.sqrt(0.05 * 0.95 / sets)
    told["held"] = bool(
        max(told["false_alarms_of_any"], told["false_alarms_of_one_pair"]) <= ALARMS + slack
        and abs(told["corrected_bias"]) < BIAS
    )
    return told


def _named(head: Any, name: str) -> Any:
    from dataclasses import replace

    return replace(head, head=name)


def _truth(n: int, number: int) -> float:
    """Return a head's accuracy on fresh rows, at the folds' size; all heads have the same mean."""
    random = np.random.default_rng([8, n, number])
    m = 4 * n // 5
    sizes = (m, 5000)
    (X, y), (fresh, labels) = (
        (random.normal(size=(size, 12)) + 0.25 * (2 * (np.arange(size) % 2) - 1)[:, None],
         np.arange(size) % 2)
        for size in sizes
    )  # fmt: skip
    return float(make_head("centroid").fit(X, y).score(fresh, labels))


def table(rows: list[dict[str, Any]], best: list[dict[str, Any]]) -> str:
    """Return what was found as plain text."""
    lines = [["interval of", "images", "coverage", "width", "classifier", "NB", "width", ""]]
    for row in rows:
        plain = row.get("nadeau_bengio")
        lines.append([
            row["what"], str(row["images"]), f"{row['coverage']:.3f}", f"{row['width']:.3f}",
            "-" if row["of_classifier"] is None else f"{row['of_classifier']:.3f}",
            "-" if plain is None else f"{plain:.3f}",
            "-" if plain is None else f"{row['nadeau_bengio_width']:.3f}",
            "" if row["held"] else "NOT",
        ])  # fmt: skip
    choice = [["best of", "images", "too high", "corrected", "coverage", "alarms", "one pair", ""]]
    for one in best:
        choice.append([
            str(one["heads"]), str(one["images"]), f"{one['naive_bias']:+.3f}",
            f"{one['corrected_bias']:+.3f}", f"{one['corrected_coverage']:.3f}",
            f"{one['false_alarms_of_any']:.3f}", f"{one['false_alarms_of_one_pair']:.3f}",
            "" if one["held"] else "NOT",
        ])  # fmt: skip
    return "\n".join([*aligned(lines), "", *aligned(choice)])


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 data sets of 50 and 200 images")
    parser.add_argument("--sets", type=int, help="data sets a row")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    sets = options.sets or (40 if options.quick else 300)
    sizes = (50, 200) if options.quick else (50, 200, 1000)
    rows = [row.summary() for n in sizes for row in scores(n, sets)]
    rows += [row.summary() for groups in (8, 15, 40) for row in grouped(groups, 2 * sets)]
    best = [several(n, sets) for n in (100, 200)]
    print(f"two Gaussian classes, {sets} data sets a row; 95 % intervals, untuned heads")
    print(table(rows, best))
    held = all(one["held"] for one in (*rows, *best))
    print("the claim held" if held else "the claim did NOT hold")
    if options.out:
        found = {"claim": __doc__.splitlines()[0], "rows": rows, "best": best, "held": held}
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
