"""The run of a protocol: from features and labels to its result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError
from featbank.evaluation.fitting import noted
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.protocols.judge import Judge
from featbank.evaluation.protocols.registry import Protocol, find_protocol
from featbank.evaluation.protocols.result import ProtocolResult, Setting
from featbank.evaluation.protocols.rows import labels_of, parts_of, with_split
from featbank.evaluation.protocols.task import Outcome, Task, Trial

__all__ = ["ProtocolResult", "run_protocol"]

Array = npt.NDArray[Any]


def run_protocol(
    X: Any,
    y: Any,
    protocol: str = "clip-linear",
    *,
    splits: Any = None,
    cv: float | None = None,
    groups: Any = None,
    digests: Any = None,
    keep_copies: bool = False,
    near_duplicates: float | None = None,
    metric_weight: Any = None,
    head: Any = None,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProtocolResult:
    """Score features by a published protocol.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Features as the network gives them: the protocol says whether and how they are scaled.
    y : array-like of shape (n,), or of shape (n, K)
        Classes, text or whole numbers; rows of None are left out. With ``voc07-svm`` also a set of
        classes a row, or an indicator matrix.
    protocol : str
        A name that `list_protocols` lists.
    splits : sequence of {"train", "valid", "test", None}, optional
        Given splits. Test is scored once and chooses nothing. Where there is no test, valid is
        scored and nothing is chosen on it. Where there is no valid, the protocol's own rule holds
        some of train out, and a note says so. Rows of None are left out.
    cv : float, optional
        Where there are no splits: the share of each class that is held out as test.
    groups, digests, keep_copies, near_duplicates
        As in `featbank.cross_validate`: what splits that are made here keep together. The score
        without learning from copies of test images stands beside.
    metric_weight : array-like of shape (n,), optional
        1 or 0: rows of 0 are fitted on and never scored. The protocol says how the others count.
    head : str or estimator, optional
        With ``vtab1k`` only, which leaves it open; see `featbank.make_head`.
    random_state : int, default=0
        Seed of splits that are made here and of solvers.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    ProtocolResult

    Raises
    ------
    EvaluationError
        The protocol is unknown, there is nothing to score on, or the images are too few.

    Notes
    -----
    Intervals are of 95 %: for one fit over test images drawn with replacement
    (`featbank.evaluation.intervals.bootstrap`); for several seeds Student's t over the seeds, which
    share the test images and so speak of what was drawn to learn from alone.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> result = run_protocol(X, y, "clip-linear", cv=0.3)
    >>> result.test, result["logreg"].metrics["accuracy"].mean > 0.9
    (45, True)
    """
    found = find_protocol(protocol)
    if not isinstance(random_state, int | np.integer) or random_state < 0:
        raise EvaluationError(f"random_state is a whole number from 0 up, not {random_state!r}.")
    constants = dict(found.constants)
    if head is not None:
        if "head" not in constants:
            raise EvaluationError(
                f"{protocol} says what is fitted, and head was given; leave it out, or take vtab1k."
            )
        constants["head"] = head
    labels, sets = labels_of(y, protocol)
    labels, apart = with_split(labels, splits)
    data = checked(
        X,
        labels,
        groups=groups,
        digests=digests,
        splits=splits,
        near=near_duplicates,
        metric_weight=metric_weight,
        keep_copies=keep_copies,
    )
    train, valid, test, notes = parts_of(data, protocol, cv, random_state)
    if data.metric_weight is not None:
        test = _scorable(test, data.metric_weight, protocol)
    if apart:
        notes.append(f"{apart} rows without a split were left out.")
    task = Task(
        X=data.X,
        y=data.codes,
        targets=data.codes[:, None] == np.arange(len(data.classes)),
        classes=tuple(str(c) for c in data.classes),
        units=data.units,
        train=train,
        valid=valid,
        test=test,
        seed=random_state,
        tick=progress or (lambda done, total: None),
    )
    if sets is None:
        _see_classes(task)
    else:
        task = replace(task, targets=sets.indicator[data.rows], classes=sets.classes)
    outcome, warned = _run(found, task, constants)
    clean, told = _without_copies(found, task, constants, data, single=sets is None)
    judge = Judge(task, sets is None, constants["metric"] == "voc_map")
    return ProtocolResult(
        protocol=protocol,
        description=found.description,
        constants={
            key: value if _plain(value) else repr(value) for key, value in constants.items()
        },
        settings=tuple(
            _setting(name, trials, clean.get(name), judge) for name, trials in outcome.settings()
        ),
        train=len(train),
        valid=0 if valid is None else len(valid),
        test=len(test),
        rows=data.rows[test],
        y_true=task.y[test] if sets is None else task.targets[test],
        classes=task.classes,
        duplicates=data.duplicates,
        random_state=int(random_state),
        notes=tuple(dict.fromkeys((*data.notes, *notes, *outcome.notes, *warned, *told))),
    )


def _scorable(test: Int, weight: Array, protocol: str) -> Int:
    """Return the test rows of weight 1."""
    if not np.isin(weight, (0, 1)).all():
        raise EvaluationError(
            f"{protocol} says how rows count in its metric; give metric weights of 0 and 1 alone."
        )
    if not weight[test].any():
        raise EvaluationError(
            "every image of test has the metric weight 0, so that nothing is left to score; "
            "give another split."
        )
    return test[weight[test] > 0]


def _see_classes(task: Task) -> None:
    lacking = np.setdiff1d(task.y, task.y[task.train])
    if len(lacking):
        names = ", ".join(repr(task.classes[k]) for k in lacking[:5])
        raise EvaluationError(
            f"class {names} has images, and none of them in train; leave it out, or give other "
            "splits."
        )


def _run(
    found: Protocol, task: Task, constants: Mapping[str, Any]
) -> tuple[Outcome, tuple[str, ...]]:
    """Run it, and turn its fits' warnings into notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = found.run(task, constants)
    return outcome, tuple(noted(caught))


def _without_copies(
    found: Protocol, task: Task, constants: Mapping[str, Any], data: Inputs, *, single: bool
) -> tuple[dict[str, tuple[Trial, ...]], list[str]]:
    """Run it without the rows whose copies are scored on, if there are any."""
    if data.copies is None:
        return {}, []
    copies = np.isin(data.copies, data.copies[task.test])
    many = int(copies[task.learned].sum())
    if not many:
        return {}, []
    kind = "copies" if data.near is None else "copies or near-duplicates"
    told = f"{many} images to learn from are {kind} of images of test; the score without them "
    try:
        smaller = task.without(copies)
        if single:
            _see_classes(smaller)
        outcome, _ = _run(found, smaller, constants)
    except EvaluationError as error:
        return {}, [f"{told}can't be had: {error}"]
    return dict(outcome.settings()), [f"{told}stands beside."]


def _setting(
    name: str, trials: Sequence[Trial], clean: Sequence[Trial] | None, judge: Judge
) -> Setting:
    told = [trial.told for trial in trials]
    scores = [one.scores for one in told if one.scores is not None]
    return Setting(
        head=name,
        metrics=judge.estimates(trials),
        chosen=tuple(trial.chosen for trial in trials),
        per_class=judge.per_class(told[0]),
        predicted=np.stack([one.codes for one in told]),
        scores=np.stack(scores) if len(scores) == len(told) else None,
        seconds=sum(trial.seconds for trial in trials),
        without_duplicates=None if clean is None else judge.estimates(clean),
    )


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str | list)
