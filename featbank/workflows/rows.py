"""Rows: images of a bank with what they are scored by, and messages that tell them by path."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featbank.backbones.trained_on import TrainedOn
from featbank.bank.bank import Bank
from featbank.bank.selection import Selection
from featbank.data.splits import SplitSpec
from featbank.errors import DataError, EvaluationError
from featbank.workflows.copies import merge_copies
from featbank.workflows.labels import (
    SEPARATOR,
    chosen_labels,
    chosen_weights,
    label_column,
    label_title,
)
from featbank.workflows.seen import trained_on_of, unseen
from featbank.workflows.splits import chosen_splits
from featbank.workflows.views import checked_combination

if TYPE_CHECKING:
    from featbank.evaluation.advice import Advice
    from featbank.evaluation.curves import LearningCurve
    from featbank.evaluation.protocols import ProtocolResult
    from featbank.evaluation.ranking import Ranking
    from featbank.evaluation.result import EvaluationResult

__all__ = [
    "NO_GROUPS",
    "ChosenRows",
    "check_jobs",
    "check_split",
    "chosen_rows",
    "further_columns",
    "layer_words",
    "select_rows",
]

NO_GROUPS = "none"
"""The word for groups that are ignored."""

Result = TypeVar(
    "Result", bound="Advice | EvaluationResult | LearningCurve | ProtocolResult | Ranking"
)


@dataclasses.dataclass(frozen=True)
class ChosenRows:
    """Images with their labels, and what keeps some of them together or apart.

    Attributes
    ----------
    selection : Selection
    y : list of (str, frozenset of str, or None)
        None leaves the image out.
    splits, groups : list of (str or None), or None
        None where no image has one.
    notes : tuple of str
    metric_weight : list of float, or None
        How much each image counts in metrics; those of weight 0 are not scored.
    weighted_by : str or None
        The column that metric weights were read from.
    keep_copies : bool
    """

    selection: Selection
    y: list[Any]
    splits: list[str | None] | None
    groups: list[str | None] | None
    notes: tuple[str, ...]
    metric_weight: list[float] | None = None
    weighted_by: str | None = None
    keep_copies: bool = False

    @property
    def bound(self) -> dict[str, Any]:
        """Splits, groups and digests, as the functions of `featbank.evaluation` take them."""
        return {
            "splits": self.splits,
            "groups": self.groups,
            "digests": self.selection.digests,
            "keep_copies": self.keep_copies,
        }

    @property
    def scored(self) -> dict[str, Any]:
        """The same with the metric weights, for functions that score."""
        return {**self.bound, "metric_weight": self.metric_weight}

    def check(self, how: Any, **options: Any) -> None:
        """Refuse options that no features would make possible.

        Parameters
        ----------
        how : str, estimator, or sequence of them
        **options
            Of `featbank.evaluation.options.check_options`.

        Raises
        ------
        EvaluationError, HeadError
        """
        from featbank.evaluation.inputs import named
        from featbank.evaluation.options import check_options

        try:
            check_options(self.y, how, **options)
        except EvaluationError as error:
            raise EvaluationError(named(str(error), self.selection.paths)) from error

    def score(self, function: Callable[..., Result], X: Any, how: Any, **options: Any) -> Result:
        """Return ``function(X, y, how, ...)``, whose messages tell images by their paths.

        Raises
        ------
        EvaluationError
            What the function raises, with paths in place of rows.
        """
        from featbank.evaluation.inputs import UNLABELLED, named

        paths = self.selection.paths
        try:
            result = function(X, self.y, how, **self.scored, **options)
        except EvaluationError as error:
            raise EvaluationError(named(str(error), paths)) from error
        told = (named(note, paths) for note in result.notes if not note.endswith(UNLABELLED))
        result = dataclasses.replace(result, notes=(*self.notes, *told))
        return self.titled(result)

    def titled(self, result: Result) -> Result:
        """Return a result that names the column its metrics are weighted by."""
        from featbank.evaluation.result import EvaluationResult

        if self.weighted_by is None:
            return result
        if isinstance(result, EvaluationResult):
            named = self.weighted_by if result.metric_weight else None
            return dataclasses.replace(result, metric_weight=named)
        note = f"every score is weighted by {self.weighted_by}."
        return dataclasses.replace(result, notes=(note, *result.notes))


def check_jobs(n_jobs: int | None) -> None:
    """Refuse a number of fits at a time that means nothing.

    Raises
    ------
    EvaluationError
    """
    if n_jobs == 0:
        raise EvaluationError("n_jobs is 0; give the number of fits at a time, or -1: one a core.")


def check_split(split: str | None) -> None:
    """Refuse a split that can't be read, whatever the images.

    Raises
    ------
    DataError
    """
    if split not in (None, "none"):
        SplitSpec.parse(split)


def layer_words(layers: str | Sequence[str] | None) -> Sequence[str] | None:
    """Return the names of layers that a text with commas holds."""
    return layers.split(",") if isinstance(layers, str) else layers


def further_columns(*titles: str | None) -> list[str]:
    """Return the columns that are read besides the label, each once."""
    return [title for title in dict.fromkeys(titles) if title is not None and title != NO_GROUPS]


def select_rows(
    bank: Bank | str | os.PathLike[str],
    *,
    recipe: str | None,
    layers: str | Sequence[str] | None,
    source: str | Sequence[str] | None,
    label: str | None,
    positive: str | None,
    views: str | None = None,
    combine: str | None = None,
    group: str | None = None,
    metric_weight: str | None = None,
    check: Callable[[ChosenRows], None] = lambda rows: None,
    **words: Any,
) -> ChosenRows:
    """Read features and choose labels and splits as `featbank.fit` says.

    Parameters
    ----------
    bank : Bank or path
    recipe, layers, source, label, positive, views, combine, group, metric_weight
        As in `featbank.fit`.
    check : callable
        Given the rows before their features are read, to refuse other options.
    **words
        The other words of `chosen_rows`.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    column = label_column(label, positive)
    with bank.using():
        located = bank.locate(
            recipe,
            layer_words(layers),
            views=views,
            combine=checked_combination(views, combine),
            source=source,
            label=column,
            further=further_columns(group, metric_weight),
        )
        rows = chosen_rows(
            located.selection,
            bank=bank,
            column=column,
            positive=positive,
            group=group,
            metric_weight=metric_weight,
            **words,
        )
        check(rows)
        features = located.read(slice(None))
    selection = dataclasses.replace(rows.selection, X=features)
    return dataclasses.replace(rows, selection=selection)


def chosen_rows(
    selection: Selection,
    *,
    bank: Bank | None,
    column: str | None,
    positive: str | None,
    multilabel: str | bool | None = None,
    classes: Sequence[str] | None,
    exclude: Sequence[str],
    split: str | None,
    random_state: int,
    group: str | None = None,
    metric_weight: str | None = None,
    keep_copies: bool = False,
    trained_on: Sequence[TrainedOn | None] | None = None,
) -> ChosenRows:
    """Choose labels and splits for images of a bank.

    Parameters
    ----------
    selection : Selection
    bank : Bank or None
        Where a split that is made here is kept; None keeps it nowhere.
    column : str or None
        What the selection's labels were read from; see
        `featbank.workflows.labels.label_column`.
    positive, multilabel, classes, exclude, split, random_state, group, metric_weight
        As in `featbank.fit`.
    keep_copies
        As in `featbank.fit`.
    trained_on : sequence of TrainedOn or None, optional
        Of each network whose features are scored; by default the selection's own.

    Returns
    -------
    ChosenRows
        Copies have no label, and the images that stay have what their copies know.

    Raises
    ------
    DataError, EvaluationError
        The labels can't be read as classes, the splits can't be had, or the network has seen too
        many images.
    """
    separator = SEPARATOR if multilabel is True else multilabel or None
    stays = np.ones(len(selection.paths), np.bool_)
    if not keep_copies:
        selection, stays = merge_copies(selection, given_splits=split is None)
    found = chosen_labels(
        [word if stay else None for word, stay in zip(selection.labels, stays, strict=True)],
        selection.paths,
        column=column,
        positive=positive,
        multilabel=separator,
        classes=classes,
        exclude=exclude,
        copies=int((~stays).sum()),
    )
    groups = _groups(selection, group)
    weights = None
    if metric_weight is not None:
        weights = chosen_weights(
            selection.further[metric_weight],
            found.y,
            selection.paths,
            column=metric_weight,
            title="metric weight",
        )
    strata = found.strata
    if split is not None and not split.startswith("first"):  # which would count copies
        # Copies go where their image goes, and bind it to their own groups.
        known = zip(selection.digests, strata, strict=True)
        of_image = {key.tobytes(): word for key, word in known if word is not None}
        strata = [
            of_image.get(key.tobytes()) if word is None and not stay else word
            for key, word, stay in zip(selection.digests, strata, stays, strict=True)
        ]
    splits, notes = chosen_splits(
        selection,
        strata,
        split,
        random_state,
        groups=groups,
        bank=bank,
        title=label_title(column, positive, separator, group),
    )
    if trained_on is None:
        trained_on = [trained_on_of(selection.trained_on, selection.request)]
    own = split is None and splits is not None  # splits as given tear groups apart at will
    bound = None if own else groups
    kept, told = unseen(trained_on, selection.digests, found.y, splits=splits, groups=bound)
    if kept is not None:
        weights = (kept if weights is None else np.array(weights) * kept).astype(float).tolist()
    return ChosenRows(
        selection,
        found.y,
        splits,
        groups,
        (*_note_on_unreadable(selection.unreadable), *found.notes, *notes, *told),
        weights,
        metric_weight,
        keep_copies=keep_copies,
    )


def _groups(chosen: Selection, group: str | None) -> list[str | None] | None:
    """Return the group of each image, by the index or by a column; None where there are none."""
    if group == NO_GROUPS:
        return None
    words = chosen.groups if group is None else chosen.further[group]
    if any(word is not None for word in words):
        return list(words)
    if group is None:
        return None
    raise DataError(
        f"no image has a value in the column {group!r}, so that it names no groups; choose another "
        f"column, or {NO_GROUPS!r} to ignore groups."
    )


def _note_on_unreadable(n: int) -> tuple[str, ...]:
    if not n:
        return ()
    many = "1 indexed image" if n == 1 else f"{n:,} indexed images"
    left_out = f"could not be read and {'is' if n == 1 else 'are'} left out"
    return (f"{many} {left_out}; featbank info --errors lists them.",)
