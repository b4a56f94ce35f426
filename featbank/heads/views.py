"""Heads on views: several views of an image, side by side, become one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if

from featbank.errors import HeadError
from featbank.heads.choice import DECIDING
from featbank.heads.fits import fit_head
from featbank.heads.outputs import Outputs, outputs
from featbank.heads.scoring import OverViews, mean_of_views

if TYPE_CHECKING:
    from featbank.heads.sweep import Fold, Sweep

__all__ = ["ViewsHead", "sweep_views", "with_views"]

Array = npt.NDArray[Any]


def _has(method: str, *, unless: str = "") -> Any:
    def check(head: ViewsHead) -> bool:
        last = head.steps[-1][1]
        return hasattr(last, method) and not (unless and hasattr(last, unless))

    return check


class ViewsHead(Pipeline):
    """A pipeline that is given V views of an image side by side, (n, V * d), the identity first.

    Parameters
    ----------
    steps : list of (str, estimator)
        As of a plain pipeline, on features of shape (n, d), with parameters of the same names.
    views : int
        V.
    combine : {"decisions", "train"}
        "decisions" learns from the first view, and answers with the mean over all views of the last
        step's probabilities; where it has none, of its decisions; where it has neither, by vote.
        "train" learns from V rows an image, and answers as "decisions" does. (Where features are
        averaged, as by "features", a plain head is given the mean.)
    transform_input, memory, verbose
        As of `sklearn.pipeline.Pipeline`.

    Notes
    -----
    A row is an image with all of its views: whatever splits rows keeps them together. By "train"
    the loss has V times the terms, so that the same C regularises less.
    """

    def __init__(
        self,
        steps: list[tuple[str, Any]],
        *,
        views: int = 1,
        combine: str = "decisions",
        transform_input: Any = None,
        memory: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(steps, transform_input=transform_input, memory=memory, verbose=verbose)
        self.views = views
        self.combine = combine

    @property
    def n_features_in_(self) -> int:
        """The number of features of all views."""
        return self.views * int(self.steps[0][1].n_features_in_)

    def fit(self, X: Array, y: Array, **params: Any) -> ViewsHead:
        """Fit on images of shape (n, V * d) and their labels; weights have one entry an image."""
        width = X.shape[1] // self.views
        if self.combine == "decisions":
            rows = X[:, :width]
        else:
            rows, y = self._each(X), np.repeat(y, self.views)
            params = _repeated(params, self.views)
        inner = fit_head(self.inner, rows, y, **params)
        self.steps = inner.steps
        return self

    @property
    def inner(self) -> Pipeline:
        """The plain pipeline of the same steps."""
        return Pipeline(
            self.steps,
            transform_input=self.transform_input,
            memory=self.memory,
            verbose=self.verbose,
        )

    def predict(self, X: Array) -> Array:
        """Return the class of each image, shape (n,)."""
        predicted: Array = np.asarray(self.classes_)[self._averaged(X).codes]
        return predicted

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Array) -> Array:
        """Return probabilities of shape (n, K)."""
        probability = self._averaged(X).probability
        assert probability is not None
        return probability

    @available_if(_has("decision_function", unless="predict_proba"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Array) -> Array:
        """Return scores of shape (n, K), or for two classes (n,), the second's advantage.

        Only where there are no probabilities: of those that there are the mean is the answer.
        """
        scores = self._averaged(X).scores
        assert scores is not None
        return scores[:, 1] if scores.shape[1] == 2 else scores

    def score(self, X: Array, y: Array, sample_weight: Any = None) -> float:
        """Return the accuracy."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def _each(self, X: Array) -> Array:
        """Return a row for each view, those of an image one behind the other, (n * V, d)."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] % self.views:
            raise ValueError(
                f"X has the shape {X.shape}; give rows of {self.views} views side by side."
            )
        return X.reshape(len(X) * self.views, -1)

    @property
    def _plain(self) -> Any:
        """What answers for one view; a single step by itself, for it need be no estimator."""
        return self.inner if len(self.steps) > 1 else self.steps[0][1]

    def _averaged(self, X: Array) -> Outputs:
        told = outputs(self._plain, self._each(X))
        for values in (told.probability, told.scores):
            if values is not None:
                mean = mean_of_views(values, self.views)
                kept = None if told.probability is None else mean
                return Outputs(mean.argmax(axis=1), mean, kept)
        votes = mean_of_views(np.eye(len(self.classes_))[told.codes], self.views)
        return Outputs(votes.argmax(axis=1), None, None)


def with_views(estimator: Any, views: int, combine: str) -> ViewsHead:
    """Return a head on several views, whose parameters keep their names; fitted if it is fitted.

    Raises
    ------
    HeadError
        There is no such combination.
    """
    if combine not in DECIDING:
        raise HeadError(
            f"a head combines views by {' or '.join(DECIDING)}, not by {combine!r}; features are "
            "averaged before it."
        )
    if isinstance(estimator, Pipeline):
        return ViewsHead(estimator.steps, views=views, combine=combine, memory=estimator.memory)
    name = type(estimator).__name__.lower()
    return ViewsHead([(name, estimator)], views=views, combine=combine)


def sweep_views(
    estimator: ViewsHead,
    values: dict[str, list[Any]],
    X: Array,
    y: Array,
    folds: Sequence[Fold],
    *,
    scoring: Any = None,
    **fit_params: Any,
) -> Sweep:
    """Sweep a grid of a head on views, as the plain head would be swept on a row for each view.

    So a fold learns from the rows that it would be fitted on, and is scored by what it would
    answer: the mean over views.

    Parameters
    ----------
    estimator : ViewsHead
    values, X, y, folds, scoring, **fit_params
        As in `featbank.heads.sweep.sweep`, which does the work.
    """
    from featbank.heads.sweep import sweep

    n = estimator.views
    each = estimator._each(X)
    learned = n if estimator.combine == "train" else 1
    return sweep(
        estimator.inner,
        values,
        each,
        np.repeat(y, n),
        [(_rows(fit, n, learned), _rows(held, n, n)) for fit, held in folds],
        scoring=OverViews(scoring, n),
        **_repeated(fit_params, n),
    )


def _rows(images: Array, views: int, first: int) -> Array:
    """Return the rows of the first views of images, those of an image together."""
    return (images[:, None] * views + np.arange(first)).ravel()


def _repeated(params: dict[str, Any], views: int) -> dict[str, Any]:
    return {name: np.repeat(value, views) for name, value in params.items()}
