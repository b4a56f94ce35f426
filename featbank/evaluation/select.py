"""Selection of features: layers, backbones and their joins ranked on the same folds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.comparison import adjusted, judged_parts
from featbank.evaluation.crossval import cross_validate
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.intervals import Estimate, estimates
from featbank.evaluation.parallel import Progress, run
from featbank.evaluation.plan import Part, plan
from featbank.evaluation.ranking import FeatureSet, Ranking
from featbank.evaluation.result import EvaluationResult
from featbank.evaluation.transferability import logme
from featbank.heads.registry import head_name, make_head
from featbank.heads.sweep import sweep

__all__ = ["rank_features"]

Array = npt.NDArray[Any]

COMPONENTS = 128
"""Principal components that a block is reduced to in a reduced join."""

FORMS = ("", "weighted", "reduced")
"""How blocks are joined: as `fit` joins layers; scaled to the same variance; reduced before."""

QUICK = {"ridge": ("ridge", {}), "1-nn": ("knn", {"n_neighbors": 1}),
         "5-nn": ("knn", {"n_neighbors": 5})}  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """Features to be ranked: how to read them, and how heads see them."""

    name: str
    members: tuple[str, ...]
    form: str = ""

    def head(self, estimator: Any, widths: Sequence[int]) -> Any:
        """Return a head for features with these widths side by side."""
        if not self.form:
            return estimator
        from featbank.heads.columns import joined_head

        ends = np.cumsum([0, *widths]).tolist()
        places = dict(zip(self.members, pairwise(ends), strict=True))
        return joined_head(estimator, places, COMPONENTS if self.form == "reduced" else None)


@dataclass(frozen=True)
class _Ranked:
    """What was found of one entry; `inside` has the inner score of each training part."""

    entry: _Entry
    widths: tuple[int, ...]
    bytes: int
    result: EvaluationResult
    logme: float | None
    inside: tuple[float, ...]


def rank_features(
    blocks: Mapping[str, Any],
    y: Any,
    head: Any = "logreg",
    *,
    joins: Sequence[Sequence[str]] = (),
    params: Mapping[str, Any] | None = None,
    cv: int | float | None = None,
    repeats: int = 1,
    splits: Any = None,
    groups: Any = None,
    digests: Any = None,
    metric_weight: Any = None,
    keep_copies: bool = False,
    costs: Mapping[str, float] | None = None,
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank features of the same images by the accuracy of one head on the same folds.

    Beside it stand quicker measures: ridge regression, nearest neighbours by cosine similarity, and
    LogME. Whatever is fitted is fitted inside the folds; nothing is tuned, so that features differ
    in nothing else.

    Parameters
    ----------
    blocks : mapping of str to array-like of shape (n, d)
        The features by name; d may differ. One after the other is read, those of a join together.
    y, cv, repeats, splits, groups, digests, keep_copies, metric_weight, random_state, n_jobs
        As in `featbank.cross_validate`.
    head : str or estimator
        What ranks.
    joins : sequence of sequences of str
        Names of blocks to be joined, each join in three forms: side by side, every column scaled,
        as ``fit`` joins layers; "weighted", so that blocks have the same variance, whatever their
        width; "reduced", each to 128 principal components first.
    params : mapping, optional
        Parameters of the head.
    costs : mapping of str to float, optional
        Milliseconds an image, by block, told beside. A join costs the sum.
    progress : callable, optional
        Called as ``progress(done, total)`` after each candidate.

    Returns
    -------
    Ranking

    Raises
    ------
    EvaluationError, HeadError

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> ranking = rank_features({"sepal": X[:, :2], "petal": X[:, 2:]}, y, "lda")
    >>> ranking.best.name
    'petal'
    """
    entries = _entries(blocks, joins)
    base = make_head(head, random_state=random_state, **(params or {}))
    bound = {
        "splits": splits,
        "groups": groups,
        "digests": digests,
        "metric_weight": metric_weight,
        "keep_copies": keep_copies,
    }
    scored = []
    for done, entry in enumerate(entries):
        read = [np.asarray(blocks[name]) for name in entry.members]
        widths = tuple(block.shape[1] for block in read)
        X = read[0] if len(read) == 1 else np.concatenate(read, axis=1)
        data = checked(X, y, **bound)
        parts = plan(data, cv=cv, repeats=repeats, seed=random_state).parts
        heads = [entry.head(base, widths), *([] if entry.form else _quick_heads(parts))]
        result = cross_validate(
            X,
            y,
            heads,
            cv=cv,
            repeats=repeats,
            tune=False,
            calibrate=False,
            random_state=random_state,
            n_jobs=n_jobs,
            **bound,
        )
        alone = len(entries) == 1
        scored.append(
            _Ranked(
                entry=entry,
                widths=widths,
                bytes=sum(
                    width * block.itemsize for width, block in zip(widths, read, strict=True)
                ),
                result=result,
                logme=_evidence(data, parts) if len(read) == 1 else None,
                inside=() if alone else _inside(heads[0], data, parts, n_jobs),
            )
        )
        if progress is not None:
            progress(done + 1, len(entries))
    return _ranking(scored, head_name(head), costs or {})


def check_join(join: Sequence[str], names: Iterable[str]) -> None:
    """Refuse a join of what is not there, or of one.

    Raises
    ------
    EvaluationError
    """
    names = list(names)
    for name in join:
        if name not in names:
            raise EvaluationError(f"there are no features {name!r}: {nearest(name, names)}")
    if len(set(join)) < 2:
        raise EvaluationError(f"a join takes two or more features, not {list(join)}.")


def _entries(blocks: Mapping[str, Array], joins: Sequence[Sequence[str]]) -> list[_Entry]:
    if not blocks:
        raise EvaluationError("there are no features to rank.")
    entries = [_Entry(name, (name,)) for name in blocks]
    for join in dict.fromkeys(tuple(dict.fromkeys(join)) for join in joins):
        check_join(join, blocks)
        title = "all" if len(join) == len(blocks) > 2 else " + ".join(join)
        entries += [_Entry(f"{title}, {form}" if form else title, join, form) for form in FORMS]
    return entries


def _quick_heads(parts: Sequence[Part]) -> list[Any]:
    """Return the heads of `QUICK`, which ask for no more neighbours than there are."""
    most = min(len(part.train) for part in parts)
    return [
        make_head(name, **{key: min(value, most) for key, value in words.items()})
        for name, words in QUICK.values()
    ]


def _evidence(data: Inputs, parts: Sequence[Part]) -> float:
    """Return LogME of the training parts, their mean."""
    return float(np.mean([logme(data.X[p.train], data.y[p.train]) for p in parts]))


def _inside(
    estimator: Any, data: Inputs, parts: Sequence[Part], n_jobs: int | None
) -> tuple[float, ...]:
    """Return the accuracy in the inner folds of each training part; none where there are none."""
    if not all(part.inner for part in parts):
        return ()
    tasks = [(estimator, data.X, data.y, part) for part in parts]
    return tuple(run(_inner_score, tasks, n_jobs=n_jobs))


def _inner_score(estimator: Any, X: Array, y: Array, part: Part) -> float:
    X, y = X[part.train], y[part.train]
    return sweep(estimator, {}, X, y, part.inner, scoring="accuracy").best_score


def _ranking(scored: Sequence[_Ranked], head: str, costs: Mapping[str, float]) -> Ranking:
    """Put what was found in order, compare it with the best, and choose inside training parts."""
    first = scored[0].result
    common = [n for n in first.notes if all(n in one.result.notes for one in scored)]
    heads = tuple(dataclasses.replace(one.result.heads[0], head=one.entry.name) for one in scored)
    result = dataclasses.replace(first, heads=heads)
    best = max(heads, key=lambda one: one.metrics["accuracy"].mean)
    features = [
        FeatureSet(
            name=own.head,
            width=sum(one.widths),
            bytes=one.bytes,
            accuracy=own.metrics["accuracy"],
            difference=None if own is best else result.compare(own.head, best.head),
            quick={
                name: quick.metrics["accuracy"]
                for name, quick in zip(QUICK, one.result.heads[1:], strict=False)
            },
            logme=one.logme,
            cost=_cost(one.entry.members, costs),
            seconds=sum(each.seconds for each in one.result.heads),
        )
        for one, own in zip(scored, heads, strict=True)
    ]
    notes = dict.fromkeys(common)
    for one in scored:
        own_notes = one.result.notes if len(one.entry.members) == 1 else ()
        for note in (*own_notes, *one.result.heads[0].notes):
            if note not in common:
                notes[f"{one.entry.name}: {note}"] = None
    found = adjusted(heads, best.head, ["accuracy"])
    nested, chosen = _nested(result, scored)
    if nested is None and len(scored) > 1:
        notes[_TOO_SMALL] = None
    return Ranking(
        features=tuple(
            sorted(features, key=lambda one: (one.difference is not None, -one.accuracy.mean))
        ),
        head=head,
        nested=nested,
        chosen=chosen,
        protocol=first.protocol,
        images=first.images,
        classes=first.classes,
        notes=tuple(notes),
        baselines=result.baselines,
        method=result.method,
        p_values={name: p["accuracy"] for name, p in found.items()},
    )


_TOO_SMALL = (
    "a class is too small to choose features inside training parts; the best score is optimistic, "
    "for the folds that show it also chose it."
)


def _nested(
    result: EvaluationResult, scored: Sequence[_Ranked]
) -> tuple[Estimate | None, dict[str, int]]:
    """Choose in each training part by its inner folds, the first of equals; score outside."""
    if len(scored) < 2 or not all(one.inside for one in scored):
        return None, {}
    winners = np.array([one.inside for one in scored]).argmax(axis=0)
    chosen = Counter(result.heads[i].head for i in winners)
    meters, tested = zip(*(judged_parts(head) for head in result.heads), strict=True)
    outside = [meters[head][part] for part, head in enumerate(winners)]
    return estimates(outside, tested[0])["accuracy"], dict(chosen)


def _cost(members: Sequence[str], costs: Mapping[str, float]) -> float | None:
    known = [costs[name] for name in members if name in costs]
    return sum(known) if len(known) == len(members) else None
