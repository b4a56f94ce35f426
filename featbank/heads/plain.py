"""Plain heads: what the arrays of a saved head predict with NumPy alone, as the estimator would.

To import scikit-learn and skops takes longer than to embed an image, and predicting with most heads
takes a few lines. These are scikit-learn's `decision_function`, `predict_proba` and `predict`, to
rounding. An archive that is not exactly of a make that is known here has no plain head, and its
estimator predicts.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from featbank.heads.soundness import is_sound_svc

__all__ = ["PlainHead", "forward", "plain_content", "softmax"]

Array = npt.NDArray[Any]

_CELLS = 1 << 22  # of the largest array that predicting with a kernel takes


def forward(values: Array, coefs: Sequence[Array], intercepts: Sequence[Array]) -> Array:
    """Run rows through fully connected layers with ReLU between them; return the last's output."""
    last = len(coefs) - 1
    for i, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        values = values @ coef + intercept
        if i < last:
            np.maximum(values, 0, out=values)
    return values


def softmax(logits: Array) -> Array:
    """Return probabilities of shape (n, K) that sum to 1, in the precision of the logits."""
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability: Array = exponential / exponential.sum(axis=1, keepdims=True)
    return probability


@dataclass(frozen=True, eq=False)
class PlainHead(ABC):
    """A scaler and what follows it; no scikit-learn estimator, and it can't be fitted.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    mean, scale : ndarray of shape (d,)
    unit_rows : bool
        Whether rows are scaled to unit length after that.
    """

    classes_: Array
    mean: Array
    scale: Array
    unit_rows: bool

    @property
    def n_features_in_(self) -> int:
        """The number of features, d."""
        return len(self.mean)

    def decision_function(self, X: Array) -> Array:
        """Return scores of shape (n, K), or for two classes (n,), the second's advantage."""
        scores = self._scores(self._scaled(X))
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Array) -> Array:
        """Return the class of each row, shape (n,)."""
        predicted: Array = self.classes_[self._scores(self._scaled(X)).argmax(axis=1)]
        return predicted

    def _scaled(self, X: Array) -> Array:
        if X.ndim != 2 or X.shape[1] != len(self.mean):
            raise ValueError(f"X has the shape {X.shape}; give (rows, {len(self.mean)}).")
        X = X.astype(X.dtype if X.dtype.kind == "f" else np.float64)
        X -= self.mean.astype(X.dtype)
        X /= self.scale.astype(X.dtype)
        if not np.isfinite(X).all():
            raise ValueError("X contains NaN, infinity or a value too large.")
        if self.unit_rows:
            length = np.sqrt(np.einsum("ij,ij->i", X, X))[:, None]
            X /= np.where(length > 10 * np.finfo(X.dtype).eps, length, 1)
        return X

    @abstractmethod
    def _scores(self, X: Array) -> Array:
        """Return scores of shape (n, K) of scaled rows."""


@dataclass(frozen=True, eq=False)
class LinearHead(PlainHead):
    """One score a class, linear in the features: `coef` (K or, for two classes, 1; d)."""

    coef: Array
    intercept: Array

    def _scores(self, X: Array) -> Array:
        scores = forward(X, [self.coef.T], [self.intercept])
        return np.pad(scores, ((0, 0), (1, 0))) if scores.shape[1] == 1 else scores


class LogisticHead(LinearHead):
    """A linear head with probabilities."""

    def predict_proba(self, X: Array) -> Array:
        """Return the probability of each class, shape (n, K)."""
        return softmax(self._scores(self._scaled(X)))


@dataclass(frozen=True, eq=False)
class LayeredHead(PlainHead):
    """As `featbank.heads.mlp.MLPHead` predicts."""

    coefs: Sequence[Array]
    intercepts: Sequence[Array]

    def _scores(self, X: Array) -> Array:
        return forward(X.astype(np.float32), self.coefs, self.intercepts)

    def predict_proba(self, X: Array) -> Array:
        """Return the probability of each class, shape (n, K), float64."""
        return softmax(self._scores(self._scaled(X)).astype(np.float64))


@dataclass(frozen=True, eq=False)
class KernelHead(PlainHead):
    """As libsvm votes with an RBF kernel: each two classes have a decision between them.

    Attributes
    ----------
    gamma : float
    vectors : ndarray of shape (m, d)
        Support vectors, class by class.
    counts : ndarray of shape (K,)
        How many each class has.
    dual : ndarray of shape (K - 1, m)
    intercept : ndarray of shape (K (K - 1) / 2,)
    """

    gamma: float
    vectors: Array
    counts: Array
    dual: Array
    intercept: Array
    decision_function_shape: ClassVar[str] = "ovr"

    def predict(self, X: Array) -> Array:
        """Return the class of each row, shape (n,): of those with the most votes the first."""
        X = self._scaled(X)
        # libsvm gives a tie between two to the later one, its decision function to the earlier.
        later = np.tri(len(self.classes_), k=-1, dtype=bool)
        codes = [_votes(margins, later).argmax(axis=1) for margins in self._margins(X)]
        predicted: Array = self.classes_[np.concatenate(codes)]
        return predicted

    def _scores(self, X: Array) -> Array:
        earlier = np.tri(len(self.classes_), k=-1, dtype=bool).T
        scores = []
        for margins in self._margins(X):
            if len(self.classes_) == 2:
                scores.append(np.pad(margins[:, 1, :1], ((0, 0), (1, 0))))
            else:
                total = margins.sum(axis=2)
                scores.append(_votes(margins, earlier) + total / (3 * (np.abs(total) + 1)))
        return np.concatenate(scores)

    def _margins(self, X: Array) -> Iterator[Array]:
        """Yield, for some rows at a time, how far each class beats each other one: (n, K, K)."""
        k = len(self.classes_)
        first, second = np.triu_indices(k, 1)
        ends = np.cumsum(self.counts)[:-1]
        duals = np.split(self.dual, ends, axis=1)
        squares = (self.vectors**2).sum(axis=1)
        step = max(1, _CELLS // max(len(self.vectors), k * k))
        for start in range(0, len(X), step):
            rows = X[start : start + step].astype(np.float64)
            distance = (rows**2).sum(axis=1)[:, None] + squares - 2 * (rows @ self.vectors.T)
            kernels = np.split(np.exp(-self.gamma * np.maximum(distance, 0)), ends, axis=1)
            parts = np.stack([a @ b.T for a, b in zip(kernels, duals, strict=True)], axis=1)
            decision = parts[:, first, second - 1] + parts[:, second, first] + self.intercept
            margins = np.zeros((len(rows), k, k))
            margins[:, first, second], margins[:, second, first] = decision, -decision
            yield margins


def _votes(margins: Array, ties: Array) -> Array:
    votes: Array = np.where(ties, margins >= 0, margins > 0).sum(axis=2)
    return votes


def plain_content(schema: Mapping[str, Any], read: Callable[[str], Array]) -> dict[str, Any] | None:
    """Return what an archive of `featbank.heads.archive` holds, with a plain head.

    Parameters
    ----------
    schema : dict
        The archive's, of types that are trusted.
    read : callable
        Returns the array of an entry.

    Returns
    -------
    dict or None
        None where the head is of another make.
    """
    try:
        content: dict[str, Any] = _value(schema, read)
        return {**content, "head": _read_anew(content["head"])}
    except Exception:  # a hostile file can raise nearly anything; the reader of all others judges
        return None


def _value(node: Mapping[str, Any], read: Callable[[str], Array]) -> Any:
    """Return what a node of the schema stands for, an object as its type's name and attributes."""
    loader: str = node["__loader__"]
    content: Any = node.get("content")
    if loader == "JsonNode":
        return json.loads(content)
    if loader == "NdArrayNode" and node["type"] == "numpy":
        return read(node["file"])
    if loader in ("ListNode", "TupleNode"):
        return [_value(item, read) for item in content]
    if loader == "DictNode":
        return {key: _value(item, read) for key, item in content.items()}
    if loader == "ObjectNode":
        name = f"{node['__module__']}.{node['__class__']}"
        return name, SimpleNamespace(**_value(content, read))
    raise ValueError(loader)


def _read_anew(found: tuple[str, SimpleNamespace]) -> Any:
    """Return the plain head of a pipeline, or of one with a temperature or a threshold."""
    from featbank.heads.adjusted import AdjustedHead

    name, value = found
    if name != f"{AdjustedHead.__module__}.{AdjustedHead.__name__}":
        return _head(found)
    return AdjustedHead(
        _head(value.estimator),
        temperature=value.temperature,
        threshold=value.threshold,
        votes=getattr(value, "votes", True),
    )


def _head(found: tuple[str, SimpleNamespace]) -> PlainHead:
    """Return the plain head of a pipeline, or raise."""
    name, pipeline = found
    (_, (scaler_name, scaler)), *between, (_, (last_name, last)) = pipeline.steps
    _require(name == "sklearn.pipeline.Pipeline")
    _require(scaler_name == "sklearn.preprocessing._data.StandardScaler")
    for _, (row_scaler_name, row_scaler) in between:
        _require(row_scaler_name == "sklearn.preprocessing._data.Normalizer")
        _require(row_scaler.norm == "l2")
    classes, d = last.classes_, int(scaler.n_features_in_)
    k = len(classes)
    _require(k > 1 and last.n_features_in_ == d)
    if scaler.with_mean is False and scaler.with_std is False:
        _require(d > 0 and bool(between))
        mean, scale = np.zeros(d), np.ones(d)
    else:
        _require(scaler.with_mean is True and scaler.with_std is True)
        mean, scale = _floats(scaler.mean_, d), _floats(scaler.scale_, d)
    scaling = classes, mean, scale, bool(between)
    if last_name == "featbank.heads.mlp.MLPHead":
        sizes = [d, *(len(intercept) for intercept in last.intercepts_)]
        _require(len(last.coefs_) == len(sizes) - 1 > 0 and sizes[-1] == k)
        coefs = [_floats(c, *sizes[i : i + 2]) for i, c in enumerate(last.coefs_)]
        return LayeredHead(*scaling, coefs, [_floats(b, len(b)) for b in last.intercepts_])
    if last_name == "sklearn.svm._classes.SVC":
        _require(is_sound_svc(last) and last.kernel == "rbf")
        _require(last.decision_function_shape == "ovr" and last.break_ties is False)
        _require(last._probA.size == 0 and last._n_support.dtype.kind == "i")
        vectors, dual = last.support_vectors_, last._dual_coef_
        return KernelHead(
            *scaling,
            float(last._gamma),
            _floats(vectors, *vectors.shape),
            last._n_support,
            _floats(dual, *dual.shape),
            _floats(last._intercept_, *last._intercept_.shape),
        )
    out = 1 if k == 2 else k
    if last_name == "sklearn.linear_model._logistic.LogisticRegression":
        # Where scikit-learn fitted one class against the rest, it has another formula.
        _require(last.solver != "liblinear")
        _require(getattr(last, "multi_class", "auto") in ("auto", "deprecated"))
    coef, intercept = np.atleast_2d(last.coef_), np.atleast_1d(last.intercept_)
    return _LINEAR[last_name](*scaling, _floats(coef, out, d), _floats(intercept, out))


_LINEAR = {
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis": LogisticHead,
    "sklearn.linear_model._logistic.LogisticRegression": LogisticHead,
    "sklearn.linear_model._ridge.RidgeClassifier": LinearHead,
    "sklearn.svm._classes.LinearSVC": LinearHead,
}


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _floats(value: Any, *shape: int) -> Array:
    _require(value.shape == shape and value.dtype in (np.float32, np.float64))
    array: Array = value
    return array
