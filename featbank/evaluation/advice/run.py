"""The measurement: each layer's features and each share of the labels scored on the same folds."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.advice.decision import WORTH, Figures, decide
from featbank.evaluation.advice.result import Advice, LayerChosen, LayerScore, SharePoint
from featbank.evaluation.assembly import Scored, evaluation_result, head_result
from featbank.evaluation.crossval import cross_validate
from featbank.evaluation.curves import judge
from featbank.evaluation.fitting import Candidate, candidates, fit, watched
from featbank.evaluation.folds import Int
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.parallel import Progress, run
from featbank.evaluation.plan import Part, Plan, plan, plan_final
from featbank.evaluation.result import EvaluationResult
from featbank.evaluation.select import QUICK
from featbank.evaluation.transferability import logme
from featbank.heads.outputs import outputs
from featbank.heads.registry import grid, head_name, make_head
from featbank.heads.sweep import sweep

__all__ = ["measure"]

Array = npt.NDArray[Any]

EIGHTHS = (1, 2, 4, 8)
"""Shares of the labels that are learned from."""

LEAST_DRAWS, MOST_DRAWS = 5, 10

_CHOSEN = "chosen inside"


@dataclass(frozen=True)
class _Fit:
    """One part scored, and what the head scored in its inner folds; NaN where there are none."""

    scored: Scored
    inside: float


@dataclass(frozen=True)
class _Layer:
    """One layer's fits, a part each, and its figures beside."""

    fits: list[_Fit]
    width: int
    quick: dict[str, Estimate]
    logme: float


def measure(
    blocks: Mapping[str, Any],
    y: Any,
    head: Any = "logreg",
    *,
    last: str | None = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    cv: int | float | None = None,
    repeats: int = 1,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    metric_weight: Any = None,
    keep_copies: bool = False,
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Measure what decides between frozen features and fine-tuning, and decide.

    Whatever is fitted or chosen is so inside training parts.

    Parameters
    ----------
    blocks : mapping of str to array-like of shape (n, d)
        Features of the same images by layer; d may differ. One after the other is read.
    y, cv, repeats, splits, groups, digests, keep_copies, metric_weight
        As in `featbank.cross_validate`.
    tune, params, random_state, n_jobs
        As there.
    head : str or estimator
        What layers are compared by.
    last : str, optional
        The layer that earlier ones are compared with: the input of the final classifier.
    progress : callable, optional
        Called as ``progress(done, total)`` after each layer, and after the shares of the labels.

    Returns
    -------
    Advice
        Without commands.

    Raises
    ------
    EvaluationError, HeadError

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> advice = measure({"sepal": X[:, :2], "petal": X[:, 2:]}, y, last="petal")
    >>> advice.decision.action, advice.decision.likeness
    ('head', 'similar')
    """
    if not blocks:
        raise EvaluationError("there are no features to measure.")
    if last is not None and last not in blocks:
        raise EvaluationError(f"there are no features {last!r}: {nearest(last, blocks)}")
    bound = {
        "splits": splits,
        "groups": groups,
        "digests": digests,
        "metric_weight": metric_weight,
        "keep_copies": keep_copies,
    }
    seed = {"random_state": random_state, "n_jobs": n_jobs}
    layers: dict[str, _Layer] = {}
    notes: dict[str, None] = {}
    for name in blocks:
        X = np.asarray(blocks[name])
        data = checked(X, y, **bound)
        made = _clean(plan(data, cv=cv, repeats=repeats, seed=random_state))
        candidate = _candidate(head, data, tune, params, random_state)
        fits = _fits(candidate, data, made, n_jobs)
        layers[name] = _Layer(
            fits, data.X.shape[1], _quick(X, y, cv, repeats, candidate.scoring, bound, seed),
            float(np.mean([logme(data.X[p.train], data.y[p.train]) for p in made.parts])),
        )  # fmt: skip
        told = [note for one in fits for note in one.scored.notes]
        notes |= dict.fromkeys(f"{name}: {note}" for note in (*data.notes, *told))
        if progress is not None:
            progress(len(layers), len(blocks) + 1)
    result, chosen = _result(layers, last, made, data, len(X), random_state)
    metric = candidate.scoring
    base = last or max(layers, key=lambda name: result[name].metrics[metric].mean)
    data = checked(np.asarray(blocks[base]), y, **bound)
    labels, gain = _by_labels(
        candidate, data, made, layers[base].fits, metric, random_state, n_jobs
    )
    if progress is not None:
        progress(len(blocks) + 1, len(blocks) + 1)
    scores = tuple(_score_of(name, layers[name], result, last, metric) for name in layers)
    figures = Figures(
        class_sizes=result.class_sizes,
        score=result[base].metrics[metric],
        balanced=tuple(one.balanced for one in scores),
        gain=gain,
        earlier={one.name: one.difference for one in scores if one.difference is not None},
        choice=None if chosen is None else chosen.gain,
    )
    own = [note for note in result.notes if note not in data.notes]
    return Advice(
        decision=decide(figures),
        layers=tuple(sorted(scores, key=lambda one: one.name == last)),
        last=last,
        chosen=chosen,
        labels=labels,
        labels_of=base,
        gain=gain,
        head=head_name(head),
        metric=metric,
        protocol=result.protocol,
        images=result.images,
        class_sizes=dict(zip(result.classes, result.class_sizes, strict=True)),
        notes=(*_common(notes, layers), *own),
    )


def _clean(made: Plan) -> Plan:
    """Return the plan without copies of what is scored on among what is learned from."""
    if made.clean is None:
        return made
    said = (
        note.replace("the score without them stands beside", "they were not learned from")
        for note in made.notes
    )
    return dataclasses.replace(made, parts=(made.clean,), clean=None, notes=tuple(said))


def _candidate(
    head: Any, data: Inputs, tune: bool, params: Mapping[str, Any] | None, seed: int
) -> Candidate:
    """Return the head, chosen and scored by balanced accuracy where classes differ tenfold."""
    sizes = np.bincount(data.codes)
    metric = "balanced_accuracy" if sizes.max() >= 10 * sizes.min() else "accuracy"
    (found,) = candidates(
        [head],
        params=params,
        tune=tune,
        class_weight=None,
        calibrate=False,
        scoring=metric,
        seed=seed,
    )
    return found


def _fits(candidate: Candidate, data: Inputs, made: Plan, n_jobs: int | None) -> list[_Fit]:
    tasks = [(candidate, data, part) for part in made.parts]
    work = data.X.shape[0] * data.X.shape[1] * len(tasks)
    return list(run(_fit, tasks, n_jobs=n_jobs, work=work))


def _fit(candidate: Candidate, data: Inputs, part: Part) -> _Fit:
    """Fit on the part's training rows, predict its test rows, and look into its inner folds."""
    start = time.perf_counter()
    X, y = data.X[part.train], data.y[part.train]
    fitted = fit(candidate, X, y, part.inner, across=part.across)
    known = np.searchsorted(data.classes, fitted.estimator.classes_)
    told = outputs(fitted.estimator, data.X[part.test]).among(known, len(data.classes))
    seconds = time.perf_counter() - start
    best, inside = fitted.best_params, float("nan")
    if part.inner:
        own = candidate.estimator.get_params()
        values = {key: [best.get(key, own[key])] for key in grid(candidate.head)}
        with watched(candidate.name, len(y)):
            inside = sweep(
                candidate.estimator, values, X, y, part.inner, scoring=candidate.scoring
            ).best_score
    return _Fit(Scored.of(part, told, data, seconds, best_params=best, notes=fitted.notes), inside)


def _quick(
    X: Array,
    y: Any,
    cv: int | float | None,
    repeats: int,
    metric: str,
    bound: dict[str, Any],
    seed: dict[str, Any],
) -> dict[str, Estimate]:
    """Return the scores of ridge regression and of nearest neighbours."""
    heads = [make_head(name, **words) for name, words in QUICK.values()]
    found = cross_validate(
        X, y, heads, cv=cv, repeats=repeats, tune=False, calibrate=False, **bound, **seed
    )
    return {
        name: (one.without_duplicates or one.metrics)[metric]
        for name, one in zip(QUICK, found.heads, strict=True)
    }


def _result(
    layers: Mapping[str, _Layer], last: str | None, made: Plan, data: Inputs, n: int, seed: int
) -> tuple[EvaluationResult, LayerChosen | None]:
    """Put layers together as heads of one result, and what choosing among them inside brings."""
    scored = {name: [one.scored for one in layer.fits] for name, layer in layers.items()}
    times: Counter[str] = Counter()
    order = sorted(layers, key=lambda name: name != last)  # of equals the last layer
    inside = np.array([[one.inside for one in layers[name].fits] for name in order])
    if last is not None and len(order) > 1 and np.isfinite(inside).all():
        winners = [order[i] for i in inside.argmax(axis=0)]
        times.update(winners)
        scored[_CHOSEN] = [scored[name][i] for i, name in enumerate(winners)]
    heads = [head_result(name, ones, made, data) for name, ones in scored.items()]
    result = evaluation_result(heads, made, data, n=n, seed=seed)
    if not times or last is None:
        return result, None
    metric = "balanced_accuracy" if result.imbalanced else "accuracy"
    gain = result.compare(_CHOSEN, last, metric)
    return result, LayerChosen(result[_CHOSEN].metrics[metric], gain, dict(times))


def _score_of(
    name: str, layer: _Layer, result: EvaluationResult, last: str | None, metric: str
) -> LayerScore:
    own = result[name].metrics
    alone = last is None or name == last
    return LayerScore(
        name=name,
        width=layer.width,
        score=own[metric],
        balanced=own["balanced_accuracy"],
        difference=None if alone else result.compare(name, str(last), metric),
        quick=layer.quick,
        logme=layer.logme,
    )


def _by_labels(
    candidate: Candidate,
    data: Inputs,
    made: Plan,
    whole: Sequence[_Fit],
    metric: str,
    seed: int,
    n_jobs: int | None,
) -> tuple[tuple[SharePoint, ...], Estimate]:
    """Score draws of 1/8, 1/4 and 1/2 of each class's labels, each within the next, beside all."""
    draws = min(max(len(made.parts), LEAST_DRAWS), MOST_DRAWS)
    parts = [made.parts[i % len(made.parts)] for i in range(draws)]
    orders = [_order(data, part, [seed, draw]) for draw, part in enumerate(parts)]
    tasks = [
        (candidate, data, np.concatenate([rows[: -(-len(rows) * n // 8)] for rows in order]),
         part.test, seed)
        for order, part in zip(orders, parts, strict=True)
        for n in EIGHTHS[:-1]
    ]  # fmt: skip
    drawn = list(run(_hits, tasks, n_jobs=n_jobs))
    scored = []
    for i, part in enumerate(parts):
        scored += drawn[i * (len(EIGHTHS) - 1) : (i + 1) * (len(EIGHTHS) - 1)]
        own = whole[i % len(made.parts)].scored
        scored.append(
            judge.Scored(own.outputs.codes == own.meter.y, len(part.train), own.seconds, ())
        )
    curve = judge.head_curve(candidate.name, scored, EIGHTHS, parts, data, metric, WORTH)
    found = [point.metrics[metric] for point in curve.points]
    gained = tuple(b - a for a, b in zip(found[-2].values, found[-1].values, strict=True))
    gain = curve.gains[-1]
    labels = tuple(
        SharePoint(n / 8, point.images, estimate)
        for n, point, estimate in zip(EIGHTHS, curve.points, found, strict=True)
    )
    return labels, Estimate(gain.mean, gain.low, gain.high, gained)


def _order(data: Inputs, part: Part, seed: Sequence[int]) -> list[Int]:
    """Return each class's rows of the training part in random order."""
    rows = np.random.default_rng([*seed]).permutation(part.train)
    return [rows[data.codes[rows] == c] for c in range(len(data.classes))]


def _hits(candidate: Candidate, data: Inputs, train: Int, test: Int, seed: int) -> judge.Scored:
    start = time.perf_counter()
    drawn = data.take(train)
    fitted = fit(candidate, drawn.X, drawn.y, plan_final(drawn, seed=seed).inner)
    hits = np.asarray(fitted.estimator.predict(data.X[test])) == data.y[test]
    return judge.Scored(hits, len(train), time.perf_counter() - start, ())


def _common(notes: Mapping[str, None], layers: Mapping[str, Any]) -> list[str]:
    """Return notes on layers, those on all of them once."""
    told: dict[str, list[str]] = {}
    for note in notes:
        name = next(name for name in layers if note.startswith(f"{name}: "))
        told.setdefault(note.removeprefix(f"{name}: "), []).append(name)
    return [
        note if len(names) == len(layers) else f"{', '.join(names)}: {note}"
        for note, names in told.items()
    ]
