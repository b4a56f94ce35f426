"""Streaming: heads fitted on features that are read from disk block by block, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import HeadError
from featbank.heads.registry import head_name

__all__ = ["STREAMED", "Blocks", "can_stream", "fit_streamed"]

Array = npt.NDArray[Any]
Int = npt.NDArray[np.intp]

STREAMED = ("logreg", "mlp")
"""Heads that can."""

BLOCK_BYTES = 1 << 28
BATCH, STEPS, EPOCHS = 256, 3000, 5
"""Of logistic regression: at least so many steps, and so many times through all rows."""

_RUN = 64  # rows that are read together: neighbours in the bank, which may be of one class
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Adam's own
_AVERAGED = 0.25  # of all rows that are seen: the last ones
_SCORED = 20_000  # rows at most that C is chosen on


class Blocks:
    """Features of shape (n, d) that are read when they are needed, some rows at a time.

    Parameters
    ----------
    read : callable
        Returns the features of the rows whose numbers it is given, shape (m, d), in their order.
    rows : int or ndarray of intp
        How many rows there are, or the numbers of those that are meant.
    width : int
        d.
    block_bytes : int
        Memory that a block may take.

    Examples
    --------
    >>> X = np.arange(12.0).reshape(6, 2)
    >>> some = Blocks(X.__getitem__, 6, 2)[np.array([4, 0])]
    >>> some.shape, some.take(np.array([0]))
    ((2, 2), array([[8., 9.]], dtype=float32))
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(
        self,
        read: Callable[[Int], Array],
        rows: int | Int,
        width: int,
        *,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.read = read
        self.rows = np.arange(rows) if isinstance(rows, int) else rows
        self.shape = (len(self.rows), width)
        self.block_bytes = block_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Blocks:
        """Return some of the rows, unread."""
        return Blocks(self.read, self.rows[rows], self.shape[1], block_bytes=self.block_bytes)

    def __iter__(self) -> Iterator[Array]:
        """Read all rows in their order, block by block."""
        for start in range(0, len(self), self.block_rows):
            yield self.take(np.arange(start, min(start + self.block_rows, len(self))))

    @property
    def block_rows(self) -> int:
        """How many rows a block has."""
        return max(_RUN, self.block_bytes // (self.shape[1] * self.dtype.itemsize))

    def take(self, positions: Int) -> Array:
        """Read some rows, shape (m, d), float32."""
        found: Array = np.asarray(self.read(self.rows[positions]), dtype=self.dtype)
        return found

    def shuffled(self, size: int, random: np.random.Generator) -> Iterator[tuple[Int, Array]]:
        """Read all rows once in random order: yield batches of positions and their features.

        A block is made of short runs of neighbours from everywhere, and shuffled in memory.
        """
        n = len(self)
        runs = np.split(np.arange(n), range(_RUN, n, _RUN))
        order = [runs[i] for i in random.permutation(len(runs))]
        each = max(1, self.block_rows // _RUN)
        for start in range(0, len(order), each):
            positions = np.sort(np.concatenate(order[start : start + each]))
            block = self.take(positions)
            mixed = random.permutation(len(positions))
            for first in range(0, len(mixed), size):
                at = mixed[first : first + size]
                yield positions[at], block[at]


def can_stream(estimator: Any) -> bool:
    """Tell whether `fit_streamed` can fit an estimator: as `make_head` builds ``logreg``, ``mlp``.

    Examples
    --------
    >>> from featbank.heads import make_head
    >>> can_stream(make_head("logreg", C=1.0)), can_stream(make_head("svm"))
    (True, False)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from featbank.heads.mlp import MLPHead

    steps = [step for _, step in getattr(estimator, "steps", ())]
    if len(steps) != 2 or type(steps[0]) is not StandardScaler:
        return False
    last = steps[1]
    if type(last) is LogisticRegression:
        return not last.l1_ratio and last.fit_intercept and last.penalty in ("l2", "deprecated")
    return type(last) is MLPHead


def fit_streamed(
    estimator: Any,
    X: Blocks,
    y: Array,
    values: Mapping[str, list[Any]] | None = None,
    held_out: tuple[Int, Int] | None = None,
    *,
    sample_weight: Array | None = None,
    scoring: Any = None,
) -> dict[str, Any]:
    """Fit a pipeline of a `StandardScaler` and a `LogisticRegression` or `MLPHead` in place.

    Mean and variance take one pass. Logistic regression is trained by Adam on batches of 256, the
    rate falling to nothing along a cosine over 3,000 steps, or 5 passes where these are more, and
    the weights of the last quarter are averaged. Its penalty is scikit-learn's: half the squared
    weights, over C. All values of C are trained in the same passes. An MLP is trained as in memory,
    its held-out rows read anew in each epoch.

    Parameters
    ----------
    estimator : Pipeline
        `can_stream` says yes to it. It is fitted.
    X : Blocks
    y : ndarray of shape (n,)
    values : mapping of str to list, optional
        ``{"logisticregression__C": [...]}``: what is chosen from.
    held_out : (ndarray, ndarray), optional
        Positions to fit on and to score C on: one held-out part, of which at most 20,000 rows are
        scored.
    sample_weight : ndarray of shape (n,), optional
    scoring : str, callable or None
        As in scikit-learn.

    Returns
    -------
    dict
        What was chosen.

    Raises
    ------
    HeadError
        The head can't be fitted so.

    References
    ----------
    B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
    Journal on Control and Optimization 30 (1992).
    """
    from sklearn.metrics import check_scoring

    from featbank.heads.mlp import MLPHead
    from featbank.heads.scoring import held_out_loss
    from featbank.heads.sweep import best_of

    if not can_stream(estimator):
        raise HeadError(
            f"head {head_name(estimator)} needs the features in memory, where they don't fit; use "
            f"{' or '.join(STREAMED)}, or give more memory."
        )
    last = estimator.steps[1][1]
    if isinstance(last, MLPHead):
        last.fit_blocks(_scaled(X, _fit_scaler(estimator, X, sample_weight)), y, sample_weight)
        return {}
    best: dict[str, Any] = {}
    if values and held_out is not None:
        (name, choices), *further = values.items()
        if further or not name.endswith("__C"):
            raise HeadError(f"of features that are streamed, logreg chooses C alone, not {name}.")
        learned, scored = held_out
        every = max(1, -(-len(scored) // _SCORED))
        told = X.take(scored[::every])
        scorer = check_scoring(estimator, scoring=scoring)
        scores, losses = [], []
        weights = None if sample_weight is None else sample_weight[learned]
        for coef, intercept in _fit_logistic(estimator, X[learned], y[learned], weights, choices):
            last.coef_, last.intercept_ = coef, intercept
            scores.append(scorer(estimator, told, y[scored[::every]]))
            losses.append(held_out_loss(estimator, told, y[scored[::every]]))
        settings = [{name: choice} for choice in choices]
        best = settings[best_of(settings, np.array(scores), np.array(losses))]
        estimator.set_params(**best)
    ((last.coef_, last.intercept_),) = _fit_logistic(estimator, X, y, sample_weight, [last.C])
    return best


def _fit_scaler(estimator: Any, X: Blocks, sample_weight: Array | None) -> Any:
    from sklearn.base import clone

    name, scaler = estimator.steps[0][0], clone(estimator.steps[0][1])
    estimator.set_params(**{name: scaler})
    start = 0
    for block in X:
        end = start + len(block)
        weights = None if sample_weight is None else sample_weight[start:end]
        scaler.partial_fit(block, sample_weight=weights)
        start = end
    return scaler


def _scaled(X: Blocks, scaler: Any) -> Blocks:
    def read(rows: Int) -> Array:
        scaled: Array = scaler.transform(np.asarray(X.read(rows), dtype=X.dtype))
        return scaled

    found = Blocks(read, X.rows, X.shape[1], block_bytes=X.block_bytes)
    if len(X) > X.block_rows:
        return found
    kept = found.take(np.arange(len(X)))  # a single block is read once
    return Blocks(kept.__getitem__, len(X), X.shape[1], block_bytes=X.block_bytes)


def _fit_logistic(
    estimator: Any, X: Blocks, y: Array, sample_weight: Array | None, costs: list[float]
) -> list[tuple[Array, Array]]:
    """Fit the scaler and all but `coef_` and `intercept_`; return these for each value of C."""
    from sklearn.utils import check_random_state, compute_class_weight

    last = estimator.steps[1][1]
    scaled = _scaled(X, _fit_scaler(estimator, X, sample_weight))
    last.classes_, codes = np.unique(y, return_inverse=True)
    k, m, (n, d) = len(last.classes_), len(costs), X.shape
    weights = compute_class_weight(last.class_weight, classes=last.classes_, y=y)[codes]
    weights = (weights if sample_weight is None else weights * sample_weight).astype(np.float32)
    # Of two classes scikit-learn penalises the difference: two halves weigh half of its square.
    penalty = np.repeat([(2 if k == 2 else 1) / (cost * n) for cost in costs], k).astype(np.float32)
    epochs = max(EPOCHS, -(-STEPS // -(-n // BATCH)))
    top = min(0.03, 10 / d)
    random = np.random.default_rng(check_random_state(last.random_state).randint(1 << 31))
    parameters, slopes, mean, square, average = (
        np.zeros((d + 1, m * k), np.float32) for _ in range(5)
    )
    step = seen = averaged = 0  # batches, and rows of them
    for _ in range(epochs):
        for positions, block in scaled.shuffled(BATCH, random):
            step += 1
            seen += len(block)
            slope = _slope(parameters, block, codes[positions], weights[positions], k)
            np.matmul(block.T, slope, out=slopes[:-1])
            slopes[:-1] += penalty * parameters[:-1]
            slopes[-1] = slope.sum(axis=0)
            mean += (1 - _BETAS[0]) * (slopes - mean)
            square += (1 - _BETAS[1]) * (slopes**2 - square)
            first, second = (1 - beta**step for beta in _BETAS)
            part = seen / (epochs * n)
            rate = top * (1 + np.cos(np.pi * part)) / 2
            parameters -= float(rate / first) * mean / (np.sqrt(square / second) + _EPSILON)
            if part > 1 - _AVERAGED:
                average += len(block) * parameters
                averaged += len(block)
    average /= averaged
    last.n_features_in_ = d
    last.n_iter_ = np.array([epochs], dtype=np.int32)
    found = []
    for i in range(m):
        own = average[:, i * k : (i + 1) * k].T
        own = own[1:] - own[:1] if k == 2 else own
        found.append((own[:, :-1].copy(), own[:, -1].copy()))
    return found


def _slope(parameters: Array, block: Array, codes: Int, weights: Array, k: int) -> Array:
    """Return the slope of a batch's mean cross-entropy by the logits, for each value of C."""
    logits = (block @ parameters[:-1] + parameters[-1]).reshape(len(block), -1, k)
    logits -= logits.max(axis=2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=2, keepdims=True)
    logits[np.arange(len(block)), :, codes] -= 1
    logits *= (weights / len(block))[:, None, None]
    found: Array = logits.reshape(len(block), -1)
    return found
