"""Selection of features: layers, backbones and their joins ranked on the same folds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.crossval import cross_validate
from featbank.evaluation.inputs import Inputs, checked
from featbank.evaluation.metrics import Estimate, corrected_t, wilson
from featbank.evaluation.parallel import run
from featbank.evaluation.plan import Part, plan
from featbank.evaluation.result import EvaluationResult
from featbank.evaluation.text import aligned, interval, points
from featbank.evaluation.transferability import logme
from featbank.heads.registry import head_name, make_head
from featbank.heads.sweep import sweep

__all__ = ["FeatureSet", "Ranking", "rank_features"]

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

COMPONENTS = 128
"""Principal components that a block is reduced to in a reduced join."""

FORMS = ("", "weighted", "reduced")
"""How blocks are joined: as `fit` joins layers; scaled to the same variance; reduced before."""

QUICK = {"ridge": ("ridge", {}), "1-nn": ("knn", {"n_neighbors": 1}),
         "5-nn": ("knn", {"n_neighbors": 5})}  # fmt: skip


@dataclass(frozen=True)
class FeatureSet:
    """A layer, or several joined, and how good it is.

    Attributes
    ----------
    name : str
    width : int
        Columns.
    bytes : int
        Of an image's features.
    accuracy : Estimate
        Of the ranking head.
    difference : Estimate or None
        Its accuracy less that of the first in rank, paired over folds; None for the first.
    quick : dict of str to Estimate
        Accuracy of ridge regression and of the nearest and the five nearest neighbours; empty for
        joins that are weighted or reduced.
    logme : float or None
        `featbank.evaluation.transferability.logme` of the training parts, their mean; None for
        joins.
    cost : float or None
        Milliseconds an image takes the network, where that was measured.
    seconds : float
        Time of all these fits.
    """

    name: str
    width: int
    bytes: int
    accuracy: Estimate
    difference: Estimate | None
    quick: dict[str, Estimate]
    logme: float | None
    cost: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "features": self.name,
            "columns": self.width,
            "bytes": self.bytes,
            "accuracy": self.accuracy.to_dict(),
            "difference": self.difference and self.difference.to_dict(),
            "quick": {name: estimate.to_dict() for name, estimate in self.quick.items()},
            "logme": self.logme,
            "milliseconds": self.cost,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Ranking:
    """Features ranked by the accuracy of one head on the same folds.

    Attributes
    ----------
    features : tuple of FeatureSet
        The best first.
    head : str
    nested : Estimate or None
        Accuracy when features are chosen inside each training part, and scored outside; None where
        a class is too small to be parted again, or there is nothing to choose from.
    chosen : dict of str to int
        In how many training parts each was chosen.
    protocol : str
    images : int
    classes : tuple of str
    notes : tuple of str
    """

    features: tuple[FeatureSet, ...]
    head: str
    nested: Estimate | None
    chosen: dict[str, int]
    protocol: str
    images: int
    classes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> FeatureSet:
        """The first in rank."""
        return self.features[0]

    def __getitem__(self, name: str) -> FeatureSet:
        """Return the features of this name."""
        for found in self.features:
            if found.name == name:
                return found
        raise KeyError(f"{name!r} is none of {', '.join(f.name for f in self.features)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank select --json`` prints it."""
        return {
            "features": [one.to_dict() for one in self.features],
            "best": self.best.name,
            "head": self.head,
            "nested": self.nested and self.nested.to_dict(),
            "chosen": self.chosen,
            "protocol": self.protocol,
            "images": self.images,
            "classes": list(self.classes),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """Return the ranking as plain text."""
        costs = any(one.cost is not None for one in self.features)
        titles = ["features", "columns", "KiB", self.head, "to the best", *QUICK, "LogME"]
        rows = [[*titles, "ms"] if costs else titles]
        for one in self.features:
            gap = one.difference
            row = [
                one.name,
                str(one.width),
                f"{one.bytes / 1024:.1f}",
                interval(one.accuracy.mean, one.accuracy.low, one.accuracy.high),
                "best" if gap is None else points(gap.mean, gap.low, gap.high),
                *(f"{one.quick[name].mean:.3f}" if one.quick else "-" for name in QUICK),
                "-" if one.logme is None else f"{one.logme:.3f}",
            ]
            rows.append([*row, "-" if one.cost is None else f"{one.cost:.1f}"] if costs else row)
        about = [
            f"{self.protocol}: {self.images} images, {len(self.classes)} classes",
            "accuracy ± the 95 % confidence interval; to the best: points, paired over folds; KiB"
            + (" and ms of a core" if costs else "")
            + " an image",
        ]
        blocks = ["\n".join([*about, "", *aligned(rows)])]
        if self.nested is not None:
            blocks.append(self._nested_words())
        if self.notes:
            blocks.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(blocks)

    def _nested_words(self) -> str:
        assert self.nested is not None
        times = ", ".join(
            f"{name} {n} time" + "s" * (n > 1)
            for name, n in sorted(self.chosen.items(), key=lambda item: -item[1])
        )
        score = interval(self.nested.mean, self.nested.low, self.nested.high)
        return (
            "The best score is optimistic: the folds that show it also chose it.\nChosen inside "
            f"each training part and scored outside: {score} ({times})."
        )

    def __str__(self) -> str:
        return self.table()


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
    y, cv, repeats, splits, groups, digests, random_state, n_jobs
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
    bound = {"splits": splits, "groups": groups, "digests": digests}
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


def _entries(blocks: Mapping[str, Array], joins: Sequence[Sequence[str]]) -> list[_Entry]:
    if not blocks:
        raise EvaluationError("there are no features to rank.")
    entries = [_Entry(name, (name,)) for name in blocks]
    for join in dict.fromkeys(tuple(dict.fromkeys(join)) for join in joins):
        for name in join:
            if name not in blocks:
                raise EvaluationError(f"there are no features {name!r}: {nearest(name, blocks)}")
        if len(join) < 2:
            raise EvaluationError(f"a join takes two or more features, not {list(join)}.")
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
    outside = [result.heads[i].metrics["accuracy"] for i in winners]
    if len(outside) == 1:
        return outside[0], dict(chosen)
    values = tuple(estimate.values[part] for part, estimate in enumerate(outside))
    low, high = corrected_t(values, result.ratio)
    mean = float(np.mean(values))
    if low == high:
        low, high = wilson(mean, len(np.unique(result.heads[0].predictions.unit)))
    return Estimate(mean, max(0.0, low), min(1.0, high), values), dict(chosen)


def _cost(members: Sequence[str], costs: Mapping[str, float]) -> float | None:
    known = [costs[name] for name in members if name in costs]
    return sum(known) if len(known) == len(members) else None
