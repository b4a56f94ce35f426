"""The plan of an evaluation: which rows are learned from and which are scored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from featbank.errors import EvaluationError, nearest
from featbank.evaluation.folds import Int, deal, hold_out, units_per_class
from featbank.evaluation.inputs import Inputs

__all__ = [
    "FOLDS",
    "INNER_FOLDS",
    "Part",
    "Plan",
    "check_folds",
    "plan",
    "plan_final",
    "plan_naive",
    "ratio_of",
    "scorable",
]

FOLDS = 5
INNER_FOLDS = 3
"""Folds within a training part; fewer than outside, for each is paid once per value and fold."""

Fold = tuple[Int, Int]


@dataclass(frozen=True)
class Part:
    """One fit and the rows that score it.

    Attributes
    ----------
    train, test : ndarray of intp
        Row numbers.
    inner : tuple of (ndarray, ndarray)
        What hyper-parameters are chosen on: (fit, score) as positions in `train`. Empty where a
        class is too small to be parted again.
    across : tuple of (ndarray, ndarray)
        Folds that score each row of `train` once, where those of `inner` score given rows of valid
        alone; else empty.
    """

    train: Int
    test: Int
    inner: tuple[Fold, ...]
    across: tuple[Fold, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All parts of an evaluation.

    Attributes
    ----------
    protocol : str
        What is done, in a few words.
    parts : tuple of Part
    clean : Part or None
        For given splits with duplicates across them: the same without those rows in training.
    notes : tuple of str
    cv : int, float or None
        The number of folds that were made or the share held out; None for given splits.
    """

    protocol: str
    parts: tuple[Part, ...]
    clean: Part | None = None
    notes: tuple[str, ...] = field(default=())
    cv: int | float | None = None


def ratio_of(parts: Sequence[Part]) -> float:
    """Return rows scored on over rows learned from, the mean of the parts."""
    return float(np.mean([len(part.test) / len(part.train) for part in parts]))


def check_folds(cv: int | float | None, repeats: int) -> None:
    """Refuse numbers of folds and repeats that no rows could have.

    Raises
    ------
    EvaluationError
    """
    if not isinstance(repeats, int | np.integer) or repeats < 1:
        raise EvaluationError(f"repeats is at least 1, a whole number, not {repeats!r}.")
    if isinstance(cv, float) and not cv.is_integer():
        if not 0 < cv < 1:
            raise EvaluationError(f"cv is a number of folds or a share in (0, 1), not {cv}.")
    elif cv is not None and int(cv) < 2:
        raise EvaluationError(f"cv is at least 2 folds, not {int(cv)}.")


def plan(data: Inputs, *, cv: int | float | None, repeats: int, seed: int) -> Plan:
    """Decide the parts: given splits first, else folds of our own.

    Rows of metric weight 0 are fitted on, and never scored.

    Raises
    ------
    EvaluationError
        What was asked for can't be had from these rows.
    """
    check_folds(cv, repeats)
    given = _given(data, cv, repeats, seed) if data.splits is not None else None
    made = scorable(given or _made(data, cv, repeats, seed), data)
    for part in (*made.parts, *([made.clean] if made.clean else [])):
        lacking = np.setdiff1d(data.codes[part.test], data.codes[part.train])
        if len(lacking):
            names = ", ".join(repr(str(c)) for c in data.classes[lacking[:5]])
            raise EvaluationError(
                f"class {names} has images to be scored on but none to learn from; leave it out, "
                "or give other splits or groups."
            )
    return made


def scorable(made: Plan, data: Inputs) -> Plan:
    """Return the plan without test rows of metric weight 0.

    Raises
    ------
    EvaluationError
        A test part has no other rows.
    """
    if data.metric_weight is None:
        return made
    parts = tuple(_scorable(part, data) for part in made.parts)
    empty = sum(not len(part.test) for part in parts)
    if empty:
        which = "the test part" if len(parts) == 1 else f"{empty} of {len(parts)} test parts"
        raise EvaluationError(
            f"every image in {which} has the metric weight 0, so that nothing is left to score; "
            "ask for fewer folds or another split, or give more images a weight above 0."
        )
    return replace(made, parts=parts, clean=made.clean and _scorable(made.clean, data))


def _scorable(part: Part, data: Inputs) -> Part:
    if data.metric_weight is None:
        return part
    return replace(part, test=part.test[data.metric_weight[part.test] > 0])


def plan_naive(
    data: Inputs, made: Plan, *, repeats: int, seed: int
) -> tuple[tuple[Part, ...], str]:
    """Decide the parts as if no row belonged to another; without any, say why there are none."""
    if made.cv is None:
        return (), "the splits were given, and stand as they are."
    if not data.bound:
        return (), "no image is bound to another, so that naive folds would score the same."
    return scorable(_made(data.unbound(), made.cv, repeats, seed), data).parts, ""


def plan_final(data: Inputs, *, seed: int) -> Part:
    """Decide what the classifier for use is fitted on: all rows that no given split reserves.

    Raises
    ------
    EvaluationError
        These rows are none, or of one class.
    """
    part = _final(data, seed)
    if len(np.unique(data.codes[part.train])) < 2:
        raise EvaluationError(
            "the rows to learn from are of one class; a classifier needs at least two, so give "
            "other splits."
        )
    return part


def _final(data: Inputs, seed: int) -> Part:
    if data.splits is None:
        rows = np.arange(len(data.codes))
        return Part(rows, rows[:0], _inner(data, rows, seed))
    given = _by_split(data.splits)
    if "train" in given and "valid" in given and "test" in given:
        return _chosen_on_valid(data, given, seed)
    kept = [rows for name, rows in given.items() if name != "test"]
    if not kept:
        raise EvaluationError("every labelled row is in split test; a fit needs rows of train.")
    rows = np.sort(np.concatenate(kept))
    return Part(rows, rows[:0], _inner(data, rows, seed, given))


def _made(data: Inputs, cv: int | float | None, repeats: int, seed: int) -> Plan:
    per_class = units_per_class(data.codes, data.units)
    least = int(per_class.argmin())
    strata = _strata(data)
    few, name = int(per_class[least]), str(data.classes[least])
    kind = "groups" if data.groups is not None else "different images"
    if data.near is not None and data.near.clusters:
        kind += " (near-duplicates counted once)"
    if few < 2:
        raise EvaluationError(
            f"class {name!r} has too few {kind} ({few}) to be both learned from and scored on; add "
            "some or leave the class out."
        )
    notes: list[str] = []
    parts: list[Part] = []
    if isinstance(cv, float) and not cv.is_integer():
        for repeat in range(repeats):
            random = np.random.default_rng([seed, repeat])
            held = hold_out(strata, data.units, cv, random)
            parts.append(_part(data, ~held, held, seed))
        made: int | float = cv
        protocol = f"{cv:.0%} of each class held out"
    else:
        k = min(FOLDS, few) if cv is None else int(cv)
        if k > few:
            raise EvaluationError(
                f"{k} folds can't be had: class {name!r} has {few} {kind}; ask for at most {few} "
                "folds or leave the class out."
            )
        if cv is None and k < FOLDS:
            notes.append(f"{k} folds instead of {FOLDS}: class {name!r} has {few} {kind}.")
        for repeat in range(repeats):
            fold = deal(strata, data.units, k, np.random.default_rng([seed, repeat]))
            parts += [_part(data, fold != f, fold == f, seed) for f in range(k)]
        made, protocol = k, f"stratified {k}-fold cross-validation"
    if repeats > 1:
        protocol += f", {repeats} repeats"
    return Plan(protocol, tuple(parts), notes=tuple(notes), cv=made)


def _strata(data: Inputs) -> Int:
    """Return what folds are stratified by: the class, and whether a row may be scored."""
    if data.metric_weight is None or data.metric_weight.all():
        return data.codes
    pairs = 2 * data.codes + (data.metric_weight > 0)
    return np.unique(pairs, return_inverse=True)[1]


def _given(data: Inputs, cv: int | float | None, repeats: int, seed: int) -> Plan | None:
    """Return the plan of the given splits, or None where they reserve nothing to score on."""
    assert data.splits is not None
    given = _by_split(data.splits)
    folds = sorted((n for n in given if n.startswith("fold")), key=lambda n: int(n[4:]))
    if set(given) == {"train"}:
        return None
    if cv is not None or repeats > 1:
        raise EvaluationError(
            f"the rows have splits ({', '.join(sorted(given))}), which are scored once as they "
            "stand; ask for no cv and no repeats, or pass no splits (--split none)."
        )
    notes = []
    apart = len(data.splits) - sum(len(rows) for rows in given.values())
    if apart:
        notes.append(f"{apart} rows without a split were left out.")
    if folds and "test" not in given:
        if len(folds) < 2:
            raise EvaluationError(f"all rows are in split {folds[0]!r}; at least two are needed.")
        parts = []
        for name in folds:
            train = np.sort(np.concatenate([given[f] for f in folds if f != name]))
            rest = {f: given[f] for f in folds if f != name}
            parts.append(Part(train, given[name], _inner(data, train, seed, rest)))
        return Plan(f"the {len(folds)} given folds", tuple(parts), notes=tuple(notes))
    if folds:
        train = np.sort(np.concatenate([given[f] for f in folds]))
        part = Part(train, given["test"], _inner(data, train, seed, given))
    elif "train" not in given:
        raise EvaluationError(
            f"the labelled rows are in {', '.join(sorted(given))}; a fit needs rows of train."
        )
    elif "valid" in given and "test" in given:
        part = _chosen_on_valid(data, given, seed)
    else:
        scored = given.get("test", given.get("valid"))
        assert scored is not None
        part = Part(given["train"], scored, _inner(data, given["train"], seed))
    scored_name = "test" if "test" in given else "valid"
    clean = _without_duplicates(data, part)
    if clean is not None:
        notes.append(
            f"{len(part.train) - len(clean.train)} images to learn from {_kinship(data)} an image "
            f"of {scored_name}; the score without them stands beside."
        )
    unscored = data.classes[np.setdiff1d(data.codes[part.train], data.codes[part.test])]
    if len(unscored):
        some = ", ".join(repr(str(c)) for c in unscored[:5]) + ", ..." * (len(unscored) > 5)
        what = f"class {some} has" if len(unscored) == 1 else f"{len(unscored)} classes have"
        more = "" if len(unscored) == 1 else f": {some}"
        notes.append(f"{what} no image in {scored_name} to be scored on{more}.")
    tested = len(_scorable(part, data).test)
    counts = f"learned from {len(part.train)}, scored on {tested} of {scored_name}"
    return Plan(f"one split, {counts}", (part,), clean, tuple(notes))


def _by_split(splits: list[str | None]) -> dict[str, Int]:
    names = np.array(["" if s is None else s for s in splits])
    given = {str(name): np.flatnonzero(names == name) for name in np.unique(names) if name}
    for name in given:
        if name not in ("train", "valid", "test") and not re.fullmatch(r"fold\d+", name):
            words = ["train", "valid", "test", "fold0", "fold1"]
            raise EvaluationError(f"split {name!r} is unknown: {nearest(name, words)}")
    folds = any(name.startswith("fold") for name in given)
    if folds and ("train" in given or "valid" in given):
        raise EvaluationError(
            "splits mix folds with train or valid; give either folds (and test), or train, valid "
            "and test."
        )
    if not given:
        raise EvaluationError("splits were given, but no labelled row has one.")
    return given


def _chosen_on_valid(data: Inputs, given: dict[str, Int], seed: int) -> Part:
    both = np.concatenate([given["train"], given["valid"]])
    fit, score = np.split(np.arange(len(both)), [len(given["train"])])
    return Part(both, given["test"], ((fit, score),), across=_inner(data, both, seed))


def _part(data: Inputs, train: Int, test: Int, seed: int) -> Part:
    rows = np.flatnonzero(train)
    return Part(rows, np.flatnonzero(test), _inner(data, rows, seed))


def _inner(
    data: Inputs, train: Int, seed: int, given: dict[str, Int] | None = None
) -> tuple[Fold, ...]:
    """Return inner folds: the given ones among the training rows, else of our own."""
    codes, units = data.codes[train], data.units[train]
    names = [n for n in given or {} if n.startswith("fold")]
    if given and len(names) >= 2:
        fold = np.empty(len(train), dtype=np.intp)
        for i, name in enumerate(names):
            fold[np.isin(train, given[name])] = i
        k = len(names)
    else:
        present = np.unique(codes)
        few = int(units_per_class(codes, units)[present].min())
        k = min(INNER_FOLDS, few)
        if k < 2:
            return ()
        compact = np.searchsorted(present, codes)
        fold = deal(compact, units, k, np.random.default_rng([seed, len(train)]))
    inner = tuple((np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(k))
    whole = all(len(np.setdiff1d(codes, codes[fit])) == 0 for fit, _ in inner)
    return inner if whole else ()


def _without_duplicates(data: Inputs, part: Part) -> Part | None:
    if data.copies is None:
        return None
    leaks = np.isin(data.copies[part.train], data.copies[part.test])
    if not leaks.any():
        return None
    position = np.cumsum(~leaks) - 1

    def left(folds: tuple[Fold, ...]) -> tuple[Fold, ...]:
        kept = tuple(
            (position[fit[~leaks[fit]]], position[score[~leaks[score]]]) for fit, score in folds
        )
        return kept if all(len(fit) and len(score) for fit, score in kept) else ()

    return Part(part.train[~leaks], part.test, left(part.inner), left(part.across))


def _kinship(data: Inputs) -> str:
    return "have the bytes of" if data.near is None else "are copies or near-duplicates of"
