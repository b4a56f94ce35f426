"""Claim: the mlp head is fitted faster than scikit-learn's MLPClassifier, at an equal accuracy.

One hidden layer of 256, Adam at 1e-3, batches of 128, a tenth held out by class, training stops
after 10 epochs without improvement. What differs is each side's own: featbank stops by the held-out
loss and drops out 40 % of the units, scikit-learn stops by the held-out accuracy. Both learn from
the same standardised float32 rows, in turn, one thread each; seconds of processor time. Accuracy is
on a fifth that neither has seen, and equal where the mean difference is above -0.01 or within twice
its standard error. The claim is about features of networks, hundreds of columns wide; digits, of
64, are told beside it: there training goes on for twice as many epochs as scikit-learn's.

    python benchmarks/mlp.py --bank bank --rounds 5 --out mlp.json
"""

from __future__ import annotations

import os

THREADS = 1
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(THREADS)

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from featbank.heads.mlp import MLPHead  # noqa: E402

MARGIN = 0.01
NARROW = 256  # columns below which the claim says nothing


def synthetic(n: int = 6000, d: int = 1024, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return features as networks give: correlated, not negative, their classes overlapping."""
    random = np.random.default_rng(0)
    codes = random.integers(0, k, n)
    mixing = random.normal(size=(d, d)) / np.sqrt(np.arange(1, d + 1))[:, None]
    rows = random.normal(size=(n, d)) + 0.12 * random.normal(size=(k, d))[codes]
    return np.maximum(rows @ mixing + 1, 0).astype(np.float32), codes


def data_sets(bank: str | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield names, features and classes."""
    if bank is not None:
        from featbank import Bank

        chosen = Bank(bank).select()
        rows = [i for i, word in enumerate(chosen.labels) if word is not None]
        yield Path(bank).name, chosen.X[rows], np.array([chosen.labels[i] for i in rows])
    X, y = load_digits(return_X_y=True)
    yield "digits", X.astype(np.float32), y
    yield "synthetic", *synthetic()


def sides(seed: int) -> dict[str, Any]:
    """Return both, unfitted."""
    return {
        "featbank": MLPHead(random_state=seed, device="cpu"),
        "scikit-learn": MLPClassifier(
            (256,), batch_size=128, max_iter=100, early_stopping=True, random_state=seed
        ),
    }


def measure(X: np.ndarray, y: np.ndarray, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Fit both in turn, each round on another split."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(rounds):
        parts = train_test_split(X, y, test_size=0.2, stratify=y, random_state=seed)
        scaler = StandardScaler().fit(parts[0])
        learned, scored = scaler.transform(parts[0]), scaler.transform(parts[1])
        order = list(sides(seed).items())
        for name, head in order if seed % 2 else order[::-1]:
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                head.fit(learned, parts[2])
            seconds = time.process_time() - start
            told = found.setdefault(name, {"seconds": [], "accuracy": [], "epochs": []})
            told["seconds"].append(seconds)
            told["accuracy"].append(float(head.score(scored, parts[3])))
            told["epochs"].append(float(head.n_iter_))
    return found


def judged(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Compare the sides round by round."""
    ours, theirs = found["featbank"], found["scikit-learn"]
    pairs = zip(theirs["seconds"], ours["seconds"], strict=True)
    differences = np.subtract(ours["accuracy"], theirs["accuracy"])
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    mean = float(differences.mean())
    ratio = statistics.median(a / b for a, b in pairs)
    return {
        "ratio": ratio,
        "difference": mean,
        "error": error,
        "held": ratio > 1 and mean >= -max(MARGIN, 2 * error),
    }


def main() -> int:
    """Measure, print, write and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", help="a bank with labels, beside digits and synthetic features")
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    told: dict[str, Any] = {}
    print(f"{THREADS} thread, medians of {words.rounds} rounds in turn")
    print(
        f"{'':12} {'rows':>6} {'columns':>7} {'side':>12} "
        f"{'CPU s':>7} {'epochs':>6} {'accuracy':>8}"
    )
    for name, X, y in data_sets(words.bank):
        found = measure(X, y, words.rounds)
        for side in ("featbank", "scikit-learn"):
            one = {key: statistics.median(values) for key, values in found[side].items()}
            print(
                f"{name:12} {len(X):6} {X.shape[1]:7} {side:>12} {one['seconds']:7.2f} "
                f"{one['epochs']:6.0f} {statistics.mean(found[side]['accuracy']):8.3f}"
            )
        verdict = judged(found)
        told[name] = {"shape": X.shape, "sides": found, **verdict}
        print(
            f"{'':12} {verdict['ratio']:.1f} times as fast, accuracy {verdict['difference']:+.4f} "
            f"± {verdict['error']:.4f}"
        )
    held = all(one["held"] for one in told.values() if one["shape"][1] >= NARROW)
    print(f"claim {'held' if held else 'did not hold'}")
    if words.out:
        machine = {"python": platform.python_version(), "cores": os.cpu_count(), "threads": THREADS}
        words.out.write_text(json.dumps({"held": held, "machine": machine, "data": told}, indent=2))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
