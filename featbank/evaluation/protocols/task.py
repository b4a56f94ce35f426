"""The task: the rows that a protocol learns from and scores, and what its fits say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.folds import Int, hold_out
from featbank.heads.outputs import Outputs, outputs

__all__ = ["Outcome", "Task", "Trial", "told"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Task:
    """Rows, by their positions.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32 or float64
    y : ndarray of shape (n,), intp
        Class codes; of no meaning where a row may have several classes.
    targets : ndarray of shape (n, K), bool
        The classes of each row.
    classes : tuple of str
    units : ndarray of shape (n,), intp
        Rows of equal unit are not parted by splits that are made here.
    train, test : ndarray of intp
    valid : ndarray of intp, or None
        None where no such rows were given.
    seed : int
        Of splits and solvers; the draws of few-shot protocols have seeds of their own.
    tick : callable
        Called as ``tick(done, total)``.
    """

    X: Array
    y: Int
    targets: Array
    classes: tuple[str, ...]
    units: Int
    train: Int
    valid: Int | None
    test: Int
    seed: int
    tick: Callable[[int, int], None]

    @property
    def learned(self) -> Int:
        """The rows of train and, where given, valid."""
        return self.train if self.valid is None else np.concatenate([self.train, self.valid])

    def with_valid(self, share: float) -> tuple[Task, tuple[str, ...]]:
        """Return the task with rows to choose on, `share` of each class of train if none are given.

        A class with one image keeps it in train.

        Raises
        ------
        EvaluationError
            No class has two images that may be parted.
        """
        if self.valid is not None:
            return self, ()
        several = np.flatnonzero(np.bincount(self.y[self.train])[self.y[self.train]] > 1)
        held = np.zeros(len(self.train), dtype=bool)
        if len(several):
            rows = self.train[several]
            y = np.unique(self.y[rows], return_inverse=True)[1]
            held[several] = hold_out(y, self.units[rows], share, np.random.default_rng(self.seed))
        if not held.any():
            raise EvaluationError(
                "the images to learn from are too few to hold some out to choose on; add some, or "
                "give a split valid."
            )
        made = replace(self, train=self.train[~held], valid=self.train[held])
        told = (
            f"no split valid: C is chosen on {held.sum()} images of train, {share:.0%} of a class."
        )
        return made, (told,)

    def without(self, rows: Array) -> Task:
        """Return the task without learning from `rows`, a bool array of shape (n,)."""
        valid = None if self.valid is None else self.valid[~rows[self.valid]]
        return replace(self, train=self.train[~rows[self.train]], valid=valid)


@dataclass(frozen=True)
class Trial:
    """One fit of a protocol and what it says of the test rows.

    Attributes
    ----------
    setting : str
        The line of the table that it belongs to; trials of one setting differ by their seeds.
    chosen : dict
    told : Outputs
        Columns are all classes of the task.
    seconds : float
    """

    setting: str
    chosen: dict[str, Any]
    told: Outputs
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """All trials of a protocol, and what a reader of them should know."""

    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()

    def settings(self) -> Iterator[tuple[str, tuple[Trial, ...]]]:
        """Yield each setting with its trials, in the order of the trials."""
        for name in dict.fromkeys(trial.setting for trial in self.trials):
            yield name, tuple(trial for trial in self.trials if trial.setting == name)


def told(estimator: Any, task: Task) -> Outputs:
    """Return what an estimator, fitted on class codes, says of the test rows, in all classes."""
    known = np.asarray(estimator.classes_)
    return outputs(estimator, task.X[task.test]).among(known, len(task.classes))
