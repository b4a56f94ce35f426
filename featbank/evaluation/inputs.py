"""Inputs: features, labels and what binds rows together, checked once and brought to codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.data.units import codes_of, units_of
from featbank.errors import EvaluationError
from featbank.evaluation.folds import Int
from featbank.evaluation.neighbours import NearDuplicates, near_duplicates
from featbank.heads.streaming import Blocks
from featbank.heads.weights import checked_weights

__all__ = ["UNLABELLED", "Inputs", "checked", "named", "note_on_copies"]

Array = npt.NDArray[Any]

UNLABELLED = "rows without a label were left out."
"""How the note on these ends."""

_ROWS = re.compile(r"(?<=, the first is )row (\d+)(?=; )|(?<=\()rows (\d+(?:, \d+)*)(?=\)\.$)")


@dataclass(frozen=True)
class Inputs:
    """The labelled rows, ready for planning and fitting.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32 or float64; or Blocks
    y : ndarray of shape (n,)
        Labels as given, text or whole numbers.
    codes : ndarray of shape (n,), intp
        Positions of the labels in `classes`.
    classes : ndarray of shape (K,)
        Sorted.
    rows : ndarray of shape (n,), intp
        Positions of these rows in what was given (unlabelled rows are left out).
    units : ndarray of shape (n,), intp
        Rows of equal unit stay together.
    digests : ndarray of shape (n,), intp, or None
        Codes of the images' bytes, -1 where unknown.
    copies : ndarray of shape (n,), intp, or None
        Rows of equal code have equal bytes or hang together by near-duplicates.
    splits : list of (str or None), or None
    duplicates : int
        Rows whose bytes another row before them has: with another label, or in another split.
    groups : int or None
        How many groups there are; None where none were given.
    near : NearDuplicates or None
        None where they were not looked for.
    notes : tuple of str
    metric_weight : ndarray of shape (n,), float64, or None
        How much a row counts in every metric; rows of weight 0 are never scored.
    """

    X: Array
    y: Array
    codes: Int
    classes: Array
    rows: Int
    units: Int
    digests: Int | None
    copies: Int | None
    splits: list[str | None] | None
    duplicates: int
    groups: int | None
    near: NearDuplicates | None
    notes: tuple[str, ...]
    metric_weight: Array | None = None

    def weight_of(self, rows: Int) -> Array | None:
        """Return the metric weights of some rows; None where every row counts 1."""
        return None if self.metric_weight is None else self.metric_weight[rows]

    def weights_of(self, tested: Iterable[Int]) -> list[Array] | None:
        """Return the metric weights of several sets of rows; None where every row counts 1."""
        weights = self.metric_weight
        return None if weights is None else [weights[rows] for rows in tested]

    @property
    def bound(self) -> bool:
        """Whether any two rows stay together."""
        return int(self.units.max()) + 1 < len(self.units)

    def take(self, rows: Int) -> Inputs:
        """Return some rows, without their splits; what was counted is of all rows."""
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            codes=self.codes[rows],
            rows=self.rows[rows],
            units=self.units[rows],
            digests=None if self.digests is None else self.digests[rows],
            copies=None if self.copies is None else self.copies[rows],
            splits=None,
            near=None if self.near is None else self.near.take(rows),
            metric_weight=self.weight_of(rows),
        )

    def unbound(self) -> Inputs:
        """Return the same as if no row belonged to another."""
        alone = np.arange(len(self.units))
        return replace(
            self, units=alone, digests=None, copies=None, duplicates=0, groups=None, near=None
        )


def checked(
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    digests: Any = None,
    splits: Any = None,
    near: float | NearDuplicates | None = None,
    metric_weight: Any = None,
    keep_copies: bool = False,
) -> Inputs:
    """Check what a caller gave, and leave out rows without a label and copies.

    A copy has the digest, the label and the split of a row before it; `keep_copies` keeps it.
    `near` is the cosine similarity of near-duplicates, or those of all rows.

    Raises
    ------
    EvaluationError
        Lengths that differ, features that aren't finite or all constant, float labels, one class,
        near-duplicates that leave nothing to be told apart.
    """
    features = _features(X)
    weights = checked_weights(metric_weight, len(features), name="metric_weight", use="score")
    if isinstance(y, str) or not np.iterable(y) or getattr(y, "ndim", 1) != 1:
        raise EvaluationError(f"labels are a sequence of one class a row, not {type(y).__name__}.")
    labels = list(y)
    given = {"labels": labels, "groups": groups, "digests": digests, "splits": splits}
    for name, values in given.items():
        if values is not None and len(values) != len(features):
            raise EvaluationError(
                f"there are {len(features)} rows of features and {len(values)} {name}; "
                "give one for each row."
            )
    known = np.array([not _missing(label) for label in labels], dtype=bool)
    rows = np.flatnonzero(known)
    if not len(rows):
        raise EvaluationError("no row has a label; scores need labelled images.")
    y_known = _labels([labels[i] for i in rows])
    classes, codes = np.unique(y_known, return_inverse=True)
    if len(classes) < 2:
        raise EvaluationError(
            f"all {len(rows)} labelled images are of one class, {str(classes[0])!r}; a classifier "
            "needs at least two."
        )
    all_groups = None if groups is None else codes_of(groups)
    all_digests = None if digests is None else codes_of(digests)
    unlabelled, copies = len(labels) - len(rows), 0
    if all_digests is not None and not keep_copies:
        split_codes = np.zeros(len(rows), np.intp)
        if splits is not None:
            split_codes = codes_of([_split(splits[i]) for i in rows])
        first = _first_of_copies(all_digests[rows], codes, split_codes)
        copies = int((~first).sum())
        rows, codes, y_known = rows[first], codes[first], y_known[first]
    if len(rows) < len(features):
        features = features[rows]
    notes = _feature_notes(features, rows)
    if unlabelled:
        notes.append(f"{unlabelled} {UNLABELLED}")
    if copies:
        notes.append(note_on_copies(copies))
    group_codes = None if all_groups is None else all_groups[rows]
    digest_codes = None if all_digests is None else all_digests[rows]
    duplicates = 0
    if digest_codes is not None:
        seen = digest_codes[digest_codes >= 0]
        duplicates = len(seen) - len(np.unique(seen))
        notes += _contradictions(digest_codes, codes, classes, rows)
    alike = _near(near, features, rows, classes, codes)
    clusters = None
    if alike is not None:
        clusters = np.full(len(labels), -1, np.intp)
        clusters[rows] = alike.cluster
    labelings = (all_digests, clusters)
    return Inputs(
        X=features,
        y=y_known,
        codes=codes,
        classes=classes,
        rows=rows,
        units=_units(rows, len(labels), all_groups, *labelings),
        digests=digest_codes,
        copies=None
        if digest_codes is None and alike is None
        else _units(rows, len(labels), *labelings),
        splits=None if splits is None else [_split(splits[i]) for i in rows],
        duplicates=duplicates,
        groups=None if group_codes is None else len(np.unique(group_codes[group_codes >= 0])),
        near=alike,
        notes=tuple(notes),
        metric_weight=None if weights is None else weights[rows],
    )


def note_on_copies(count: int) -> str:
    """Return the note that says how many copies were left out."""
    many = "1 copy" if count == 1 else f"{count} copies"
    return (
        f"{many} left out: an image with the bytes and the label of another counts once "
        "(--keep-copies, keep_copies=True: all count)."
    )


def named(message: str, names: Sequence[str]) -> str:
    """Put names in place of the row numbers in a message of `checked`.

    Examples
    --------
    >>> named("1 image stands under more than one class (rows 0, 2).", ["a.png", "b.png", "c.png"])
    '1 image stands under more than one class (a.png, c.png).'
    """

    def words(found: re.Match[str]) -> str:
        return ", ".join(names[int(row)] for row in (found[1] or found[2]).split(", "))

    return _ROWS.sub(words, message)


def _first_of_copies(digests: Int, codes: Int, splits: Int) -> npt.NDArray[np.bool_]:
    """Return which rows stay: of equal digest, label and split the first; all without a digest."""
    stays = digests < 0
    keys = np.column_stack([digests, codes, splits])[~stays]
    first = np.zeros(len(keys), np.bool_)
    first[np.unique(keys, axis=0, return_index=True)[1]] = True
    stays[~stays] = first
    return stays


def _units(rows: Int, n: int, *labelings: Int | None) -> Int:
    """Return the units of some of `n` rows; the others bind them too, as a copy's group does."""
    return np.unique(units_of(n, *labelings)[rows], return_inverse=True)[1]


def _near(
    near: float | NearDuplicates | None,
    features: Array | Blocks,
    rows: Int,
    classes: Array,
    codes: Int,
) -> NearDuplicates | None:
    if near is None:
        return None
    if isinstance(features, Blocks):
        raise EvaluationError(
            "near-duplicates are looked for in memory, where the features don't fit; give more "
            "memory, or leave them out."
        )
    found = near.take(rows) if isinstance(near, NearDuplicates) else near_duplicates(features, near)
    in_cluster = found.cluster >= 0
    sizes = np.bincount(found.cluster[in_cluster], minlength=1)
    joined = ""
    if 2 * sizes.max() >= len(rows):
        joined = f"{sizes.max()} of {len(rows)} images ({sizes.max() / len(rows):.0%})"
    for c, name in enumerate(classes):
        own = found.cluster[codes == c]
        if not joined and len(own) > 1 and own[0] >= 0 and (own == own[0]).all():
            joined = f"all {len(own)} images of class {str(name)!r}"
    if joined:
        raise EvaluationError(
            f"near-duplicates at a similarity of {found.threshold:g} join {joined} in one cluster; "
            "raise the threshold."
        )
    return found


def _missing(label: Any) -> bool:
    return label is None or (isinstance(label, float | np.floating) and bool(np.isnan(label)))


def _split(value: Any) -> str | None:
    return None if _missing(value) or value == "" else str(value)


def _features(X: Any) -> Any:
    if isinstance(X, Blocks):
        return X
    try:
        features = np.asarray(X)
    except ValueError as error:
        raise EvaluationError("the rows of the features differ in length.") from error
    if features.ndim != 2 or features.dtype.kind not in "fiub":
        raise EvaluationError(
            f"features are a numeric array of shape (rows, columns), not {features.dtype} of shape "
            f"{features.shape}."
        )
    if 0 in features.shape:
        raise EvaluationError(f"features of shape {features.shape} are empty.")
    if features.dtype not in (np.float32, np.float64):
        features = features.astype(np.float32 if features.dtype == np.float16 else np.float64)
    return features


def _labels(labels: Sequence[Any]) -> Array:
    if all(isinstance(label, str) for label in labels):
        return np.array(labels, dtype=str)
    if all(isinstance(label, int | np.integer | np.bool_) for label in labels):
        return np.array(labels)
    if all(isinstance(label, float | int | np.floating | np.integer) for label in labels):
        raise EvaluationError(
            "labels are numbers with fractions, but classes are text or whole numbers; turn them "
            'into classes first, for example y = ["high" if v > 0.5 else "low" for v in y].'
        )
    kinds = sorted({type(label).__name__ for label in labels})
    raise EvaluationError(f"labels are all text or all whole numbers, not {', '.join(kinds)}.")


def _feature_notes(features: Array | Blocks, rows: Int) -> list[str]:
    parts = features if isinstance(features, Blocks) else (features,)
    ends = [(part.min(axis=0), part.max(axis=0)) for part in parts]
    low = np.min([least for least, _ in ends], axis=0)  # NaN and infinities show in these
    high = np.max([most for _, most in ends], axis=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        whole = np.concatenate([np.isfinite(part).all(axis=1) for part in parts])
        bad = np.flatnonzero(~whole)
        raise EvaluationError(
            f"{len(bad)} of {len(features)} rows of features hold NaN or infinity, the first is "
            f"row {rows[bad[0]]}; leave these rows out or compute them anew."
        )
    constant = int((low == high).sum())
    if constant == features.shape[1]:
        raise EvaluationError(
            f"all {constant} features are constant, so that no head can tell classes apart; check "
            "the backbone and its weights."
        )
    if constant:
        return [f"{constant} of {features.shape[1]} features are constant and tell nothing."]
    return []


def _contradictions(digests: Int, codes: Int, classes: Array, rows: Int) -> list[str]:
    known = digests >= 0
    pairs = np.unique(np.column_stack([digests[known], codes[known]]), axis=0)
    images, counts = np.unique(pairs[:, 0], return_counts=True)
    twice = images[counts > 1]
    if not len(twice):
        return []
    where = ", ".join(str(row) for row in rows[digests == twice[0]][:3])
    words = " and ".join(repr(str(classes[code])) for code in pairs[pairs[:, 0] == twice[0], 1])
    many = "1 image stands" if len(twice) == 1 else f"{len(twice)} images stand"
    example = "" if len(twice) == 1 else "for instance "
    return [f"{many} under more than one class with equal bytes: {example}{words} (rows {where})."]
