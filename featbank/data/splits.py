"""Splits made on request: which images train, which validate, which test.

====================  ============================================================================
spec                  gives
====================  ============================================================================
``random:70/15/15``   train, valid, test by chance, in these shares; ``random:80/20`` train, test
``group:70/15/15``    the same, and images of one group stay together; there must be groups
``kfold:5``           fold0 ... fold4 by chance, in equal shares
``first:60/10``       of each class, sorted by name, the first 60 train, the next 10 valid, the rest
                      test; ``first:60`` has no valid
====================  ============================================================================

An image without a label gets no split. Shares are stratified: of the n images of a class, a share p
gets n p to within one image, and the shares of all classes together are as close as that allows.
Identical images count once. A *unit*, the images of one group or with the same bytes, stays
together; then shares are exact to within the largest unit of a class, where units are of one class,
and as close as dealing the largest units first brings them otherwise.

Chance is a hash of the seed and the image's key, its digest: neither the order of the images nor
their names or folders matter. Assignments that were made before are kept: new images go where the
share of their class is furthest from being filled, so that shares stay exact and no image moves.
Two exceptions: images that have come to be one unit since are brought together where most of them
are, and shares are no longer exact after images were removed, until new ones fill them. An image
that is relabelled keeps its split. A bank keeps the assignments in its index (`Index.splits`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.data.units import codes_of, units_of
from featbank.errors import DataError, nearest

__all__ = ["SPECS", "SplitSpec", "make_split"]

SPECS = ("random", "group", "kfold", "first")
_DIGITS = 9  # of a quota that count: 0.29 * 100 is 28.999999999999996

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class SplitSpec:
    """A request for a split, as `parse` read it.

    Attributes
    ----------
    kind : {"random", "group", "kfold", "first"}
    splits : tuple of str
        The names of the splits, in order.
    parts : tuple of float
        A share or a number of images for each; for "first" none for the last split.
    """

    kind: str
    splits: tuple[str, ...]
    parts: tuple[float, ...]

    @property
    def text(self) -> str:
        """The spec in the one way that all ways of writing it share."""
        if self.kind in ("random", "group"):
            parts = [100 * part / sum(self.parts) for part in self.parts]
            return f"{self.kind}:{'/'.join(f'{part:g}' for part in parts)}"
        counts = [float(len(self.splits))] if self.kind == "kfold" else self.parts
        return f"{self.kind}:{'/'.join(f'{count:.0f}' for count in counts)}"

    @classmethod
    def parse(cls, spec: str) -> SplitSpec:
        """Read a spec by the table of this module.

        Raises
        ------
        DataError
            With what is wrong, and an example of what is right.

        Examples
        --------
        >>> SplitSpec.parse("random:80/20").splits
        ('train', 'test')
        """
        kind, colon, rest = spec.strip().partition(":")
        if kind not in SPECS:
            raise DataError(f"there is no split {kind!r}; {nearest(kind, SPECS)}")
        example = {"kfold": "kfold:5", "first": "first:60/10"}.get(kind, f"{kind}:70/15/15")
        try:
            parts = tuple(float(part) for part in rest.split("/")) if colon else ()
        except ValueError:
            parts = ()
        if kind == "kfold":
            if len(parts) != 1 or not parts[0].is_integer() or not 2 <= parts[0] <= 1000:
                raise DataError(
                    f"{spec!r} says no number of folds from 2 to 1000; write {example}."
                )
            k = int(parts[0])
            return cls(kind, tuple(f"fold{i}" for i in range(k)), (1.0,) * k)
        if kind == "first":
            if len(parts) not in (1, 2) or not all(p.is_integer() and p > 0 for p in parts):
                raise DataError(
                    f"{spec!r} says no numbers of images, for train or for train and valid; "
                    f"write {example}."
                )
            return cls(kind, (*("train", "valid")[: len(parts)], "test"), parts)
        if len(parts) not in (2, 3) or not all(0 < p <= 100 for p in parts):
            raise DataError(
                f"{spec!r} says no shares, of train and test or of train, valid and test; "
                f"write {example}."
            )
        if not any(abs(sum(parts) - whole) < 1e-6 * whole for whole in (1, 100)):
            raise DataError(f"the shares of {spec!r} sum to {sum(parts):g}, not to 100.")
        return cls(
            kind, ("train", "valid", "test") if len(parts) == 3 else ("train", "test"), parts
        )


def make_split(
    spec: str,
    names: Sequence[bytes],
    labels: Sequence[str | None],
    *,
    keys: Sequence[bytes] | None = None,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    made: Mapping[bytes, str] | None = None,
) -> list[str | None]:
    """Assign each labelled image to a split.

    Parameters
    ----------
    spec : str
        See the table of this module.
    names : sequence of bytes
        Of length N; unique.
    labels : sequence of str or None
        Of length N.
    keys : sequence of bytes, optional
        Of length N: what an image is known by, its digest; equal keys are one image. By default
        its name.
    groups : sequence of str or None, optional
        Of length N. Images of one group stay together, whatever the spec.
    seed : int, optional
        Another seed, another assignment. ``first`` has no chance in it.
    made : mapping of bytes to str, optional
        The splits of keys that were assigned before.

    Returns
    -------
    list of str or None
        The split of each image, in the order of `names`.

    Raises
    ------
    DataError
        For a spec that can't be read, a ``group`` without groups, a ``first`` with groups (it
        counts images, and would tear groups apart), lengths that differ.

    Examples
    --------
    >>> names = [b"a/1.png", b"a/2.png", b"a/3.png"]
    >>> make_split("first:1/1", names, ["a", "a", "a"])
    ['train', 'valid', 'test']
    """
    parsed = SplitSpec.parse(spec)
    if len(labels) != len(names) or (groups is not None and len(groups) != len(names)):
        raise DataError(f"there are {len(names)} names; give one label, and one group, a name.")
    grouped = groups is not None and any(group is not None for group in groups)
    if parsed.kind == "first":
        if grouped:
            raise DataError(
                f"{spec} counts images and would tear groups apart; use group:70/15/15 or kfold:5, "
                "or leave the groups out."
            )
        return _first(parsed, names, labels)
    if parsed.kind == "group" and not grouped:
        raise DataError(f"{spec} needs groups, and there are none; use random: instead.")
    rows = [row for row, label in enumerate(labels) if label is not None]
    found: list[str | None] = [None] * len(names)
    if not rows:
        return found
    known = names if keys is None else keys
    number: dict[bytes, int] = {}
    image = np.array([number.setdefault(known[row], len(number)) for row in rows], np.intp)
    unit = np.arange(len(number))
    if grouped:
        assert groups is not None
        # An image has as many groups as it has rows: each row joins its image and its group.
        group = codes_of([groups[row] for row in rows])
        unit[image] = units_of(len(rows), image, group)
        unit = np.unique(unit, return_inverse=True)[1]
    dealt = _deal(
        parsed, list(number), image, [str(labels[row]) for row in rows], unit, seed, made or {}
    )
    for row, split in zip(rows, dealt[image].tolist(), strict=True):
        found[row] = parsed.splits[split]
    return found


def _deal(
    parsed: SplitSpec,
    keys: Sequence[bytes],
    image: Ints,
    labels: Sequence[str],
    unit: Ints,
    seed: int,
    made: Mapping[bytes, str],
) -> Ints:
    """Return the number of the split of each key.

    Parameters
    ----------
    parsed : SplitSpec
    keys : sequence of bytes
        One an image.
    image, labels : sequence of length N
        Of each row, the number of its image, and its label.
    unit : ndarray of int
        The unit of each image, from 0 up.
    seed, made
        As in `make_split`.
    """
    chance = _Chance(seed)
    classes = sorted(set(labels))
    place = {label: number for number, label in enumerate(classes)}
    code = np.fromiter((place[label] for label in labels), np.intp, len(labels))
    image, code = np.unique(np.stack([image, code], axis=1), axis=0).T  # copies count once
    drawn = np.fromiter((chance(key) for key in keys), np.uint64, len(keys))
    ticket = np.full(int(unit.max()) + 1, np.iinfo(np.uint64).max)
    np.minimum.at(ticket, unit, drawn)
    split = _kept(parsed, keys, unit, made)

    share = np.array(parsed.parts) / sum(parsed.parts)
    deal = _Deal(share, np.bincount(code, minlength=len(classes)))
    owner = unit[image]
    kept = np.flatnonzero(split[owner] >= 0)
    np.add.at(deal.counts, (code[kept], split[owner[kept]]), 1)

    size = np.bincount(owner, minlength=len(ticket))
    order = np.lexsort((code, owner))
    start = np.searchsorted(owner[order], np.arange(len(ticket) + 1))
    free = np.flatnonzero(split < 0)
    large = free[size[free] > 1]
    for one in large[np.lexsort((ticket[large], -size[large]))].tolist():
        own = code[order[start[one] : start[one + 1]]]
        split[one] = deal.give_unit(*np.unique(own, return_counts=True))
    single = free[size[free] == 1]
    single_code = code[order[start[single]]]
    for label in sorted(classes, key=lambda label: chance(label.encode("utf-8", "surrogatepass"))):
        own = single[single_code == place[label]]
        given = deal.give_single(place[label], len(own))
        split[own[np.argsort(ticket[own])]] = np.repeat(np.arange(len(share)), given)
    return split[unit]


def _kept(parsed: SplitSpec, keys: Sequence[bytes], unit: Ints, made: Mapping[bytes, str]) -> Ints:
    """Return the split that each unit has already, -1 for none: the one that most images have."""
    place = {name: number for number, name in enumerate(parsed.splits)}
    votes = np.zeros((int(unit.max()) + 1, len(place)), np.intp)
    for key, one in zip(keys, unit.tolist(), strict=True):
        name = made.get(key)
        if name in place:
            votes[one, place[name]] += 1
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


class _Chance:
    """Numbers that look like chance and depend on a seed and a text alone."""

    def __init__(self, seed: int) -> None:
        self._key = hashlib.sha256(str(int(seed)).encode()).digest()

    def __call__(self, text: bytes) -> int:
        drawn = hashlib.blake2b(text, digest_size=8, key=self._key, person=b"split")
        return int.from_bytes(drawn.digest(), "big")


class _Deal:
    """Images given to splits so far, and where the next ones are lacking most.

    Each class fills its own shares first, to the whole image; where the rest of a class may go to
    one split as well as to another, the shares of all classes together decide.

    Parameters
    ----------
    share : ndarray of shape (k,)
        Of each split; they sum to 1.
    totals : ndarray of shape (classes,)
        Images of each class.
    """

    def __init__(self, share: Floats, totals: Ints) -> None:
        self.share = share
        self.totals = totals
        self.counts = np.zeros((len(totals), len(share)))

    def lacking(self, classes: Any) -> Floats:
        """Return how many images each split lacks of its shares of some classes."""
        quota = np.multiply.outer(self.totals[classes], self.share)
        return np.asarray(np.round(quota - self.counts[classes], _DIGITS))

    def behind(self, more: int) -> Floats:
        """Return how far each split is behind its share of what was given, and of `more` images."""
        given = self.counts.sum(axis=0)
        return np.asarray(np.round(self.share * (given.sum() + more) - given, _DIGITS))

    def give_unit(self, classes: Ints, counts: Ints) -> int:
        """Give all images of a unit to one split; return it."""
        weight = counts / self.totals[classes]  # a small class counts as much as a large one
        need = np.round(weight @ self.lacking(classes) / (weight @ counts), _DIGITS)
        behind = self.behind(int(counts.sum()))
        if need.max() >= 1:
            chosen = np.lexsort((-behind, -need))[0]
        else:
            chosen = np.lexsort((-need, -behind, need <= 0))[0]
        self.counts[classes, chosen] += counts
        return int(chosen)

    def give_single(self, label: int, count: int) -> Ints:
        """Give `count` images of a class, each a unit; return how many each split gets."""
        lacking = self.lacking(label)
        given = np.floor(np.maximum(lacking, 0))
        while given.sum() > count:  # what was kept fills some shares over
            given[np.where(given > 0, lacking - given, np.inf).argmin()] -= 1
        self.counts[label] += given
        for _ in range(count - int(given.sum())):
            rest = lacking - given
            chosen = np.lexsort((-rest, -self.behind(1), rest <= 0))[0]
            given[chosen] += 1
            self.counts[label, chosen] += 1
        return given.astype(np.intp)


def _first(
    parsed: SplitSpec, names: Sequence[bytes], labels: Sequence[str | None]
) -> list[str | None]:
    bounds = list(accumulate(parsed.parts))
    found: list[str | None] = [None] * len(names)
    counted: dict[str, int] = {}
    for row in sorted(range(len(names)), key=names.__getitem__):
        label = labels[row]
        if label is None:
            continue
        rank = counted.get(label, 0)
        counted[label] = rank + 1
        found[row] = parsed.splits[sum(rank >= bound for bound in bounds)]
    return found
