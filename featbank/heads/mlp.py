"""`MLPHead`: a small neural network on features, kept as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from featbank.backbones.device import likely_device
from featbank.heads.plain import forward, softmax
from featbank.heads.streaming import Blocks
from featbank.heads.training import Perceptron, batches, train

__all__ = ["MLPHead"]

Array = npt.NDArray[Any]


class MLPHead(ClassifierMixin, BaseEstimator):
    """Multilayer perceptron with dropout and early stopping.

    The head that transfer-learning tutorials teach: fully connected layers with ReLU and dropout,
    trained by Adam on the cross-entropy. A part of the rows is held out; training stops when the
    loss on it no longer falls, and the weights of its lowest value are kept. NumPy alone trains it
    on a CPU, torch on a GPU; NumPy predicts.

    Parameters
    ----------
    hidden : int or sequence of int, default=256
        Units of each hidden layer; an empty sequence gives a linear softmax.
    dropout : float, default=0.4
        Share of hidden units left out in each training step, in [0, 1).
    learning_rate : float, default=1e-3
    weight_decay : float, default=0.0
        Adam's L2 penalty.
    batch_size : int, default=128
    max_epochs : int, default=100
    validation_fraction : float, default=0.1
        Share of the rows held out, by class. Where that leaves a class without a row on either
        side, nothing is held out and training runs for `max_epochs`. 0 asks for that.
    patience : int, default=10
        Epochs without improvement before training stops.
    class_weight : {"balanced"}, dict or None, default=None
    random_state : int, RandomState instance or None, default=None
        The same seed gives the same network on the same machine and device. The global
        generators of NumPy and torch are left as they were.
    device : str or None, default=None
        What it is trained on: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; by default CUDA where
        there is one, else the CPU.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coefs_ : list of ndarray, float32
        A layer's weights, of shape (inputs, outputs).
    intercepts_ : list of ndarray, float32
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where `X` had names.
    n_held_out_ : int
        Rows that training was stopped by; 0 where it ran for `max_epochs`.
    n_iter_ : int
        Epochs that were run.
    history_ : dict of str to list of float
        ``train_loss`` and, where rows were held out, ``valid_loss``, by epoch.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> head = MLPHead(max_epochs=50, random_state=0).fit(X, y)
    >>> head.predict_proba(X).shape
    (150, 3)
    """

    def __init__(
        self,
        hidden: int | Sequence[int] = 256,
        *,
        dropout: float = 0.4,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        max_epochs: int = 100,
        validation_fraction: float = 0.1,
        patience: int = 10,
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPHead:
        """Train on features of shape (n, d) and labels of shape (n,).

        Raises
        ------
        ValueError
            On a parameter out of its range, one class only, or features that aren't finite.
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float32)
        return self._fit(X, y, weights)

    def fit_blocks(self, X: Blocks, y: Any, sample_weight: Array | None = None) -> MLPHead:
        """Train on features that are read in blocks, as `fit` does on those in memory.

        Parameters
        ----------
        X : Blocks
        y : ndarray of shape (n,)
        sample_weight : ndarray of shape (n,), optional
        """
        self.n_features_in_ = X.shape[1]
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        return self._fit(X, np.asarray(y), weights.astype(np.float32))

    def _fit(self, X: Any, y: Array, weights: Array) -> MLPHead:
        sizes = self._validated_sizes()
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"MLPHead needs at least two classes; y has one class, {y[0]!r}.")
        if self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, y).astype(np.float32)

        random = check_random_state(self.random_state)
        train_rows, held_out = self._hold_out(codes, random)
        self.n_held_out_ = len(held_out)
        net = Perceptron(
            (X.shape[1], *sizes, len(self.classes_)),
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=int(random.randint(np.iinfo(np.int32).max)),
            device=_device(self.device),
        )
        data = (net.put(X), codes.astype(np.int64), weights)
        network = train(
            net,
            lambda random: batches(data, train_rows, self.batch_size, random),
            (lambda: batches(data, held_out)) if len(held_out) else None,
            max_epochs=self.max_epochs,
            patience=self.patience,
        )
        self.coefs_ = network.coefs
        self.intercepts_ = network.intercepts
        self.history_ = network.history
        self.n_iter_ = len(network.history["train_loss"])
        return self

    def decision_function(self, X: Any) -> Array:
        """Return logits: shape (n, n_classes), or for two classes (n,), the second's advantage."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, shape (n, n_classes), float64."""
        return softmax(self._logits(X).astype(np.float64))

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row, shape (n,)."""
        best = self._logits(X).argmax(axis=1)
        predicted: Array = self.classes_[best]
        return predicted

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        values = validate_data(self, X, dtype=np.float32, reset=False)
        return forward(values, self.coefs_, self.intercepts_)

    def _hold_out(self, codes: Array, random: np.random.RandomState) -> tuple[Array, Array]:
        """Return the rows to train on and the rows to stop by."""
        rows = np.arange(len(codes))
        counts = np.bincount(codes)
        n_valid = int(np.ceil(self.validation_fraction * len(codes)))
        enough = counts.min() >= 2 and len(counts) <= n_valid <= len(codes) - len(counts)
        if not enough:
            return rows, rows[:0]
        split = StratifiedShuffleSplit(1, test_size=n_valid, random_state=random)
        train_rows, held_out = next(split.split(codes, codes))
        return train_rows, held_out

    def _validated_sizes(self) -> tuple[int, ...]:
        sizes = (self.hidden,) if isinstance(self.hidden, int | np.integer) else tuple(self.hidden)
        for name, good, wanted in (
            ("hidden", all(int(s) == s and s > 0 for s in sizes), "positive whole numbers"),
            ("dropout", 0 <= self.dropout < 1, "in [0, 1)"),
            ("learning_rate", self.learning_rate > 0, "positive"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("max_epochs", self.max_epochs >= 1, "at least 1"),
            ("validation_fraction", 0 <= self.validation_fraction < 1, "in [0, 1)"),
            ("patience", self.patience >= 1, "at least 1"),
        ):
            if not good:
                raise ValueError(f"MLPHead's {name} is {wanted}, not {getattr(self, name)!r}.")
        return tuple(int(s) for s in sizes)


def _device(word: str | None) -> str:
    """Return the device to train on; torch is imported only where there may be a GPU."""
    found = likely_device(word or "auto")
    # Batches this small run sooner on a CPU than on a GPU that shares its memory.
    return "cpu" if word is None and found == "mps" else found
