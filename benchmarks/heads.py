"""Claim: sweeps with cross-validation cost a fraction of GridSearchCV, and choose as it does.

The naive side is scikit-learn's `GridSearchCV` over the pipeline of scaling and head, on the same
float32 features, the same folds and the same threads; featbank's is `featbank.heads.sweep`. Both
sides stop before the refit. Wanted of logistic regression: a ratio of 4 for 10 values of C and of
8 for 45; of the others what was measured while planning. The choice agrees when it is the same
value, or its score lies within one standard error (over folds) of that of the naive choice,
both scores as the naive side measured them.

Features are synthetic and made like those of a network: 256 latent directions with a falling
spectrum, random ReLU projections, classes that overlap, a tenth of the labels wrong. Where a row
says "of 5 folds", the naive side was measured on that many and its time multiplied.

    python benchmarks/heads.py --out heads.json             the planning sizes, half an hour
    python benchmarks/heads.py --quick                      a tenth of the rows, a minute
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name : str
    head : str
    grid : list, optional
        Values of C or alpha; the head's own grid where None.
    n, d, k : int
        Rows, columns, classes.
    wanted : float
        Ratio of times.
    measured : int
        Folds that the naive side is measured on.
    """

    name: str
    head: str
    grid: list[float] | None
    n: int
    d: int
    k: int
    wanted: float
    measured: int = FOLDS


LINEAR_C = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
TEN_C = [float(c) for c in np.logspace(-5, 4, 10)]
MANY_C = [float(c) for c in np.logspace(-6, 5, 45)]
ALPHAS = [float(a) for a in np.logspace(-2, 7, 10)]

ROWS = [
    Row("svm-12", "svm", None, 1200, 2048, 2, 10),
    Row("linear-svm-8", "linear-svm", LINEAR_C, 2500, 2048, 2, 4),
    Row("ridge-10", "ridge", ALPHAS, 10_000, 2048, 10, 1.5),
    Row("logreg-few-rows", "logreg", TEN_C, 1000, 2048, 10, 2),
    Row("logreg-10", "logreg", TEN_C, 10_000, 2048, 10, 4),
    Row("logreg-45", "logreg", MANY_C, 10_000, 2048, 10, 8, measured=1),
    Row("logreg-10-two", "logreg", TEN_C, 10_000, 2048, 2, 4, measured=1),
    Row("logreg-10-hundred", "logreg", TEN_C, 10_000, 2048, 100, 3, measured=1),
    Row("logreg-45-hundred", "logreg", MANY_C, 10_000, 2048, 100, 8, measured=1),
    Row("logreg-10-50000", "logreg", TEN_C, 50_000, 2048, 10, 4, measured=1),
]


def make_features(n: int, d: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d), float32, and classes (n,)."""
    random = np.random.default_rng(seed)
    latent = 256
    spectrum = (1 + np.arange(latent)) ** -0.5
    means = random.standard_normal((k, latent)) * spectrum * (0.4 if k < 50 else 0.7)
    y = random.integers(k, size=n)
    hidden = (means[y] + 1.3 * random.standard_normal((n, latent)) * spectrum).astype(np.float32)
    mixing = random.standard_normal((latent, d)) / np.sqrt((spectrum**2).sum())
    X = hidden @ mixing.astype(np.float32)
    X += 0.5 * random.standard_normal((n, d), dtype=np.float32)
    X -= random.random(d, dtype=np.float32)
    np.maximum(X, 0, out=X)
    X *= np.exp(0.5 * random.standard_normal(d, dtype=np.float32))
    wrong = random.random(n) < 0.1
    y[wrong] = random.integers(k, size=int(wrong.sum()))
    return X, y


def naive_scores(row: Row, X: np.ndarray, y: np.ndarray, folds: list[Any]) -> np.ndarray:
    """Return GridSearchCV's scores, (values, folds)."""
    from sklearn.model_selection import GridSearchCV

    from featbank.heads import make_head

    search = GridSearchCV(make_head(row.head, random_state=0), _grid(row), cv=folds, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search.fit(X, y).cv_results_
    return np.column_stack([found[f"split{i}_test_score"] for i in range(len(folds))])


def fast_scores(row: Row, X: np.ndarray, y: np.ndarray, folds: list[Any]) -> np.ndarray:
    """Return featbank's scores, NaN for values that were not tried."""
    from featbank.heads import make_head
    from featbank.heads.sweep import sweep

    scores: np.ndarray = sweep(make_head(row.head, random_state=0), _grid(row), X, y, folds).scores
    return scores


def _grid(row: Row) -> dict[str, list[Any]]:
    from featbank.heads import grid

    if row.grid is None:
        return grid(row.head)
    (key,) = grid(row.head)
    return {key: row.grid}


def _settings(row: Row) -> list[str]:
    """Return the combinations of the grid, in a few words each."""
    from sklearn.model_selection import ParameterGrid

    return [
        " ".join(
            f"{value:.3g}" if isinstance(value, float) else "std" if value.with_std else "l2"
            for value in params.values()
        )
        for params in ParameterGrid(_grid(row))
    ]


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """Measure both sides in turn, and compare what they chose."""
    from sklearn.model_selection import StratifiedKFold

    X, y = make_features(row.n, row.d, row.k)
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(X, y))
    part = folds[: row.measured]
    naive: list[float] = []
    fast: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        quick = fast_scores(row, X, y, folds)
        middle = time.perf_counter()
        slow = naive_scores(row, X, y, part)
        naive.append((time.perf_counter() - middle) * FOLDS / len(part))
        fast.append(middle - start)
    tried = ~np.isnan(quick).any(axis=1)
    chosen = int(np.where(tried, quick.mean(axis=1), -1).argmax())
    theirs = int(slow.mean(axis=1).argmax())
    error = float(quick[chosen].std(ddof=1) / np.sqrt(FOLDS))
    behind = float(slow[theirs].mean() - slow[chosen].mean())
    both = np.abs(quick[tried][:, : row.measured].mean(axis=1) - slow[tried].mean(axis=1))
    settings = _settings(row)
    ratio = statistics.median(naive) / statistics.median(fast)
    return {
        "row": row.name,
        "head": row.head,
        "values": len(settings),
        "rows": row.n,
        "columns": row.d,
        "classes": row.k,
        "naive_folds": row.measured,
        "naive_seconds": statistics.median(naive),
        "fast_seconds": statistics.median(fast),
        "ratio": ratio,
        "wanted": row.wanted,
        "tried": int(tried.sum()),
        "naive_choice": settings[theirs],
        "choice": settings[chosen],
        "behind": behind,
        "standard_error": error,
        "agrees": theirs == chosen or behind <= error,
        "largest_difference": float(both.max()),
        "held": ratio >= row.wanted and (theirs == chosen or behind <= error),
    }


def table_of(found: list[dict[str, Any]]) -> str:
    """Return the results as lines of text."""
    titles = "naive s featbank s  ratio wanted   tried    choice (naive)   behind  held"
    lines = [f"{'sweep, 5 folds':19} {'n x d, classes':>19}   {titles}"]
    for one in found:
        size = f"{one['rows']} x {one['columns']}, {one['classes']}"
        part = "" if one["naive_folds"] == FOLDS else "*"
        choice = f"{one['choice']} ({one['naive_choice']})"
        lines.append(
            f"{one['row']:19} {size:>19} {one['naive_seconds']:8.1f}{part or ' '} "
            f"{one['fast_seconds']:10.1f} {one['ratio']:6.1f} {one['wanted']:6.1f} "
            f"{one['tried']:3}/{one['values']:<3} {choice:>17} {one['behind']:8.4f}  "
            f"{'yes' if one['held'] else 'NO'}"
        )
    lines.append("* measured on one of the 5 folds, and multiplied by 5")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write, and say whether the claim held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="of each row; medians are told")
    parser.add_argument("--only", help="rows, separated by commas")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the rows, a quarter of the columns"
    )
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    rows = [r for r in ROWS if not options.only or r.name in options.only.split(",")]
    if options.quick:
        rows = [
            Row(r.name, r.head, r.grid, max(600, r.n // 10), r.d // 4, r.k, 1.0, r.measured)
            for r in rows
            if r.k < 100 and r.n < 50_000
        ]
    found = []
    for row in rows:
        found.append(measure(row, options.rounds))
        print(f"measured {row.name}", file=sys.stderr)
    print(table_of(found))
    held = all(one["held"] for one in found)
    print(f"the claim {'held' if held else 'did NOT hold'}")
    if options.out:
        machine = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        }
        options.out.write_text(
            json.dumps({"machine": machine, "rows": found, "held": held}, indent=1)
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
