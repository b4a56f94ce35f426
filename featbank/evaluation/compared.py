"""The comparison: frozen heads, fine-tuned networks and networks from scratch in one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from featbank.evaluation.baselines import baseline_line
from featbank.evaluation.comparison import adjusted, differences
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.result import EvaluationResult, HeadResult
from featbank.evaluation.text import CONFIDENCE, aligned, counted, interval, points
from featbank.frames import data_frame

__all__ = ["KINDS", "ComparedRow", "ComparisonResult"]

KINDS = ("frozen", "finetune", "scratch")
_WIDEST = 30  # characters of a name; a title makes a long one short
_SCORES = ("accuracy", "macro_f1")
_TITLES = ("", "accuracy", "macro F1", "difference", "p", "train s", "s/1000", "MiB", "parameters")
_NONE = Estimate(math.nan, math.nan, math.nan, ())
_COSTS = 5
"""Where costs begin in a row."""


@dataclass(frozen=True)
class ComparedRow:
    """One way to learn, its scores and its costs.

    Attributes
    ----------
    name : str
    kind : {"frozen", "finetune", "scratch"}
    result : HeadResult
    difference : dict of str to Estimate, or None
        By how much accuracy and macro_f1 are above those of the best frozen head; None for that.
    p_values : dict of str to float, or None
        Of these differences, for all pairs of rows at once.
    seconds_per_1000 : float or None
        Of one core, from image files to classes; None where the network can't be built here.
    peak_bytes : int or None
        The most memory that the process held that trained it.
    trained, parameters : int or None
        Numbers that training chose, of so many in the whole network or head; None where a head of
        the caller's doesn't say.
    cached : bool
        Whether it was there from an earlier comparison.
    settings : dict
        What the row is made of.
    trainings : tuple of dict
        How the training of each part went, epoch by epoch; none for frozen rows.
    notes : tuple of str
    """

    name: str
    kind: str
    result: HeadResult
    difference: dict[str, Estimate] | None = None
    p_values: dict[str, float] | None = None
    seconds_per_1000: float | None = None
    peak_bytes: int | None = None
    trained: int | None = None
    parameters: int | None = None
    cached: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    trainings: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of choosing, training and predicting, all folds together."""
        return self.result.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        told = self.result.to_dict()
        return {
            "name": self.name,
            "kind": self.kind,
            **{name: told[name] for name in self.result.metrics},
            "difference": self.difference
            and {name: one.to_dict() for name, one in self.difference.items()},
            "p_values": self.p_values,
            "train_seconds": self.seconds,
            "seconds_per_1000": self.seconds_per_1000,
            "peak_bytes": self.peak_bytes,
            "parameters_trained": self.trained,
            "parameters": self.parameters,
            "cached": self.cached,
            "settings": self.settings,
            "trainings": list(self.trainings),
            "best_params": told["best_params"],
            "fold_params": told["fold_params"],
            "per_class": told["per_class"],
            "confusion": told["confusion"],
            "without_duplicates": told["without_duplicates"],
            "notes": [*self.notes, *told["notes"]],
        }


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """Rows on identical folds, or on one split, the most accurate first.

    Attributes
    ----------
    rows : tuple of ComparedRow
    evaluation : EvaluationResult
        The rows' scores as `featbank.fit` gives them, under the rows' names.
    reference : str
        The row that others are compared with: the best frozen head, else the best row.
    features : str
        Whose features the frozen rows have, where all have the same.
    notes : tuple of str
    """

    rows: tuple[ComparedRow, ...]
    evaluation: EvaluationResult
    reference: str
    features: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[ComparedRow],
        evaluation: EvaluationResult,
        *,
        features: str = "",
        notes: Sequence[str] = (),
    ) -> ComparisonResult:
        """Put rows in order and compare them with the best frozen one.

        Parameters
        ----------
        rows : sequence of ComparedRow
            Without differences.
        evaluation : EvaluationResult
            Of the same rows.
        features, notes
        """
        by = "balanced_accuracy" if evaluation.imbalanced else "accuracy"
        ranked = sorted(rows, key=lambda row: -row.result.metrics[by].mean)
        reference = next((row for row in ranked if row.kind == "frozen"), ranked[0])
        best = reference.result
        p = adjusted([row.result for row in rows], best.head, _SCORES)
        return cls(
            tuple(
                row if row is reference else _with_difference(row, best, p[row.result.head])
                for row in ranked
            ),
            evaluation,
            reference.name,
            features,
            tuple(notes),
        )

    def __getitem__(self, name: str) -> ComparedRow:
        """Return the row of this name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {', '.join(row.name for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank compare --json`` prints it."""
        one = self.evaluation
        return {
            "rows": [row.to_dict() for row in self.rows],
            "reference": self.reference,
            "interval": self._interval,
            "metric_weight": self.evaluation.metric_weight,
            "intervals": one.method,
            "baselines": one.baselines,
            "choice": one.choice and one.choice.to_dict(),
            "protocol": one.protocol,
            "folds": one.folds,
            "images": one.images,
            "classes": list(one.classes),
            "features": self.features,
            "notes": [*one.notes, *self.notes],
        }

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict a row, for a table with a column each.

        Examples
        --------
        >>> import featbank
        >>> featbank.compare("bank").records()[0]["accuracy_low"]  # doctest: +SKIP
        """
        found = []
        for row in self.rows:
            record: dict[str, Any] = {"name": row.name, "kind": row.kind}
            for name in _SCORES:
                record |= row.result.metrics[name].columns(name)
            for name in _SCORES:
                own = _NONE if row.difference is None else row.difference[name]
                record |= own.columns(f"{name}_difference")
            found.append(
                {
                    **record,
                    "train_seconds": row.seconds,
                    "seconds_per_1000": row.seconds_per_1000,
                    "peak_bytes": row.peak_bytes,
                    "parameters_trained": row.trained,
                    "parameters": row.parameters,
                    "cached": row.cached,
                }
            )
        return found

    def to_frame(self) -> Any:
        """Return `records` as a pandas DataFrame.

        Raises
        ------
        MissingDependency
            pandas is not installed.
        """
        return data_frame(self.records())

    def table(self) -> str:
        """Return the comparison as plain text for a terminal."""
        rows = [list(_TITLES), *self._lines]
        costs = [[row[0], *row[_COSTS:]] for row in rows if any(row[_COSTS:])]
        blocks = [
            "\n".join(self._head),
            "\n".join(aligned([row[:_COSTS] for row in rows])),
            "\n".join(aligned(costs)),
            "\n".join(self._legend),
        ]
        if notes := self._all_notes:
            blocks.append("\n".join(f"note: {note}" for note in notes))
        return "\n\n".join(blocks)

    def markdown(self) -> str:
        """Return the comparison as a table in Markdown, with what it says around it."""
        cells = [[_escaped(title), *row] for title, *row in self._lines]
        lines = [f"| {' | '.join(row)} |" for row in (_TITLES, ["---"] + ["---:"] * 8, *cells)]
        after = [*self._legend, *(f"Note: {note}" for note in self._all_notes)]
        return "\n".join([*(f"{line}  " for line in self._head), "", *lines, "",
                          *(f"{_escaped(line)}  " for line in after)])  # fmt: skip

    def __repr__(self) -> str:
        return self.table()

    @property
    def _lines(self) -> list[list[str]]:
        """The cells of the table."""
        lines = []
        for row in self.rows:
            lines.append(
                [
                    _shortened(row.name) + " *" * row.cached,
                    *(interval(row.result.metrics[name]) for name in _SCORES),
                    _difference(row),
                    "-" if row.p_values is None else f"{row.p_values['accuracy']:.3f}",
                    _number(row.seconds, 1),
                    _number(row.seconds_per_1000, 1),
                    _number(None if row.peak_bytes is None else row.peak_bytes / 2**20),
                    _number(row.trained),
                ]
            )
            if row.result.without_duplicates is not None:
                clean = row.result.without_duplicates
                scores = [interval(clean[name]) if name in clean else "-" for name in _SCORES]
                lines.append(["  no duplicates", *scores, *[""] * 6])
        return lines

    @property
    def _interval(self) -> str:
        return "paired, on the same images"

    @property
    def _head(self) -> list[str]:
        one = self.evaluation
        held = f"{one.images} images, {counted(len(one.classes), 'class')}"
        word = "mean" if one.folds > 1 else "score"
        frozen = [row for row in self.rows if row.kind == "frozen"]
        best = "the best frozen head" if frozen else "the best row"
        lines = [
            f"{one.protocol}: {held}",
            f"{word} {CONFIDENCE}",
            f"difference in accuracy to {self.reference}, {best}, in points ({self._interval})",
        ]
        if one.metric_weight:
            lines.append(f"every metric is weighted by {one.metric_weight}")
        if self.features:
            lines.append(f"frozen features: {self.features}")
        return lines

    @property
    def _legend(self) -> list[str]:
        choice = self.evaluation.choice
        lines = [
            baseline_line(self.evaluation.baselines, _SCORES),
            self.evaluation.method,
            "p: accuracy, McNemar's exact test, for all pairs of rows at once (Holm)",
            *([] if choice is None else str(choice).splitlines()),
            "train s: choosing, training and predicting, all folds; frozen features were there",
            "s/1000: seconds of one core for 1,000 images, reading, decoding and network included",
            "MiB: peak memory of the process that trained; parameters: numbers that training chose",
        ]
        if any(row.cached for row in self.rows):
            lines.append("* kept from an earlier comparison; --fresh computes it again")
        return lines

    @property
    def _all_notes(self) -> list[str]:
        owners: dict[str, list[str]] = {}
        for row in self.rows:
            for note in (*row.notes, *row.result.notes):
                owners.setdefault(note, []).append(row.name)
        own = [f"{', '.join(names)}: {note}" for note, names in owners.items()]
        return [*self.evaluation.notes, *self.notes, *own]


def _with_difference(row: ComparedRow, reference: HeadResult, p: dict[str, float]) -> ComparedRow:
    import dataclasses

    found = differences(row.result, reference, _SCORES)
    return dataclasses.replace(row, difference=found, p_values=p)


def _difference(row: ComparedRow) -> str:
    return "-" if row.difference is None else points(row.difference["accuracy"])


def _escaped(text: str) -> str:
    """Return text without the signs that Markdown would take for its own."""
    for sign in "|*":
        text = text.replace(sign, "\\" + sign)
    return text


def _shortened(name: str) -> str:
    return name if len(name) <= _WIDEST else name[: _WIDEST - 3] + "..."


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
