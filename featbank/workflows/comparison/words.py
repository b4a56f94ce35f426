"""The words that all rows of a comparison share, and what each row comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featbank.backbones.trained_on import TrainedOn
from featbank.bank.bank import Bank
from featbank.bank.selection import Selection
from featbank.workflows.labels import label_column
from featbank.workflows.rows import ChosenRows, chosen_rows, further_columns

if TYPE_CHECKING:
    from featbank.evaluation.result import HeadResult

__all__ = ["RowOutcome", "RowWords"]

_COSTS = ("seconds_per_1000", "peak_bytes", "trained", "parameters")


@dataclass(frozen=True)
class RowWords:
    """Which images of a bank, and the folds: the words that all rows share.

    Attributes
    ----------
    bank : str
        Absolute path.
    source, label, positive, classes, exclude, split, keep_copies, group, metric_weight
        As in `featbank.fit`.
    cv, repeats, random_state
        As there.
    trained_on : tuple of TrainedOn or None
        Of the networks of all rows.
        As in `featbank.fit`.
    """

    bank: str
    source: str | Sequence[str] | None = None
    label: str | None = None
    positive: str | None = None
    classes: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    split: str | None = None
    group: str | None = None
    metric_weight: str | None = None
    keep_copies: bool = False
    cv: int | float | None = None
    repeats: int = 1
    random_state: int = 0
    trained_on: tuple[TrainedOn | None, ...] = ()

    @property
    def column(self) -> str | None:
        """The column that labels are read from."""
        return label_column(self.label, self.positive)

    @property
    def further(self) -> list[str]:
        """The columns that are read besides the label."""
        return further_columns(self.group, self.metric_weight)

    def rows(self, selection: Selection) -> ChosenRows:
        """Choose labels and splits of these images."""
        return chosen_rows(
            selection,
            bank=Bank(self.bank),
            column=self.column,
            positive=self.positive,
            classes=self.classes,
            exclude=self.exclude,
            split=self.split,
            random_state=self.random_state,
            group=self.group,
            metric_weight=self.metric_weight,
            keep_copies=self.keep_copies,
            trained_on=self.trained_on,
        )

    @property
    def folds(self) -> dict[str, Any]:
        """The words of the folds, as `featbank.cross_validate` takes them."""
        return {"cv": self.cv, "repeats": self.repeats, "random_state": self.random_state}


@dataclass(frozen=True)
class RowOutcome:
    """What a row came to; see `featbank.evaluation.compared.ComparedRow`."""

    result: HeadResult
    seconds_per_1000: float | None = None
    peak_bytes: int | None = None
    trained: int | None = None
    parameters: int | None = None
    trainings: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def costs(self) -> dict[str, Any]:
        """Return the figures, by name."""
        return {name: getattr(self, name) for name in _COSTS}
