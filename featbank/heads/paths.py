"""Paths: what `featbank.heads.sweep` knows to do at once, one function for each kind of head.

Each takes a `Task` and returns scores and log losses, of shape (settings, folds, 2): settings in
the order of `sklearn.model_selection.ParameterGrid`, NaN where one was not tried.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_class_weight

from featbank.heads import kernel
from featbank.heads.linear import (
    MOST_ITERATIONS,
    Design,
    Folds,
    Logistic,
    Loss,
    Softmax,
    Solution,
    SquaredHinge,
    solve,
    standardized,
)
from featbank.heads.memory import check_memory
from featbank.heads.plain import softmax
from featbank.heads.ridge import ridge_decisions, targets_of
from featbank.heads.scoring import Answers
from featbank.heads.sweep import COARSE, Task, best_of

__all__ = ["PATHS"]

Array = npt.NDArray[Any]

_COLUMNS = 128
"""Columns of weights from which on a product with the features gains no speed by more of them."""


@dataclasses.dataclass(frozen=True)
class _Convex:
    """The convex problems of a task.

    Attributes
    ----------
    outputs, sides : int
        Outputs of a problem, and problems of a fold.
    of : callable
        Takes rows and folds; returns the loss on these rows and the weights, (problems, rows).
    """

    outputs: int
    sides: int
    of: Callable[[Array, Sequence[int]], tuple[Loss, Array]]


def logreg(task: Task) -> Array:
    """Multinomial logistic regression, or binary for two classes; all folds in one product."""
    two = len(task.classes) == 2

    def answers(logits: Array) -> Answers:
        return _likely(task.classes, logits[0] if two else logits.T)

    return _ascending(task, _logistic(task), answers)


def _logistic(task: Task) -> _Convex:
    k = len(task.classes)

    def problems(rows: Array, folds: Sequence[int]) -> tuple[Loss, Array]:
        codes = task.codes[rows]
        loss: Loss = Logistic(codes) if k == 2 else Softmax(codes)
        return loss, np.stack([_weights(task, f, balanced=True)[rows] for f in folds])

    return _Convex(1 if k == 2 else k, 1, problems)


def linear_svm(task: Task) -> Array:
    """Squared hinge, one class against the rest, all folds and classes in one product."""
    two = len(task.classes) == 2

    def answers(logits: Array) -> Answers:
        return Answers.by(task.classes, logits[0] if two else logits.T)

    return _ascending(task, _hinge(task), answers)


def _hinge(task: Task) -> _Convex:
    k = len(task.classes)

    def problems(rows: Array, folds: Sequence[int]) -> tuple[Loss, Array]:
        weights, positive = [], []
        for f in folds:
            plain = _weights(task, f, balanced=False)[rows]
            # Against the rest, liblinear weighs only a problem's own class by its class weight.
            weighted = _weights(task, f, balanced=True)[rows]
            for c in [1] if k == 2 else range(k):
                own = task.codes[rows] == c
                weights.append(weighted if k == 2 else np.where(own, weighted, plain))
                positive.append(own)
        return SquaredHinge(np.stack(positive)), np.stack(weights)

    return _Convex(1, 1 if k == 2 else k, problems)


def fit_linear(task: Task, Z: Array) -> tuple[Array, Array, int]:
    """Solve the one problem of a task that fits on all rows, by the solver of its sweep.

    Parameters
    ----------
    task : Task
        With one value, and one fold of all rows.
    Z : ndarray of shape (n, d)
        The features as the last step meets them, scaled.

    Returns
    -------
    coef : ndarray of shape (K, d), or (1, d) for two classes
    intercept : ndarray of shape (K,) or (1,)
    iterations : int
    """
    convex = (_logistic if type(task.last).__name__ == "LogisticRegression" else _hinge)(task)
    loss, weights = convex.of(np.arange(len(Z)), [0])
    design = Design(Z, scaled=False, weights=task.weights)
    folds = Folds.raw(design, weights, centred=not loss.penalizes_intercept)
    C = np.full(convex.sides, task.values[0], dtype=np.float64)
    most = min(MOST_ITERATIONS, task.last.max_iter)
    solution = solve(design, loss, folds, C, outputs=convex.outputs, most=most)
    if solution.iterations >= most:
        warnings.warn(f"C={C[0]:g} was not solved", ConvergenceWarning, stacklevel=2)
    far = np.einsum("pkd,pd->pk", solution.weights, folds.mean, dtype=np.float64)
    coef = solution.coef(folds)
    shift = far + coef.astype(np.float64) @ design.mean
    intercept = (solution.intercept - shift).astype(coef.dtype)
    return coef.reshape(-1, Z.shape[1]), intercept.ravel(), solution.iterations


def svm(task: Task) -> Array:
    """One matrix of distances a fold, and one Gram matrix a gamma for all values of C."""
    n = max(len(rows) for rows, _ in task.folds)
    m = max(len(held) for _, held in task.folds)
    check_memory(
        kernel.gram_bytes(n, m),
        f"the Gram matrix of an SVM on {n} images",
        "use linear-svm or logreg, or fewer images",
    )
    costs, gammas = task.grid["C"], task.grid["gamma"]
    found = np.empty((len(costs), len(gammas), len(task.folds), 2))
    for f, (rows, held) in enumerate(task.folds):
        X, others = _scaled(task, rows, held)
        widths = [kernel.gamma_of(gamma, X) for gamma in gammas]
        solver = kernel.precomputed(task.last, task.y[rows], task.codes[rows])
        if task.weights is not None:
            weighing = kernel.weighing(task.weights[rows])
            X, rows = X[weighing], rows[weighing]
        square, across = (kernel.squared_distances(A, X) for A in (X, others))
        for g, width in enumerate(widths):
            inside, outside = kernel.gram(square, width), kernel.gram(across, width)
            for c, C in enumerate(costs):
                svc = clone(solver).set_params(C=C)
                svc.fit(inside, task.codes[rows], **_weighted(task.weights, rows))
                said = Answers(task.classes, svc.predict(outside), svc.decision_function(outside))
                found[c, g, f] = task.judge(said, held)
    return found.reshape(-1, len(task.folds), 2)


def ridge(task: Task) -> Array:
    """One Cholesky factorisation for each alpha and fold, of Gram matrices that folds share."""
    Z, _, _ = standardized(task.X)
    decisions = ridge_decisions(
        Z, targets_of(task.codes, len(task.classes)), task.folds, task.values
    )
    return np.array(
        [
            [
                task.judge(Answers.by(task.classes, one if one.shape[1] > 1 else one[:, 0]), held)
                for one, (_, held) in zip(of_alpha, task.folds, strict=True)
            ]
            for of_alpha in decisions
        ]
    )


def lda(task: Task) -> Array:
    """One pooled covariance a fold; each shrinkage is a Cholesky factorisation of its own."""
    from scipy.linalg import cho_factor, cho_solve, lstsq

    scores = np.empty((len(task.values), len(task.folds), 2))
    k = len(task.classes)
    for f, (rows, held) in enumerate(task.folds):
        given, others = _scaled(task, rows, held)
        X, others = given.astype(np.float64), others.astype(np.float64)
        codes = task.codes[rows]
        share = np.bincount(codes, minlength=k) / len(codes)
        means = np.stack([X[codes == c].mean(axis=0) for c in range(k)])
        apart = X - means[codes]
        pooled = apart.T @ apart / len(X)
        for v, shrinkage in enumerate(task.values):
            if shrinkage == "auto":
                covariance = sum(share[c] * _ledoit_wolf(X[codes == c]) for c in range(k))
            else:
                covariance = (1 - shrinkage) * pooled
                covariance[np.diag_indices_from(covariance)] += (
                    shrinkage * np.trace(pooled) / len(pooled)
                )
            try:
                coef = cho_solve(cho_factor(covariance, check_finite=False), means.T)
            except np.linalg.LinAlgError:  # features that no class varies in; as scikit-learn does
                coef = lstsq(covariance, means.T)[0]
            decision = others @ coef - (means.T * coef).sum(axis=0) / 2 + np.log(share)
            if k == 2:
                decision = decision[:, 1] - decision[:, 0]
            scores[v, f] = task.judge(_likely(task.classes, decision), held)
    return scores


def knn(task: Task) -> Array:
    """Find the neighbours of the largest k once a fold; the first of them are a smaller k's."""
    scores = np.empty((len(task.values), len(task.folds), 2))
    k = len(task.classes)
    for f, (rows, held) in enumerate(task.folds):
        X, others = _scaled(task, rows, held)
        most = clone(task.last).set_params(n_neighbors=max(task.values)).fit(X, task.codes[rows])
        near = most.kneighbors(others, return_distance=False)
        votes = np.cumsum(
            task.codes[rows][near][:, :, None] == np.arange(k), axis=1, dtype=np.int32
        )
        for v, count in enumerate(task.values):
            share = votes[:, count - 1] / count
            said = Answers(task.classes, share.argmax(axis=1), None, lambda p=share: p)  # type: ignore[misc]
            scores[v, f] = task.judge(said, held)
    return scores


PATHS: dict[str, Callable[[Task], Array]] = {
    "LogisticRegression": logreg,
    "LinearSVC": linear_svm,
    "SVC": svm,
    "RidgeClassifier": ridge,
    "KNeighborsClassifier": knn,
    "LinearDiscriminantAnalysis": lda,
}
"""By the name of the class of a pipeline's last step."""


def _ledoit_wolf(X: Array) -> Array:
    """Return a class's covariance as `LinearDiscriminantAnalysis` shrinks it by ``"auto"``."""
    scaler = StandardScaler()
    covariance: Array = ledoit_wolf(scaler.fit_transform(X))[0]
    return scaler.scale_[:, None] * covariance * scaler.scale_


def _likely(classes: Array, decision: Array) -> Answers:
    """Answer by logits, (m, k), or for two classes (m,), the second's advantage."""

    def probability(logits: Array) -> Array:
        if logits.ndim == 1:
            logits = np.column_stack([np.zeros_like(logits), logits])
        return softmax(logits)

    return Answers.by(classes, decision, probability)


def _scaled(task: Task, rows: Array, held: Array) -> tuple[Array, Array]:
    """Return a fold's features, scaled by the rows that it is fitted on."""
    X, others = task.X[rows], task.X[held]
    if task.scaler is not None:
        scaler = clone(task.scaler).fit(X, **_weighted(task.scaling, rows))
        X, others = scaler.transform(X), scaler.transform(others)
    if task.normalizer is not None:
        X, others = (clone(task.normalizer).fit_transform(part) for part in (X, others))
    return X, others


def _weighted(weights: Array | None, rows: Array) -> dict[str, Array]:
    return {} if weights is None else {"sample_weight": weights[rows]}


def _masked(task: Task, f: int) -> Array:
    """Return each row's part in a fold's scaling, (n,): 0 where it must not look."""
    rows, _ = task.folds[f]
    part = np.zeros(len(task.codes))
    part[rows] = 1.0 if task.scaling is None else task.scaling[rows]
    return part


def _weights(task: Task, f: int, *, balanced: bool) -> Array:
    """Return weights of all rows in a fold, (n,): 0 where it must not look."""
    rows, _ = task.folds[f]
    own = np.ones(len(rows)) if task.weights is None else task.weights[rows]
    if balanced and task.last.class_weight is not None:
        of_class = compute_class_weight(
            task.last.class_weight, classes=task.classes, y=task.y[rows], sample_weight=own
        )
        own = own * of_class[task.codes[rows]]
    weights = np.zeros(len(task.codes))
    weights[rows] = own
    return weights


def _ascending(task: Task, convex: _Convex, answers: Callable[[Array], Answers]) -> Array:
    """Solve for values of C, each from the two next lower ones, all folds of a group at once.

    `answers` takes a fold's logits of its held-out rows, (sides * outputs, m).
    """
    outputs, sides = convex.outputs, convex.sides
    most = min(MOST_ITERATIONS, task.last.max_iter)
    whole = Design(task.X, scaled=task.scaler is not None)
    together = max(1, _COLUMNS // (outputs * sides))
    groups = []
    for first in range(0, len(task.folds), together):
        members = list(range(first, min(first + together, len(task.folds))))
        # A fold by itself leaves out the rows that it doesn't learn from.
        rows = np.arange(len(task.X)) if len(members) > 1 else task.folds[first][0]
        design = whole if len(members) > 1 else whole.take(rows)
        loss, weights = convex.of(rows, members)
        if task.scaler is None:
            folds = Folds.raw(design, weights, centred=not loss.penalizes_intercept)
        else:
            masks = np.stack([_masked(task, f)[rows] for f in members])
            folds = Folds.of(design.Z, weights, np.repeat(masks, sides, axis=0))
        groups.append((members, design, loss, folds))

    C = np.asarray(task.values, dtype=np.float64)
    scores = np.full((len(C), len(task.folds), 2), np.nan)
    solved: dict[int, list[Solution]] = {}
    for v in _order(C, scores):
        lower = sorted((u for u in solved if C[u] < C[v]), key=C.__getitem__)
        found = []
        for g, (members, design, loss, folds) in enumerate(groups):
            start = solved[lower[-1]][g] if lower else None
            before = solved[lower[-2]][g] if len(lower) > 1 else None
            given = np.full(len(members) * sides, C[v])
            solution = solve(
                design, loss, folds, given, outputs=outputs, start=start, before=before, most=most
            )
            if solution.iterations >= most:
                warnings.warn(f"C={C[v]:g} was not solved", ConvergenceWarning, stacklevel=2)
            for i, f in enumerate(members):
                held = task.folds[f][1]
                own = slice(i * sides, (i + 1) * sides)
                if len(members) > 1 and solution.logits is not None:
                    logits = solution.logits[own][:, :, held]
                else:
                    logits = solution.decide(whole.Z[held], folds)
                scores[v, f] = task.judge(answers(logits.reshape(-1, len(held))), held)
            found.append(solution)
        solved[v] = found
        for u in [*solved][:-2]:  # a search that comes back to it makes them anew
            solved[u] = [dataclasses.replace(one, logits=None) for one in solved[u]]
    return scores


def _order(C: Array, found: Array) -> Iterator[int]:
    """Yield the values to try next, looking at the scores and losses of those before."""
    ascending = np.argsort(C, kind="stable")
    if len(C) < COARSE:
        yield from (int(v) for v in ascending)
        return
    # A step of more than a decade costs as much as the values that it leaps over.
    decades = float(np.log10(C.max() / C.min()))
    step = 1 << max(0, int(np.log2(max(1.0, (len(C) - 1) / max(decades, 1.0)))))
    tried: list[int] = []
    places = [*range(0, len(C), step)]
    if places[-1] != len(C) - 1:
        places.append(len(C) - 1)
    for place in places:
        yield int(ascending[place])
        tried.append(place)
        if _falls(found[ascending[tried]]):
            break
    while step > 1:
        step //= 2
        known = sorted(tried)
        best = known[_best(found[ascending[known]])]
        for place in (best - step, best + step):
            if 0 <= place < len(C) and place not in tried:
                yield int(ascending[place])
                tried.append(place)


def _best(found: Array) -> int:
    """Return which of ascending values is the best, as `featbank.heads.sweep.best_of` does."""
    means, losses = found.mean(axis=1).T
    return best_of([{"place": place} for place in range(len(found))], means, losses)


def _falls(found: Array) -> bool:
    """Tell whether ascending values are past the best: two clearly worse, or three no better."""
    scores = found[..., 0]
    best = _best(found)
    later = scores[best + 1 :]
    if len(later) >= 3:
        return True
    if len(later) < 2:
        return False
    worse = scores[best] - later
    if worse.shape[1] < 2:
        return False
    error = worse.std(axis=1, ddof=1) / np.sqrt(worse.shape[1])
    return bool(np.all(worse.mean(axis=1) > error))
