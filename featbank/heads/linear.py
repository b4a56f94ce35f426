"""Linear heads on many folds and values of C at once: scikit-learn's problems, solved together.

`logreg` and `linear-svm` minimise a convex loss with an L2 penalty on standardised features. Over a
grid with cross-validation, the same rows meet dozens of such problems, and three things make that
cheap:

- *One copy of the features.* A fold standardises by its own rows, which only scales the penalty of
  each weight, if the weights are written in the units of features standardised by all rows. So all
  folds share one matrix: fold f has weights on the rows (0 where a row is held out), and every
  product with the features is made for all problems in one call of BLAS. Scores of held-out rows
  come with it.
- *A preconditioner.* On the leading eigenvectors of the features' covariance the Hessian of such a
  loss is nearly ``h * eigenvalues + 1 / C``, h the mean curvature. L-BFGS that starts from its
  inverse takes 2 to 30 iterations where scikit-learn's takes 15 to 100. It is no part of the
  problem: it changes how fast the solution is reached, not which one.
- *Ascending values of C.* Each starts on the line through the solutions of the two before: where
  classes can be parted, weights grow in nearly one direction.

All is computed in float32, or in float64 where the features are. The solution is as near as
`TOLERANCE` asks, when C is chosen and when the chosen head is fitted (`fit_linear` in
`featbank.heads.paths`): the Newton decrement (half the squared gradient in the
norm of the inverse Hessian), which estimates how far the objective is above its minimum.

References
----------
J. Nocedal and S. J. Wright, "Numerical Optimization" (2006), chapters 3 and 7. D. Boehning,
"Multinomial logistic regression algorithm", Annals of the Institute of Statistical Mathematics 44
(1992), for the covariance as a bound of the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "MOST_ITERATIONS",
    "TOLERANCE",
    "Design",
    "Folds",
    "Logistic",
    "Loss",
    "Softmax",
    "SquaredHinge",
    "mean_and_spread",
    "solve",
    "standardized",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
"""float32, or float64 where the features are."""

TOLERANCE = 5e-7
"""Of the objective, in units of scikit-learn's scaled one: mean loss plus penalty over n C."""

MOST_ITERATIONS = 500

_DIRECTIONS = 256  # eigenvectors in the preconditioner; all others share one eigenvalue
_MEMORY = 10  # of L-BFGS
_SUFFICIENT = 1e-4  # of the decrease that the slope promises

Pair = tuple[Floats, Floats, Array]
"""A step, the gradient's change along it, and the inverse of their product."""


class Loss(Protocol):
    """A loss of p problems with k outputs each, on n rows.

    Attributes
    ----------
    penalizes_intercept : bool
    """

    penalizes_intercept: bool

    def __call__(self, logits: Floats) -> tuple[Floats, Floats, Floats]:
        """Return losses (p, n), slopes (p, k, n) and curvatures (p, k, n), for logits (p, k, n)."""


class Softmax:
    """Cross-entropy of K classes, K outputs: multinomial logistic regression."""

    penalizes_intercept = False

    def __init__(self, codes: Array) -> None:
        self._codes = codes
        self._rows = np.arange(len(codes))

    def __call__(self, logits: Floats) -> tuple[Floats, Floats, Floats]:
        """See `Loss`."""
        top = logits.max(axis=1)
        own = logits[:, self._codes, self._rows] - top
        share = np.exp(logits - top[:, None])
        total = share.sum(axis=1)
        share /= total[:, None]
        curvature = share * (1 - share)
        share[:, self._codes, self._rows] -= 1
        return np.log(total) - own, share, curvature


class Logistic:
    """Binary cross-entropy, one output: logistic regression of two classes."""

    penalizes_intercept = False

    def __init__(self, codes: Array) -> None:
        self._sign = (2 * codes - 1).astype(np.float32)  # exact in either dtype

    def __call__(self, logits: Floats) -> tuple[Floats, Floats, Floats]:
        """See `Loss`."""
        margins = logits * self._sign
        tail = np.exp(-np.abs(margins))  # of the side that can't overflow
        losses = np.log1p(tail) + np.maximum(-margins, 0)
        wrong = np.where(margins > 0, tail, 1) / (1 + tail)
        return losses[:, 0], -wrong * self._sign, wrong * (1 - wrong)


class SquaredHinge:
    """max(0, 1 - margin) squared, one class against the rest in each problem: `LinearSVC`.

    The intercept is penalised as the weights are, as liblinear does.
    """

    penalizes_intercept = True

    def __init__(self, positive: Array) -> None:
        """`positive` of shape (p, n), bool, says where a problem's class is."""
        self._sign = np.where(positive, np.float32(1), np.float32(-1))[:, None]

    def __call__(self, logits: Floats) -> tuple[Floats, Floats, Floats]:
        """See `Loss`."""
        short = np.maximum(1 - logits * self._sign, 0)
        return (short * short)[:, 0], -2 * short * self._sign, 2 * (short > 0).astype(short.dtype)


class Design:
    """Features of n rows standardised by all of them, with the eigenvectors of their covariance.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    scaled : bool, optional
        As in `standardized`; False for heads without scaling.
    weights : ndarray of shape (n,), optional
        How much each row counts in the mean, the spread and the covariance.

    Attributes
    ----------
    Z, mean, spread : ndarray
        See `standardized`.
    values : ndarray of shape (r,)
        The largest eigenvalues of their covariance; r is at most `_DIRECTIONS`.
    vectors : ndarray of shape (d, r)
    rest : float
        The mean of the other eigenvalues that aren't 0.
    """

    def __init__(self, X: Array, *, scaled: bool = True, weights: Array | None = None) -> None:
        self.Z, self.mean, self.spread = standardized(X, scaled=scaled, weights=weights)
        root = None if weights is None else np.sqrt(weights / weights.mean()).astype(self.Z.dtype)
        self.values, self.vectors, self.rest = _eigen(
            self.Z if root is None else self.Z * root[:, None]
        )
        if not scaled:  # of the features as the head meets them
            unit = float(self.spread[0]) ** 2
            self.values, self.rest = self.values * self.values.dtype.type(unit), self.rest * unit

    def take(self, rows: Array) -> Design:
        """Return some of the rows, standardised as they are here."""
        found = object.__new__(Design)
        found.Z, found.mean, found.spread = self.Z[rows], self.mean, self.spread
        found.values, found.vectors, found.rest = self.values, self.vectors, self.rest
        return found


def mean_and_spread(X: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Return each feature's mean and standard deviation, float64; 0 where only rounding varies."""
    if weights is None:
        mean, spread = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    else:
        share = weights / weights.sum()
        mean = np.einsum("i,ij->j", share, X, dtype=np.float64)
        apart = X - mean.astype(X.dtype)
        spread = np.sqrt(np.einsum("i,ij,ij->j", share, apart, apart, dtype=np.float64))
    spread[spread <= 1e-6 * np.abs(mean)] = 0.0
    return mean, spread


def standardized(
    X: Array, *, scaled: bool = True, weights: Array | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return ``Z = (X - mean) / spread`` of shape (n, d), mean and spread of shape (d,).

    float64 if `X` is, otherwise float32. Constant features are 0. Where they are not to be
    `scaled`, spread is one number for all.
    """
    dtype = np.float64 if X.dtype == np.float64 else np.float32
    mean, spread = mean_and_spread(X, weights)
    if not scaled:
        spread[:] = np.sqrt(np.mean(spread**2))
    spread[spread == 0] = 1.0
    Z: Floats = np.subtract(X, mean.astype(X.dtype), dtype=dtype)
    Z /= spread.astype(dtype)
    return Z, mean.astype(dtype), spread.astype(dtype)


def _eigen(Z: Floats) -> tuple[Floats, Floats, float]:
    from scipy.linalg import eigh

    n, d = Z.shape
    least = min(n, d)
    gram = (Z.T @ Z if n >= d else Z @ Z.T) / Z.dtype.type(n)
    r = min(least, _DIRECTIONS)
    values, vectors = eigh(gram, subset_by_index=(least - r, least - 1), check_finite=False)
    rest = max(float(np.trace(gram)) - float(values.sum()), 0.0) / max(least - r, 1)
    if n < d:
        kept = values > 1e-6 * values[-1]
        values = values[kept]
        vectors = Z.T @ (vectors[:, kept] / np.sqrt(values * Z.dtype.type(n)))
    return np.maximum(values, 0), vectors, rest


@dataclass(frozen=True)
class Folds:
    """What p problems learn from, one fold each.

    Attributes
    ----------
    weights : ndarray of shape (p, n)
        Of each row's loss; they sum to 1. 0 for a row that a problem must not see.
    total : ndarray of shape (p,), float64
        What they summed to before; scikit-learn's C is in units of it.
    mean, scale : ndarray of shape (p, d)
        What each fold takes from the shared features and divides them by.
    """

    weights: Floats
    total: Array
    mean: Floats
    scale: Floats

    @classmethod
    def raw(cls, design: Design, weights: Array, *, centred: bool) -> Folds:
        """Compute them for heads without scaling, from weights (p, n) of the loss.

        A penalised intercept can't be `centred`: it belongs to features as they are.
        """
        total = weights.sum(axis=1, dtype=np.float64)
        shares = (weights / total[:, None]).astype(design.Z.dtype)
        origin = np.broadcast_to(-design.mean / design.spread, (len(weights), len(design.mean)))
        mean = shares @ design.Z if centred else origin
        return cls(shares, total, mean, np.broadcast_to(1 / design.spread, mean.shape))

    @classmethod
    def of(cls, Z: Floats, weights: Array, scaling: Array) -> Folds:
        """Compute them from weights (p, n) of the loss and of the rows' part in the scaling."""
        total = weights.sum(axis=1, dtype=np.float64)
        shares = (scaling / scaling.sum(axis=1, dtype=np.float64)[:, None]).astype(Z.dtype)
        mean = shares @ Z
        variance = shares @ (Z * Z) - mean * mean
        constant = variance <= 1e-6 * (mean * mean)
        return cls(
            weights=(weights / total[:, None]).astype(Z.dtype),
            total=total,
            mean=mean,
            scale=np.where(constant, 1, np.sqrt(np.maximum(variance, 1e-12))).astype(Z.dtype),
        )


@dataclass(frozen=True)
class Solution:
    """Solutions of p problems with k outputs each.

    Attributes
    ----------
    weights : ndarray of shape (p, k, d)
        In units of the shared features, see `coef`.
    intercept : ndarray of shape (p, k)
    logits : ndarray of shape (p, k, n) or None
        Of all rows, those that were held out included; None once they were let go.
    objective : ndarray of shape (p,), float64
        Mean loss plus penalty.
    iterations : int
    converged : bool
    """

    weights: Floats
    intercept: Floats
    logits: Floats | None
    objective: Array
    iterations: int
    converged: bool

    def coef(self, folds: Folds) -> Floats:
        """Return the weights for features that each fold standardised itself, (p, k, d)."""
        scaled: Floats = self.weights * folds.scale[:, None]
        return scaled

    def decide(self, Z: Floats, folds: Folds) -> Floats:
        """Return the logits of other rows of the shared features, (p, k, m)."""
        return _products(self.weights, self.intercept, Z, folds)


def solve(
    design: Design,
    loss: Loss,
    folds: Folds,
    C: Array,
    *,
    outputs: int,
    start: Solution | None = None,
    before: Solution | None = None,
    tolerance: float = TOLERANCE,
    most: int = MOST_ITERATIONS,
) -> Solution:
    """Minimise p objectives together.

    Problem i minimises ``sum(weights * loss) + (1 / (2 C total)) * |coef|^2`` over the coefficients
    of features that its fold standardised: scikit-learn's objective over ``C * total``.

    Parameters
    ----------
    design : Design
    loss : Loss
    folds : Folds
        Of p problems.
    C : ndarray of shape (p,)
    outputs : int
        k.
    start : Solution, optional
        Where to begin; otherwise at 0.
    before : Solution, optional
        Of a smaller C than that of `start`. The line from there to `start` is followed as far as it
        leads down, which takes no product with the features.
    tolerance : float, optional
        Of the objective's distance to its minimum, as the Newton decrement estimates it.
    most : int, optional
        Number of iterations at most.
    """
    Z, V = design.Z, design.vectors
    p, k, (n, d), dtype = len(C), outputs, Z.shape, Z.dtype
    penalty = (1 / (np.asarray(C, np.float64) * folds.total)).astype(dtype)
    # The intercept is the last weight, of a feature that is 1 everywhere.
    ridge = np.empty((p, 1, d + 1), dtype)
    ridge[:, 0, :d] = penalty[:, None] * folds.scale**2
    ridge[:, 0, d] = penalty if loss.penalizes_intercept else 0

    def gradient(w: Floats, slopes: Floats) -> Floats:
        weighted = slopes * folds.weights[:, None]
        total = weighted.sum(axis=2)
        g = ridge * w
        g[:, :, :d] += (weighted.reshape(p * k, n) @ Z).reshape(p, k, d)
        g[:, :, :d] -= total[:, :, None] * folds.mean[:, None]
        g[:, :, d] += total
        return g

    def precondition(q: Floats, curvature: Floats) -> Floats:
        made = np.empty_like(q)
        flat = (q[:, :, :d] / folds.scale[:, None]).reshape(p * k, d)
        h = np.maximum(curvature, 1e-7).reshape(p * k, 1)
        ground = np.repeat(penalty, k)[:, None]
        elsewhere = 1 / (h * dtype.type(design.rest) + ground)
        along = (flat @ V) * (1 / (h * design.values + ground) - elsewhere)
        whole = flat * elsewhere + along @ V.T
        made[:, :, :d] = whole.reshape(p, k, d) / folds.scale[:, None]
        made[:, :, d] = q[:, :, d] / (h.reshape(p, k) + ridge[:, :, d])
        return made

    def mean_loss(losses: Floats) -> Array:
        return np.einsum("pn,pn->p", losses, folds.weights, dtype=np.float64)

    w: Floats = np.zeros((p, k, d + 1), dtype)
    logits: Floats = np.zeros((p, k, n), dtype)
    pairs: list[Pair] = []
    if start is not None:
        w[:, :, :d], w[:, :, d] = start.weights, start.intercept
        logits = (
            _products(start.weights, start.intercept, Z, folds)
            if start.logits is None
            else start.logits
        )
        if before is not None:
            step = w - np.concatenate([before.weights, before.intercept[:, :, None]], axis=2)
            along: Floats = logits - (
                _products(before.weights, before.intercept, Z, folds)
                if before.logits is None
                else before.logits
            )

            def objective(far: float) -> Array:
                moved = w + dtype.type(far) * step
                fitted = mean_loss(loss(logits + dtype.type(far) * along)[0])
                return fitted + _inner(ridge * moved, moved) / 2

            far = _farthest_down(objective, p)[:, None, None]
            w, logits = w + far * step, logits + far * along
    losses, slopes, curved = loss(logits)
    value = mean_loss(losses) + _inner(ridge * w, w) / 2
    origin = mean_loss(loss(np.zeros_like(logits))[0])
    g = gradient(w, slopes)
    converged, rounding = False, float(np.finfo(dtype).eps)
    for iterations in range(most + 1):
        curvature = np.einsum("pkn,pn->pk", curved, folds.weights)
        direction = -_two_loop(g, pairs, lambda q, h=curvature: precondition(q, h))
        slope = _inner(g, direction)
        near = tolerance * np.minimum(1.0, origin - value)
        if iterations and bool(np.all(-slope / 2 <= near)):
            converged = True
            break
        if iterations == most:
            break
        along = _products(direction[:, :, :d], direction[:, :, d], Z, folds)
        linear, square = _inner(ridge * w, direction), _inner(ridge * direction, direction)
        base = value - mean_loss(losses)
        length = np.ones(p)
        for _ in range(20):
            tried = logits + length.astype(dtype)[:, None, None] * along
            losses, slopes, curved = loss(tried)
            reached = mean_loss(losses) + base + length * linear + length**2 * square / 2
            short = reached > value + _SUFFICIENT * length * slope + rounding * np.abs(value)
            if not short.any():
                break
            # The minimum of the parabola through what is known, kept within a tenth and a half.
            bend = 2 * (reached - value - length * slope)
            guess = -slope * length**2 / np.where(bend > 0, bend, np.inf)
            length = np.where(short, np.clip(guess, 0.1 * length, 0.5 * length), length)
        else:
            break  # rounding leaves nothing to gain
        step = length.astype(dtype)[:, None, None] * direction
        w, logits, value = w + step, tried, reached
        last, g = g, gradient(w, slopes)
        pairs = [*pairs[-_MEMORY + 1 :], _pair(step, g - last)]
    return Solution(w[:, :, :d], w[:, :, d], logits, value, iterations, converged)


def _farthest_down(objective: Callable[[float], Array], p: int) -> Floats:
    """Return how far each of p objectives goes down along its line, to a quarter of a step."""
    far, least = np.zeros(p, np.float32), objective(0.0)
    for length in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0):
        reached = objective(length)
        better = reached < least
        far[better], least = length, np.minimum(least, reached)
        if not better.any():
            break
    return far


def _products(w: Floats, intercept: Floats, Z: Floats, folds: Folds) -> Floats:
    """Return logits (p, k, n) of rows Z (n, d) for weights (p, k, d)."""
    p, k, d = w.shape
    made = (w.reshape(p * k, d) @ Z.T).reshape(p, k, len(Z))
    made += (intercept - np.einsum("pkd,pd->pk", w, folds.mean))[:, :, None]
    return made


def _pair(step: Floats, change: Floats) -> Pair:
    product = _inner(step, change)
    return step, change, np.where(product > 1e-30, 1 / np.maximum(product, 1e-30), 0.0)


def _two_loop(g: Floats, pairs: list[Pair], precondition: Any) -> Floats:
    """Return L-BFGS's inverse Hessian times `g`; Nocedal and Wright, algorithm 7.4."""
    q = g.copy()
    factors = []
    for step, change, inverse in reversed(pairs):
        factor = (inverse * _inner(step, q)).astype(g.dtype)[:, None, None]
        q -= factor * change
        factors.append(factor)
    made: Floats = precondition(q)
    for (step, change, inverse), factor in zip(pairs, reversed(factors), strict=True):
        other = (inverse * _inner(change, made)).astype(g.dtype)[:, None, None]
        made += (factor - other) * step
    return made


def _inner(a: Floats, b: Floats) -> Array:
    """Return the inner product of each problem, (p,), float64."""
    return np.einsum("pi,pi->p", a.reshape(len(a), -1), b.reshape(len(b), -1)).astype(np.float64)
