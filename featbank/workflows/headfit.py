"""The fit of an estimator's head: weights for each of its steps, parameters from its grid."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, HeadError
from featbank.evaluation.fitting import choose
from featbank.evaluation.inputs import checked
from featbank.evaluation.plan import plan_final
from featbank.heads.fits import fit_head
from featbank.heads.registry import defaults_for, grid, head_name, make_head
from featbank.heads.weights import by_step

__all__ = ["HeadFit", "plan_head_fit"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class HeadFit:
    """A fit that is known to be possible, before there are features.

    Attributes
    ----------
    head : str or estimator
        As given.
    estimator : estimator
        Unfitted, seeded.
    tune : bool
    weights : dict
        Fit parameters of `estimator` that hold the weights of samples.
    groups : array-like or None
        Rows of a group stay together when parameters are chosen.
    seed : int or None
    """

    head: Any
    estimator: Any
    tune: bool
    weights: Mapping[str, Any] = field(default_factory=dict)
    groups: Any = None
    seed: int | None = None

    def run(self, X: Array, y: Array) -> dict[str, Any]:
        """Choose parameters if that was asked for, fit `estimator`, return what was chosen."""
        from sklearn import config_context

        # Weights go by the names of steps, also where metadata routing is switched on.
        by_step = config_context(enable_metadata_routing=False)
        with by_step if self.weights else contextlib.nullcontext():
            best = self._chosen(X, y) if self.tune else {}
            settings = best or defaults_for(self.head, y)
            fit_head(self.estimator.set_params(**deepcopy(settings)), X, y, **self.weights)
        return best

    def _chosen(self, X: Array, y: Array) -> dict[str, Any]:
        """Choose from the head's grid, in folds that keep equal rows and groups together."""
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) == 1:
            raise EvaluationError(
                f"all {len(y)} images are of one class, {str(classes[0])!r}; a classifier needs at "
                "least two."
            )
        digests = [hashlib.sha256(row.tobytes()).digest() for row in X]
        data = checked(X, codes, groups=self.groups, digests=digests, keep_copies=True)
        inner = plan_final(data, seed=self.seed or 0).inner
        values = grid(self.head, n_samples=min((len(rows) for rows, _ in inner), default=None))
        if not values:
            return {}
        if not inner:
            warnings.warn(
                "a class is too small to choose parameters on; the head's defaults are used.",
                UserWarning,
                stacklevel=4,  # where the estimator's fit was called
            )
            return {}
        return choose(self.estimator, values, X, y, inner, **self.weights)


def plan_head_fit(
    head: Any,
    *,
    tune: bool = False,
    sample_weight: Any = None,
    groups: Any = None,
    seed: int | None = None,
) -> HeadFit:
    """Build the head and see that it can be fitted as asked.

    Raises
    ------
    HeadError
        The head is unknown, takes no weights, or has no grid.
    """
    estimator = make_head(head, random_state=seed)
    if tune and (not isinstance(head, str) or "." in head):
        raise HeadError(
            f"tune=True knows no grid for {head_name(head)}; give a head by its name, or search "
            "over head__... with scikit-learn's GridSearchCV."
        )
    weights = {} if sample_weight is None else by_step(estimator, head_name(head), sample_weight)
    return HeadFit(head, estimator, tune, weights, groups, seed)
