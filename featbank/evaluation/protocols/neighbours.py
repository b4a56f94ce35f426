"""The protocol of nearest neighbours: `dinov2_knn`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.protocols.task import Outcome, Task, Trial
from featbank.heads.outputs import Outputs

__all__ = ["dinov2_knn"]

Array = npt.NDArray[Any]
BLOCK = 256


def dinov2_knn(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Let the k most similar rows of train vote, each with its softmax over cosine similarities.

    Notes
    -----
    Code: dinov2/eval/knn.py. The softmax runs over the neighbours of the largest k and smaller k
    add up its first terms, so that one search serves all; classes rank as with a softmax of their
    own. Every k is reported and none is chosen. The code fails where train has fewer rows than the
    largest k; here such k are left out.
    """
    start = time.perf_counter()
    ks = [k for k in constants["k"] if k <= len(task.train)]
    notes = []
    if not ks:
        raise EvaluationError(
            f"dinov2-knn asks {min(constants['k'])} neighbours at least, and there are "
            f"{len(task.train)} images to learn from; add some."
        )
    if len(ks) < len(constants["k"]):
        left = ", ".join(str(k) for k in constants["k"] if k not in ks)
        notes.append(f"k = {left} left out: there are {len(task.train)} images to learn from.")
    if task.valid is not None:
        notes.append(f"the {len(task.valid)} images of valid take no part in this protocol.")
    bank, labels = _unit_length(task.X[task.train]), task.y[task.train]
    votes = {k: np.zeros((len(task.test), len(task.classes))) for k in ks}
    for low in range(0, len(task.test), BLOCK):
        rows = slice(low, low + BLOCK)
        similar = _unit_length(task.X[task.test[rows]]) @ bank.T
        near = _largest(similar, max(ks))
        weights = np.take_along_axis(similar, near, axis=1).astype(np.float64)
        weights = np.exp((weights - weights[:, :1]) / constants["temperature"])
        weights /= weights.sum(axis=1, keepdims=True)
        for k, found in votes.items():
            line = np.repeat(np.arange(low, low + len(near)), k)
            np.add.at(found, (line, labels[near[:, :k]].ravel()), weights[:, :k].ravel())
        task.tick(min(low + BLOCK, len(task.test)), len(task.test))
    seconds = (time.perf_counter() - start) / len(ks)
    trials = [
        Trial(
            f"knn, k = {k}",
            {},
            Outputs(found.argmax(axis=1), found, found / found.sum(axis=1, keepdims=True)),
            seconds,
        )
        for k, found in votes.items()
    ]
    return Outcome(tuple(trials), tuple(notes))


def _unit_length(X: Array) -> Array:
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def _largest(values: Array, k: int) -> Array:
    """Return the columns of the k largest values of each row, the largest first."""
    found = np.argpartition(-values, k - 1, axis=1)[:, :k]
    found.sort(axis=1)  # equal values in the order of columns
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
