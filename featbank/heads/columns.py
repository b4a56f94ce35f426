"""Blocks of columns: one layer's features among several, chosen as a parameter, or joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featbank.heads.choice import LAYER

if TYPE_CHECKING:
    from featbank.heads.sweep import Fold, Sweep

__all__ = ["Columns", "Join", "joined_head", "sweep_blocks", "with_choice"]

Array = npt.NDArray[Any]
Blocks = Mapping[str, tuple[int, int]]


class Columns(TransformerMixin, BaseEstimator):
    """Takes one block of columns; `layer` says which, and is a parameter to choose.

    Parameters
    ----------
    blocks : mapping of str to (int, int)
        First and last but one column of each block.
    layer : str
        A name of `blocks`.
    """

    def __init__(self, blocks: Blocks, layer: str) -> None:
        self.blocks = blocks
        self.layer = layer

    def fit(self, X: Array, y: Any = None) -> Columns:
        """Look at the number of columns, and nothing else."""
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Array) -> Array:
        """Return the block, shape (n, stop - start), a view of `X`."""
        check_is_fitted(self)
        return X[:, slice(*self.blocks[self.layer])]


class Join(TransformerMixin, BaseEstimator):
    """Scales every column, and gives each block of columns the same total variance.

    Parameters
    ----------
    blocks : mapping of str to (int, int)
    components : int, optional
        Reduce each block to so many of its principal components before.

    Attributes
    ----------
    weights_ : dict of str to float
        What each block is multiplied by. The mean square of all columns that come out is 1, as
        that of scaled columns is, so that a head's penalty means what it means without blocks.
    """

    def __init__(self, blocks: Blocks, components: int | None = None) -> None:
        self.blocks = blocks
        self.components = components

    def fit(self, X: Array, y: Any = None) -> Join:
        """Learn scales, components and weights of rows of shape (n, d)."""
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        X = validate_data(self, X, dtype=(np.float32, np.float64))
        self.scaler_ = StandardScaler().fit(X)
        X = self.scaler_.transform(X)
        self.reductions_ = {}
        variances, widths = {}, {}
        for name, (start, stop) in self.blocks.items():
            block = X[:, start:stop]
            if self.components is not None:
                k = min(self.components, *block.shape)
                self.reductions_[name] = PCA(k, random_state=0).fit(block)
                block = self.reductions_[name].transform(block)
            variances[name] = float(np.square(block, dtype=np.float64).sum() / len(block))
            widths[name] = block.shape[1]
        share = sum(widths.values()) / len(widths)
        self.weights_ = {
            name: (share / variance) ** 0.5 if variance > 0 else 0.0
            for name, variance in variances.items()
        }
        return self

    def transform(self, X: Array) -> Array:
        """Return the blocks side by side, scaled, reduced and weighted."""
        check_is_fitted(self)
        X = self.scaler_.transform(X)
        parts = []
        for name, (start, stop) in self.blocks.items():
            block = X[:, start:stop]
            if name in self.reductions_:
                block = self.reductions_[name].transform(block)
            parts.append(block * block.dtype.type(self.weights_[name]))
        return np.concatenate(parts, axis=1)


def with_choice(estimator: Any, blocks: Blocks) -> Any:
    """Return a pipeline of `Columns` and a head, whose parameters keep their names."""
    from sklearn.pipeline import Pipeline

    return Pipeline([("columns", Columns(dict(blocks), next(iter(blocks)))), *_steps(estimator)])


def sweep_blocks(
    estimator: Any,
    values: Mapping[str, list[Any]],
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    scoring: Any = None,
    **fit_params: Any,
) -> Sweep:
    """Sweep a grid that goes over blocks: the rest of it on each block by itself.

    Parameters
    ----------
    estimator : estimator
        As `with_choice` returned it.
    values : mapping of str to list
        With `LAYER`.
    X, y, folds, scoring, **fit_params
        As in `featbank.heads.sweep.sweep`, which does the work.

    Returns
    -------
    Sweep
        As of the whole grid, the blocks outermost.
    """
    from sklearn.base import clone
    from sklearn.pipeline import Pipeline

    from featbank.heads.sweep import Sweep, sweep

    (_, choice), *steps = estimator.steps
    rest = {name: choices for name, choices in values.items() if name != LAYER}
    swept = [
        sweep(
            clone(Pipeline(steps)),
            rest,
            X[:, slice(*choice.blocks[layer])],
            y,
            folds,
            scoring=scoring,
            **fit_params,
        )
        for layer in values[LAYER]
    ]
    return Sweep(
        params=[
            {LAYER: layer, **params}
            for layer, one in zip(values[LAYER], swept, strict=True)
            for params in one.params
        ],
        scores=np.concatenate([one.scores for one in swept]),
        losses=np.concatenate([one.losses for one in swept]),
    )


def joined_head(estimator: Any, blocks: Blocks, components: int | None = None) -> Any:
    """Return a head on joined blocks: its own scaling of columns gives way to `Join`."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    kept = [step for step in _steps(estimator) if not isinstance(step[1], StandardScaler)]
    return Pipeline([("join", Join(dict(blocks), components)), *kept])


def _steps(estimator: Any) -> list[tuple[str, Any]]:
    return getattr(estimator, "steps", None) or [(type(estimator).__name__.lower(), estimator)]
