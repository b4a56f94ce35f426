"""Few-shot protocols: `fewshot_ridge` and `fewshot_logreg`, a few images of each class drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.folds import Int
from featbank.evaluation.protocols.task import Outcome, Task, Trial
from featbank.heads.outputs import Outputs, outputs

__all__ = ["fewshot_logreg", "fewshot_ridge"]

Array = npt.NDArray[Any]


def fewshot_ridge(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Solve least squares on the first `shots` rows of each class, in an order drawn by a seed.

    The features are standardised by mean and deviation of the drawn rows, and a constant column is
    appended, so large that its weight is hardly penalised.

    Notes
    -----
    Code: big_vision/evaluators/fewshot_lsr.py and big_vision/configs/common_fewshot.py. The draws
    are the code's own (`numpy.random.default_rng(seed)`, seeds 0, 1 and 2), and more shots contain
    fewer. 1e-5 is added to the deviation, and the constant is 100, of which the short descriptions
    of this protocol are silent. A class with fewer rows than shots gives all that it has.
    """
    shots, notes = _possible(task, constants["shots"])
    total = len(shots) * len(constants["seeds"])
    trials = []
    targets = 2.0 * np.eye(len(task.classes)) - 1.0
    X_test = task.X[task.test].astype(np.float64)
    for seed in constants["seeds"]:
        random = np.random.default_rng(seed)
        own = [random.permutation(rows) for rows in _by_class(task.train, task)]
        for n in shots:
            start = time.perf_counter()
            rows = np.concatenate([found[:n] for found in own])
            X = task.X[rows].astype(np.float64)
            mean, deviation = X.mean(axis=0), X.std(axis=0) + constants["epsilon"]

            def prepared(X: Array, mean: Array = mean, deviation: Array = deviation) -> Array:
                bias = np.full((len(X), 1), constants["constant"])
                return np.hstack([(X - mean) / deviation, bias])

            weights = _least_squares(prepared(X), targets[task.y[rows]], constants["l2"])
            scores = prepared(X_test) @ weights
            seconds = time.perf_counter() - start
            told = Outputs(scores.argmax(axis=1), scores, None)
            trials.append(Trial(f"ridge, {_shots(n)}", {}, told, seconds))
            task.tick(len(trials), total)
    if task.valid is not None:
        notes.append(f"the {len(task.valid)} images of valid take no part in this protocol.")
    return Outcome(tuple(trials), tuple(notes))


def fewshot_logreg(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Fit on `shots` rows of each class, with C found on a few rows of valid by bisection.

    Seven values of C are scored first. Then, from a tenth to ten times the best, the worse end of
    the interval moves to its middle, 8 times; the better end of the last comparison is what counts,
    the lower one where both are equal.

    Notes
    -----
    Code: lpclip/linear_probe.py of CoOp. Features are not scaled, and the fit that is scored is
    the one on the drawn rows of train: valid is not added. Of equal values the first counts, which
    has the largest C there. The code runs 10 seeds, 1 to 10, while lpclip/linear_probe.sh asks for
    3. The draws are the code's own (`numpy.random.seed(seed)`, class by class, train then valid).
    Where there is no valid, a fifth of each class of train is held out, as
    datasets/oxford_pets.py does. What a class lacks is not drawn; the code stops there.
    """
    from threadpoolctl import threadpool_limits

    task, held = task.with_valid(constants["valid_share"])
    assert task.valid is not None
    shots, notes = _possible(task, constants["shots"])
    total = len(shots) * len(constants["seeds"])
    trials = []
    X = task.X.astype(np.float64)
    valid_shots = dict(zip(constants["shots"], constants["valid_shots"], strict=True))
    for n in shots:
        for seed in constants["seeds"]:
            start = time.perf_counter()
            random = np.random.RandomState(seed)
            fit = _drawn(task.train, n, task, random)
            choose = _drawn(task.valid, valid_shots[n], task, random)
            # So few rows are not worth a second thread, and on a busy machine it costs tenfold.
            with threadpool_limits(limits=1, user_api="blas"):
                head, chosen = _bisected(X[fit], task.y[fit], X[choose], task.y[choose], constants)
            told = outputs(head, X[task.test])
            seconds = time.perf_counter() - start
            trials.append(Trial(f"logreg, {_shots(n)}", chosen, told, seconds))
            task.tick(len(trials), total)
    return Outcome(tuple(trials), (*held, *notes))


def _bisected(
    X: Array, y: Int, X_valid: Array, y_valid: Int, constants: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return the fit that bisection ends with, and what was chosen."""
    from sklearn.linear_model import LogisticRegression

    fits: dict[float, tuple[float, Any]] = {}

    def accuracy(exponent: float) -> float:
        if exponent not in fits:
            head = LogisticRegression(
                C=10.0**exponent, solver=constants["solver"], max_iter=constants["max_iter"]
            )
            fits[exponent] = float(head.fit(X, y).score(X_valid, y_valid)), head
        return fits[exponent][0]

    peak = max(constants["exponents"], key=accuracy)
    left, right = peak - 1.0, peak + 1.0
    for _ in range(constants["steps"]):
        better = right if accuracy(left) < accuracy(right) else left
        middle = (left + right) / 2
        left, right = (middle, right) if better == right else (left, middle)
    return fits[better][1], {"C": 10.0**better}


def _least_squares(X: Array, targets: Array, l2: float) -> Array:
    """Return the weights of ridge regression of shape (d, K), without an intercept."""
    n, d = X.shape
    if n >= d:
        return np.linalg.solve(X.T @ X + l2 * np.eye(d), X.T @ targets)
    return X.T @ np.linalg.solve(X @ X.T + l2 * np.eye(n), targets)


def _possible(task: Task, shots: Sequence[int]) -> tuple[list[int], list[str]]:
    """Return the numbers of shots that some class has, and notes about the others."""
    counts = np.bincount(task.y[task.train], minlength=len(task.classes))
    possible = [n for n in shots if n <= counts.max()]
    notes = []
    left = [n for n in shots if n > counts.max()]
    if left:
        notes.append(
            f"{', '.join(map(str, left))} shots left out: no class has more than {counts.max()} "
            "images to draw from."
        )
    short = np.flatnonzero(counts < max(possible))
    if len(short):
        names = ", ".join(f"{task.classes[k]!r} ({counts[k]})" for k in short[:5])
        notes.append(f"classes with fewer images than shots give all they have: {names}.")
    return possible, notes


def _drawn(rows: Int, n: int, task: Task, random: np.random.RandomState) -> Int:
    """Draw `n` rows of each class that has rows, all of a class that has fewer."""
    own = [found for found in _by_class(rows, task) if len(found)]
    return np.concatenate(
        [random.choice(found, size=min(n, len(found)), replace=False) for found in own]
    )


def _by_class(rows: Int, task: Task) -> list[Int]:
    return [rows[task.y[rows] == k] for k in range(len(task.classes))]


def _shots(n: int) -> str:
    return "1 shot" if n == 1 else f"{n} shots"
