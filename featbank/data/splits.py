"""Splits made on request: which images train, which validate, which test.

====================  ============================================================================
spec                  gives
====================  ============================================================================
``random:70/15/15``   train, valid, test by chance, in these shares; ``random:80/20`` train, test
``group:70/15/15``    the same, and images of one group stay together; there must be groups
``kfold:5``           fold0 ... fold4 by chance, in equal shares
``first:60/10``       of each class, sorted by name, the first 60 train, the next 10 valid, the rest
                      test; ``first:60`` has no valid. An image without a label gets no split.
====================  ============================================================================

Chance is a hash of the seed and the name (of the file, or of its group where it has one). So an
image stays in its split when others are added, removed or relabelled; and the shares hold in the
mean, in every class, not to the image: of n images a share p gets n p, give or take
sqrt(n p (1 - p)). ``first`` counts instead, and is exact; there an image stays where it is only if
those that are added sort behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from featbank.errors import DataError, nearest

__all__ = ["SPECS", "SplitSpec", "make_split"]

SPECS = ("random", "group", "kfold", "first")
_SPACE = 1 << 64


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
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> list[str | None]:
    """Assign each image to a split.

    Parameters
    ----------
    spec : str
        See the table of this module.
    names : sequence of bytes
        Of length N; unique.
    labels : sequence of str or None
        Of length N. Only ``first`` looks at them.
    groups : sequence of str or None, optional
        Of length N. Images of one group stay together, whatever the spec. Give the digest of the
        bytes as the group where copies of an image must not straddle splits.
    seed : int, optional
        Another seed, another assignment. ``first`` has no chance in it.

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
    assign = _chooser(parsed, seed)
    if groups is None:
        return [assign(b"name", name) for name in names]
    return [
        assign(b"name", name)
        if group is None
        else assign(b"group", group.encode("utf-8", "surrogatepass"))
        for name, group in zip(names, groups, strict=True)
    ]


def _chooser(parsed: SplitSpec, seed: int) -> Callable[[bytes, bytes], str]:
    """Return the function from a kind of key and the key to a split."""
    total = sum(parsed.parts)
    bounds = [round(part / total * _SPACE) for part in accumulate(parsed.parts)][:-1]
    key = hashlib.sha256(str(int(seed)).encode()).digest()

    def assign(person: bytes, name: bytes) -> str:
        drawn = hashlib.blake2b(name, digest_size=8, key=key, person=person).digest()
        place = int.from_bytes(drawn, "big")
        return parsed.splits[sum(place >= bound for bound in bounds)]

    return assign


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
