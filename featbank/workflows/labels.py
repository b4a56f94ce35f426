"""Labels: what the cells of a table's column mean as classes, and as weights."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from featbank.errors import DataError, nearest

__all__ = [
    "SEPARATOR",
    "Labels",
    "Threshold",
    "chosen_labels",
    "chosen_weights",
    "label_column",
    "label_title",
]

SEPARATOR = ";"
"""What stands between several labels of one image, unless something else is named."""

FEW_NUMBERS = 10
"""Different numbers with fractions that may still be meant as classes."""

_OPERATORS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    ">=": (operator.ge, "<"),
    "<=": (operator.le, ">"),
    "==": (operator.eq, "!="),
    "!=": (operator.ne, "=="),
    ">": (operator.gt, "<="),
    "<": (operator.lt, ">="),
}
"""Comparisons, each with its opposite; the longer ones are looked for first."""

_EXPRESSION = re.compile(r"([^<>=!]*?)\s*(>=|<=|==|!=|>|<)\s*([^=<>!].*)")


@dataclass(frozen=True)
class Labels:
    """The labels of a selection's images.

    Attributes
    ----------
    y : list of (str, frozenset of str, or None)
        One a row; None leaves the image out. Sets where images have several labels.
    strata : list of (str or None)
        The same as text, for making splits.
    notes : tuple of str
    """

    y: list[Any]
    strata: list[str | None]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Threshold:
    """A comparison that makes two classes of a column: ``probability>0.5``.

    Attributes
    ----------
    column : str
        Empty for the label's own.
    sign : str
    value : str
        As written.
    """

    column: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read ``COLUMN SIGN VALUE``.

        Raises
        ------
        DataError
            The text has no comparison, or orders what is no number.

        Examples
        --------
        >>> Threshold.parse("probability > 0.5")
        Threshold(column='probability', sign='>', value='0.5')
        """
        found = _EXPRESSION.fullmatch(text.strip())
        if found is None:
            raise DataError(
                f"positive is a comparison like 'probability>0.5' or 'type==mono', not {text!r}; "
                f"its sign is one of {' '.join(_OPERATORS)}."
            )
        column, sign, value = found.groups()
        if sign not in ("==", "!=") and _number(value) is None:
            raise DataError(
                f"positive is {text!r}, but {value!r} is no number; compare words with == or !=."
            )
        return cls(column, sign, value)

    def classes(self, column: str) -> tuple[str, str]:
        """Return the names of the class that fulfils the comparison and of the other one."""
        opposite = _OPERATORS[self.sign][1]
        return f"{column}{self.sign}{self.value}", f"{column}{opposite}{self.value}"

    def holds(self, cell: str) -> bool | None:
        """Tell whether a cell fulfils the comparison; None where it can't be compared."""
        compare, _ = _OPERATORS[self.sign]
        own, other = _number(cell), _number(self.value)
        if own is not None and other is not None:
            return compare(own, other)
        return compare(cell, self.value) if self.sign in ("==", "!=") else None


def label_column(label: str | None, positive: str | None) -> str | None:
    """Return the column that the labels are read from; None for the sources' own.

    Raises
    ------
    DataError
        `positive` is no comparison, or of another column than `label`.
    """
    if positive is None:
        return label
    column = Threshold.parse(positive).column
    if label is not None and column and column != label:
        raise DataError(
            f"positive compares the column {column!r}, and label names {label!r}; one of the two "
            "makes the classes, so leave the other out."
        )
    return column or label


def label_title(
    column: str | None, positive: str | None, separator: str | None, group: str | None
) -> str:
    """Return what a split is made by, to find it again: the labels, and groups that were named."""
    title = column or "label"
    if positive is not None:
        title = Threshold.parse(positive).classes(title)[0]
    if separator is not None:
        title += f" separated by {separator!r}"
    return title if group is None else f"{title}, group {group}"


def chosen_labels(
    words: Sequence[str | None],
    paths: Sequence[str],
    *,
    column: str | None = None,
    positive: str | None = None,
    multilabel: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Iterable[str] = (),
    copies: int = 0,
) -> Labels:
    """Make labels of a column's cells.

    Parameters
    ----------
    words : sequence of (str or None)
        The cells.
    paths : sequence of str
        The images, for messages.
    column : str, optional
        The column's name, for messages; None for the sources' own label.
    positive : str, optional
        A comparison that makes two classes, named by itself and by its opposite.
    multilabel : str, optional
        What stands between the labels of an image; see `featbank.fit`.
    classes, exclude : sequence of str
        Only the images with these cells; not those with these. With `multilabel`, only these
        labels, and not these: the images stay.
    copies : int
        Images that were left out before, whose cells are None.

    Raises
    ------
    DataError
        The column can't be read as classes.
    """
    title = column or "label"
    excluded = list(exclude)
    if not any(word is not None for word in words):
        raise DataError(
            "no image has a label; give classes as subfolders, or a table with labels."
            if column is None
            else f"no image of the bank has a value in the column {column!r}."
        )
    if multilabel is not None:
        if positive is not None:
            raise DataError("positive makes one label an image and multilabel several; choose one.")
        y, strata = _sets(words, multilabel, title, classes, excluded)
        return Labels(y, strata, _left_out(words, y, copies))
    kept = _kept(words, classes, excluded)
    left_out = _left_out(words, kept, copies)
    if positive is not None:
        compared = _compared(kept, paths, Threshold.parse(positive), title)
        return Labels(compared, compared, left_out)
    return Labels(kept, kept, (*_notes_on(kept, title), *left_out))


def chosen_weights(
    cells: Sequence[str | None],
    labels: Sequence[Any],
    paths: Sequence[str],
    *,
    column: str,
    title: str = "sample weight",
) -> list[float]:
    """Read a column of weights; images without a label have 1, which nothing reads.

    `title` is what messages call them.

    Raises
    ------
    DataError
        With the image, for a cell that is no finite number from 0 up.
    """
    weights = []
    for cell, label, path in zip(cells, labels, paths, strict=True):
        number = 1.0 if label is None else _number(cell or "")
        if number is None or not 0 <= number < float("inf"):
            given = "is empty" if cell is None else f"is {cell!r}"
            raise DataError(
                f"the {title} of {path} (column {column!r}) {given}; give every labelled "
                "image a number from 0 up."
            )
        weights.append(number)
    return weights


def _left_out(words: Sequence[str | None], y: Sequence[Any], copies: int) -> tuple[str, ...]:
    from featbank.evaluation.inputs import note_on_copies

    missing = sum(word is None for word in words)
    others = sum(label is None for label in y) - missing
    bare = missing - copies
    notes = [
        f"{'1 image' if count == 1 else f'{count} images'} {which} left out."
        for count, which in ((bare, "without a label"), (others, "of classes not asked for"))
        if count
    ]
    return (*notes, *([note_on_copies(copies)] if copies else []))


def _kept(
    words: Sequence[str | None], classes: Sequence[str] | None, exclude: Sequence[str]
) -> list[str | None]:
    known = {word for word in words if word is not None}
    _check_known((*(classes or ()), *exclude), known)
    wanted = (set(classes) if classes else known) - set(exclude)
    if not wanted:
        raise DataError("classes and exclude together leave no class; exclude fewer.")
    return [word if word in wanted else None for word in words]


def _check_known(words: Iterable[str], known: Iterable[str]) -> None:
    known = set(known)
    for word in words:
        if word not in known:
            raise DataError(f"no image has the label {word!r}; {nearest(word, known)}")


def _compared(
    words: Sequence[str | None], paths: Sequence[str], threshold: Threshold, title: str
) -> list[str | None]:
    positive, negative = threshold.classes(title)
    answers: dict[str, bool] = {}
    for word, path in zip(words, paths, strict=True):
        if word is None or word in answers:
            continue
        answer = threshold.holds(word)
        if answer is None:
            raise DataError(
                f"{positive} compares numbers, but {title!r} of {path} is {word!r}; leave such "
                f"images out with --exclude {word!r} (exclude=), or compare words with ==."
            )
        answers[word] = answer
    if len(set(answers.values())) < 2:
        one = positive if True in answers.values() else negative
        raise DataError(
            f"{positive} makes one class of all images: each has {one}. The column holds "
            f"{_some(answers)}."
        )
    return [None if w is None else positive if answers[w] else negative for w in words]


def _notes_on(words: Sequence[str | None], title: str) -> tuple[str, ...]:
    """Refuse what can't be meant as classes, and say what may not be."""
    times = Counter(word for word in words if word is not None)
    images = times.total()
    numbers = [_number(word) for word in times]
    known = [n for n in numbers if n is not None]
    if len(known) == len(numbers) and not all(n.is_integer() for n in known):
        option = f'--positive "{title}>{(min(known) + max(known)) / 2:.3g}"'
        if len(known) > FEW_NUMBERS:
            raise DataError(
                f"the labels in {title!r} are {len(known)} different numbers with fractions, not "
                f"classes; make two classes of them with {option} (positive= in Python), or choose "
                "another column with --label."
            )
        note = (
            f"the labels in {title!r} are {len(known)} numbers with fractions, taken as classes "
            f"without order; {option} makes two classes of them."
        )
        return (note,)
    alone = sum(count == 1 for count in times.values())
    if images >= 10 and 2 * alone > images:
        raise DataError(
            f"{alone} of {images} images are the only one with their label in {title!r}, for "
            f"instance {next(w for w, n in times.items() if n == 1)!r}, so that it tells images "
            "apart rather than classes; choose another column with --label."
        )
    for mark in (SEPARATOR, "|"):
        parts = Counter(part for word in times if mark in word for part in word.split(mark))
        if parts and max(parts.values()) > 1:
            note = (
                f"some labels hold {mark!r} and are taken as they stand; if images have several "
                f'labels, ask for --multilabel "{mark}".'
            )
            return (note,)
    return ()


def _sets(
    words: Sequence[str | None],
    separator: str,
    title: str,
    classes: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[list[frozenset[str] | None], list[str | None]]:
    """Part each cell into labels; one that holds the separator alone has none."""
    if not separator.strip():
        raise DataError("multilabel is the sign between labels, such as ';', not a blank.")
    found = [
        None if w is None else frozenset(p.strip() for p in w.split(separator) if p.strip())
        for w in words
    ]
    known = {label for labels in found if labels is not None for label in labels}
    if not any(separator in word for word in words if word is not None):
        raise DataError(
            f"no label in {title!r} holds {separator!r}, so that no image has several labels; name "
            "the sign between them with --multilabel SIGN (multilabel=), or leave it out."
        )
    _check_known((*(classes or ()), *exclude), known)
    wanted = (set(classes) if classes else known) - set(exclude)
    y = [None if labels is None else labels & wanted for labels in found]
    strata = [
        None if labels is None else separator.join(sorted(labels)) or separator for labels in y
    ]
    return y, strata


def _number(text: str) -> float | None:
    """Return the number that a cell holds, or None; "nan" holds none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if number != number else number


def _some(words: Iterable[str]) -> str:
    ordered = sorted(words, key=lambda w: (_number(w) is None, _number(w) or 0.0, w))
    if len(ordered) <= 6:
        return ", ".join(ordered)
    return f"{len(ordered)} values from {ordered[0]} to {ordered[-1]}"
