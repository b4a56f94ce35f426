"""The protocol of linear support vector machines, one a class: `voc07_svm`, scored by mAP."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.folds import Int, deal
from featbank.evaluation.protocols.task import Outcome, Task, Trial
from featbank.heads.outputs import Outputs
from featbank.heads.sweep import grid_search

__all__ = ["PrecisionMeter", "voc07_svm"]

Array = npt.NDArray[Any]


def voc07_svm(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Fit one machine a class, its C chosen by average precision in 3 folds of train and valid.

    Notes
    -----
    Code: vissl/utils/svm_utils/{svm_trainer,evaluate}.py and the configuration
    benchmark/linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml of VISSL.
    Features go to float64 and are divided by their L2 norm plus 1e-5. Folds are scikit-learn's,
    stratified and unshuffled, unless rows are bound together; they are chosen by scikit-learn's
    average precision, while the test part is scored by the area under the precision's envelope.
    The first of equal values of C counts, the smallest. Rows that VOC marks as difficult are not
    known here.
    """
    from sklearn.svm import LinearSVC

    start = time.perf_counter()
    X = task.X.astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True) + constants["epsilon"]
    rows = task.learned
    scores = np.empty((len(task.test), len(task.classes)))
    chosen: dict[str, float] = {}
    for k, name in enumerate(task.classes):
        positive = task.targets[rows, k]
        few = min(int(positive.sum()), int((~positive).sum()))
        if few < constants["folds"]:
            side = "with" if positive.sum() == few else "without"
            raise EvaluationError(
                f"voc07-svm chooses C in {constants['folds']} folds, and {few} images to learn "
                f"from are {side} class {name!r}; add some or leave the class out."
            )
        head = LinearSVC(
            class_weight={1: constants["positive_weight"], -1: 1},
            loss=constants["loss"],
            max_iter=constants["max_iter"],
            tol=constants["tol"],
            dual=True,
            random_state=task.seed,
        )
        y = np.where(positive, 1, -1)
        folds = _folds(positive, task.units[rows], constants["folds"], task.seed)
        values = {"C": constants["C"]}
        # By its own solver: equal areas are common, and a faster one would break ties otherwise.
        found = grid_search(head, values, X[rows], y, folds, scoring="average_precision")
        best = found.params[int(found.means.argmax())]  # the smallest of equals, as published
        head.set_params(**best).fit(X[rows], y)
        scores[:, k] = head.decision_function(X[task.test])
        chosen[name] = best["C"]
        task.tick(k + 1, len(task.classes))
    seen = task.targets[task.test].any(axis=0)
    notes: tuple[str, ...] = ()
    if not seen.all():
        names = ", ".join(repr(task.classes[k]) for k in np.flatnonzero(~seen)[:5])
        notes = (f"no image of test is of class {names}, which mAP leaves out.",)
    told = Outputs(scores.argmax(axis=1), scores, None)
    return Outcome((Trial("linear-svm", {"C": chosen}, told, time.perf_counter() - start),), notes)


class PrecisionMeter:
    """Computes the mean over classes of average precision, for any weighting of the rows.

    Average precision is the area under the precision as a function of recall, each precision
    raised to the highest one at that recall or above.

    Parameters
    ----------
    targets : ndarray of shape (n, K), bool
    scores : ndarray of shape (n, K)

    References
    ----------
    M. Everingham et al., "The PASCAL Visual Object Classes challenge 2012 development kit",
    section 3.4.1.
    """

    def __init__(self, targets: Array, scores: Array) -> None:
        self.order = np.argsort(-scores, axis=0, kind="stable")
        self.hits = np.take_along_axis(targets, self.order, axis=0)

    def __call__(self, weights: Array | None = None) -> dict[str, float]:
        """Return ``{"voc_map": ...}``, empty where no class has a positive row."""
        found = self.per_class(weights)
        known = found[~np.isnan(found)]
        return {"voc_map": float(known.mean())} if len(known) else {}

    def per_class(self, weights: Array | None = None) -> Array:
        """Return the average precision of each class, NaN where it has no positive row."""
        w = np.ones(len(self.order)) if weights is None else weights
        w = w[self.order]
        right = np.cumsum(w * self.hits, axis=0)
        every = np.cumsum(w, axis=0)
        precision = np.divide(right, every, out=np.zeros_like(right), where=every > 0)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        area = (np.diff(right, axis=0, prepend=0) * envelope).sum(axis=0)
        nothing = np.full(len(area), np.nan)
        return np.divide(area, right[-1], out=nothing, where=right[-1] > 0)


def _folds(positive: Array, units: Int, k: int, seed: int) -> list[tuple[Int, Int]]:
    from sklearn.model_selection import StratifiedKFold

    unit = np.unique(units, return_inverse=True)[1]
    if int(unit.max()) + 1 == len(unit):
        return list(StratifiedKFold(k).split(positive, positive))
    fold = deal(positive.astype(np.intp), unit, k, np.random.default_rng(seed))
    return [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(k)]
