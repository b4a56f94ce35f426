"""Protocols of logistic regression: `clip_linear`, `dinov2_logreg`, `vtab1k`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.fitting import candidates, fit
from featbank.evaluation.folds import Int
from featbank.evaluation.protocols.task import Outcome, Task, Trial, told
from featbank.heads.sweep import sweep

__all__ = ["clip_linear", "dinov2_logreg", "vtab1k"]

Array = npt.NDArray[Any]

TOLD = 9
"""Values of C between two reports of progress."""


def clip_linear(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Find C coarse to fine on valid, and refit on train and valid.

    The values are ``10**(low + i / steps_per_decade)``. Every 16th is scored first; then, with the
    step halved each time until it is 1, the neighbours of the best so far, the smallest C of equal
    ones.

    Notes
    -----
    Paper: appendix A.3. It counts 96 steps at 8 a decade, which are 97 values; the value 0.316 of
    the README's example is one of them (i = 44), and would be none of 96 values evenly laid from
    1e-6 to 1e6. Features are as the network gives them: neither paper nor README scales them. The
    share held out where there is no valid and the choice among equal scores are ours.
    """
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    task, notes = task.with_valid(constants["valid_share"])
    low, high = constants["exponents"]
    last = (high - low) * constants["steps_per_decade"]
    step = constants["coarse_step"]
    stages = int(np.log2(step)) + 2
    head = LogisticRegression(solver=constants["solver"], max_iter=constants["max_iter"])
    scores: dict[int, float] = {}
    wanted = list(range(0, last + 1, step))
    for done in range(1, stages):
        new = [i for i in wanted if 0 <= i <= last and i not in scores]
        if new:
            values = [_power(low, i, constants) for i in new]
            scores.update(zip(new, _accuracies(head, values, task), strict=True))
        best = max(sorted(scores), key=lambda i: scores[i])
        step //= 2
        wanted = [best - step, best + step]
        task.tick(done, stages)
    C = _power(low, best, constants)
    head.set_params(C=C).fit(task.X[task.learned], task.y[task.learned])
    task.tick(stages, stages)
    trial = Trial("logreg", {"C": C}, told(head, task), time.perf_counter() - start)
    return Outcome((trial,), notes)


def dinov2_logreg(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Choose C on a tenth of train, drawn by chance, or on valid; refit on all of both.

    Notes
    -----
    Code: dinov2/eval/log_regression.py. Features are not normalised there (for the nearest
    neighbours they are), are taken to float64, and the held-out tenth is not stratified. Of equal
    scores the first counts, which has the smallest C. cuML's solver with a tolerance of 1e-12
    stands there, scikit-learn's solver of the same objective here.
    """
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    task = replace(task, X=task.X.astype(constants["dtype"]))
    notes: tuple[str, ...] = ()
    if task.valid is None:
        drawn = _by_chance(task.train, task)
        n = int(len(drawn) * constants["valid_share"])
        # A unit that begins among the first n goes there whole.
        held = np.isin(task.units[task.train], task.units[drawn[:n]])
        if not held.any() or held.all():
            raise EvaluationError(
                f"{len(task.train)} images to learn from are too few to hold a tenth of them out; "
                "add some, or give a split valid."
            )
        task = replace(task, train=task.train[~held], valid=task.train[held])
        notes = (f"no split valid: C is chosen on {held.sum()} images of train, drawn by chance.",)
    low, high = constants["exponents"]
    values = (10 ** np.linspace(low, high, constants["values"])).tolist()
    head = LogisticRegression(max_iter=constants["max_iter"], tol=constants["tol"])
    scores: list[float] = []
    for first in range(0, len(values), TOLD):
        scores += _accuracies(head, values[first : first + TOLD], task).tolist()
        task.tick(len(scores), len(values) + 1)
    best = int(np.argmax(scores))
    head.set_params(C=values[best]).fit(task.X[task.learned], task.y[task.learned])
    task.tick(len(values) + 1, len(values) + 1)
    trial = Trial("logreg", {"C": values[best]}, told(head, task), time.perf_counter() - start)
    return Outcome((trial,), notes)


def vtab1k(task: Task, constants: Mapping[str, Any]) -> Outcome:
    """Choose on 200 images what 800 others learned, refit on the 1,000, and score all of test.

    Notes
    -----
    Paper: arXiv:1910.04867. Code: task_adaptation/data/*.py, the splits train800, val200 and
    train800val200: the first 800 of train, and the first 200 of a tenth that is apart. Here both
    are drawn by chance, for the order of a folder is none. The benchmark leaves open what is
    trained; its own code fine-tunes the network. Here it is ``logreg`` with its scaling and grid,
    unless another head is named. The metric is top-1 accuracy.
    """
    n_fit, n_choose = constants["train"], constants["valid"]
    drawn = _by_chance(task.train, task)
    first, rest = drawn[:n_fit], drawn[n_fit:]
    rest = rest[~np.isin(task.units[rest], task.units[first])]
    second = (rest if task.valid is None else _by_chance(task.valid, task))[:n_choose]
    if len(first) < n_fit or len(second) < n_choose:
        given = f"{len(task.train)} images of train"
        if task.valid is not None:
            given += f" and {len(task.valid)} of valid"
        raise EvaluationError(
            f"vtab1k learns from {n_fit} images and chooses on {n_choose} others, and there are "
            f"{given}; a few-shot protocol needs fewer."
        )
    both = np.concatenate([first, second])
    (candidate,) = candidates(
        [constants["head"]],
        params=None,
        tune=True,
        class_weight=None,
        calibrate=False,
        scoring="accuracy",
        seed=task.seed,
    )
    position = np.arange(len(both))
    inner = ((position[:n_fit], position[n_fit:]),)
    fitted = fit(candidate, task.X[both], task.y[both], inner)
    task.tick(1, 1)
    lacking = [name for k, name in enumerate(task.classes) if k not in set(task.y[both])]
    notes = list(fitted.notes)
    if lacking:
        many = "class" if len(lacking) == 1 else "classes"
        notes.append(
            f"none of the {len(both)} drawn images is of {many} {', '.join(map(repr, lacking[:5]))}"
            f"{', ...' if len(lacking) > 5 else ''}, so that none is predicted."
        )
    trial = Trial(candidate.name, fitted.best_params, told(fitted.estimator, task), fitted.seconds)
    return Outcome((trial,), tuple(notes))


def _power(low: int, i: int, constants: Mapping[str, Any]) -> float:
    return float(10.0 ** (low + i / constants["steps_per_decade"]))


def _accuracies(head: Any, values: list[float], task: Task) -> Array:
    """Return the accuracy on valid of a fit on train with each C, ascending.

    Values above one that is perfect are not tried, and have minus infinity: none of them is first.
    """
    assert task.valid is not None
    rows = task.learned
    position = np.arange(len(rows))
    fold = (position[: len(task.train)], position[len(task.train) :])
    return sweep(head, {"C": values}, task.X[rows], task.y[rows], [fold]).means


def _by_chance(rows: Int, task: Task) -> Int:
    """Return rows in an order by chance in which those of one unit are neighbours."""
    units = np.unique(task.units[rows], return_inverse=True)[1]
    rank = np.random.default_rng(task.seed).permutation(int(units.max()) + 1)
    return rows[np.argsort(rank[units], kind="stable")]
