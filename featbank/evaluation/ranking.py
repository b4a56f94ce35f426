"""The ranking of features: how good each is, and how far from the best."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from featbank.evaluation.baselines import baseline_line
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.text import CONFIDENCE, aligned, interval, points

__all__ = ["FeatureSet", "Ranking"]


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


@dataclass(frozen=True, repr=False)
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
    baselines : dict of str to dict
        What the majority class and chance score.
    method : str
        How intervals were made.
    p_values : dict of str to float
        Of each feature set but the best: of its difference, for all pairs at once.
    """

    features: tuple[FeatureSet, ...]
    head: str
    nested: Estimate | None
    chosen: dict[str, int]
    protocol: str
    images: int
    classes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    method: str = ""
    p_values: dict[str, float] = field(default_factory=dict)

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
        quick = list(dict.fromkeys(name for one in self.features for name in one.quick))
        titles = ["features", "columns", "KiB", self.head, "to the best", "p", *quick, "LogME"]
        rows = [[*titles, "ms"] if costs else titles]
        for one in self.features:
            gap = one.difference
            row = [
                one.name,
                str(one.width),
                f"{one.bytes / 1024:.1f}",
                interval(one.accuracy),
                "best" if gap is None else points(gap),
                f"{self.p_values[one.name]:.3f}" if one.name in self.p_values else "-",
                *(f"{one.quick[name].mean:.3f}" if one.quick else "-" for name in quick),
                "-" if one.logme is None else f"{one.logme:.3f}",
            ]
            rows.append([*row, "-" if one.cost is None else f"{one.cost:.1f}"] if costs else row)
        about = [
            f"{self.protocol}: {self.images} images, {len(self.classes)} classes",
            f"accuracy {CONFIDENCE}; to the best: points, paired; KiB"
            + (" and ms of a core" if costs else "")
            + " an image",
        ]
        below = [baseline_line(self.baselines, ["accuracy"]), self.method]
        if self.p_values:
            below.append("p: McNemar's exact test, all pairs of features at once (Holm)")
        blocks = ["\n".join([*about, "", *aligned(rows)]), "\n".join(filter(None, below))]
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
        score = interval(self.nested)
        return (
            "The best score is optimistic: the folds that show it also chose it.\nChosen inside "
            f"each training part and scored outside: {score} ({times})."
        )

    def __repr__(self) -> str:
        return self.table()
