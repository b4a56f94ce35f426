"""The result of learning curves: points, gains, laws, and what they say of further labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from featbank.evaluation.baselines import baseline_line
from featbank.evaluation.curves.law import LEAST_POINTS, Law
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.text import CONFIDENCE, aligned, interval, points

__all__ = ["METRICS", "CurvePoint", "Gain", "HeadCurve", "LearningCurve"]

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class CurvePoint:
    """A score at one number of labels.

    Attributes
    ----------
    labels : int
        Labels a class.
    images : int
        Rows that were learned from in each draw.
    metrics : dict of str to Estimate
        accuracy and balanced_accuracy, one value a draw.
    """

    labels: int
    images: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Gain:
    """What doubling the labels adds to the score, with its 95 % interval.

    Attributes
    ----------
    labels : int
        Labels a class before doubling.
    mean, low, high : float
    """

    labels: int
    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"from": self.labels, "to": 2 * self.labels, "mean": self.mean,
                "ci95": [self.low, self.high]}  # fmt: skip


@dataclass(frozen=True)
class HeadCurve:
    """The curve of one head.

    Attributes
    ----------
    head : str
    points : tuple of CurvePoint
        By labels a class.
    gains : tuple of Gain
        Of each doubling that was drawn: differences between fits of the same draw, for a draw of
        2n holds that of n.
    law : Law or None
        Through the points; None where there are fewer than four.
    next_gain : Gain or None
        Of doubling once more, by the law; its interval is the jackknife's over draws, and says
        nothing of whether the law goes on to hold.
    worth : float
        The gain of doubling below which more labels don't pay.
    seconds : float
    notes : tuple of str
    """

    head: str
    points: tuple[CurvePoint, ...]
    gains: tuple[Gain, ...]
    law: Law | None
    next_gain: Gain | None
    worth: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """What the next doubling brings: "pays", "stops" (less than `worth`), or "open"."""
        if self.next_gain is None:
            return "open"
        if self.next_gain.low >= self.worth:
            return "pays"
        return "stops" if self.next_gain.high < self.worth else "open"

    @property
    def pays_until(self) -> float | None:
        """Labels a class from which doubling adds less than `worth`, by the law; if need be inf."""
        return None if self.law is None else self.law.pays_until(self.worth)

    def reading(self) -> str:
        """Return where more labels stop paying, in a sentence or two."""
        said = []
        if self.gains:
            last = self.gains[-1]
            said.append(
                f"the last doubling ({last.labels} to {2 * last.labels} a class) brought "
                f"{points(last)} points."
            )
        if self.law is None or self.next_gain is None or self.pays_until is None:
            return " ".join([*said, f"A law needs {LEAST_POINTS} sizes of draw."])
        top, gain = self.points[-1].labels, self.next_gain
        said.append(f"The next ({top} to {2 * top}) should bring {points(gain)} if the law holds:")
        worth = f"{100 * self.worth:g} point" + "s" * (self.worth != 0.01)
        if self.verdict == "open":
            said.append(f"whether it is worth {worth} can't be told from these draws.")
        elif self.verdict == "stops":
            since = max(self.points[0].labels, _rounded(self.pays_until))
            said.append(f"more labels stop paying ({worth} a doubling) at about {since} a class.")
        else:
            beyond = self.pays_until > 4 * top
            until = f"more than {4 * top}" if beyond else f"about {_rounded(self.pays_until)}"
            said.append(f"more labels pay ({worth} a doubling or more), up to {until} a class.")
        return " ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "head": self.head,
            "points": [
                {
                    "labels": point.labels,
                    "images": point.images,
                    **{name: estimate.to_dict() for name, estimate in point.metrics.items()},
                }
                for point in self.points
            ],
            "gains": [gain.to_dict() for gain in self.gains],
            "law": self.law and dataclasses.asdict(self.law),
            "next_gain": self.next_gain and self.next_gain.to_dict(),
            "verdict": self.verdict,
            "pays_until": None if self.pays_until == float("inf") else self.pays_until,
            "reading": self.reading(),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, repr=False)
class LearningCurve:
    """Learning curves of several heads on the same draws.

    Attributes
    ----------
    heads : tuple of HeadCurve
    metric : str
        What gains and laws are about.
    worth : float
    draws : int
        Draws of each size.
    protocol : str
        What was done, in a few words.
    images : int
        Labelled rows.
    classes : tuple of str
    notes : tuple of str
    baselines : dict of str to dict
        What the majority class and chance score.
    """

    heads: tuple[HeadCurve, ...]
    metric: str
    worth: float
    draws: int
    protocol: str
    images: int
    classes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)

    def __getitem__(self, head: str) -> HeadCurve:
        """Return the curve of the head of this name."""
        for found in self.heads:
            if found.head == head:
                return found
        raise KeyError(f"{head!r} is none of {', '.join(h.head for h in self.heads)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank curve --json`` prints it."""
        return {
            "heads": [head.to_dict() for head in self.heads],
            "metric": self.metric,
            "worth": self.worth,
            "draws": self.draws,
            "protocol": self.protocol,
            "images": self.images,
            "classes": list(self.classes),
            "baselines": self.baselines,
            "notes": list(self.notes),
        }

    def rows(self) -> list[list[Any]]:
        """Return a title line and one line a head and number of labels, for a table's file."""
        titles = [t for name in METRICS for t in (name, f"{name}_low", f"{name}_high")]
        table: list[list[Any]] = [["head", "labels_per_class", "images", "draws", *titles]]
        for head in self.heads:
            for point in head.points:
                found = [point.metrics[name] for name in METRICS]
                figures = [v for e in found for v in (e.mean, e.low, e.high)]
                table.append([head.head, point.labels, point.images, self.draws, *figures])
        return table

    def table(self) -> str:
        """Return the curves as plain text, and what they say of further labels."""
        rows = [["labels a class", "images", *(head.head for head in self.heads)]]
        for i, point in enumerate(self.heads[0].points):
            found = [head.points[i].metrics[self.metric] for head in self.heads]
            cells = [interval(e) for e in found]
            rows.append([str(point.labels), str(point.images), *cells])
        head = f"{self.protocol}: {self.images} images, {len(self.classes)} classes"
        what = f"{METRICS[self.metric]}, mean of {self.draws} draws {CONFIDENCE}"
        below = [line for line in [baseline_line(self.baselines, [self.metric])] if line]
        below.append("intervals: t over draws, whose variance is corrected for what they share")
        blocks = [
            "\n".join([head, what, "", *aligned(rows, left=()), "", *below]),
            "\n".join(f"{one.head}: {one.reading()}" for one in self.heads),
        ]
        notes = [*self.notes, *(f"{one.head}: {note}" for one in self.heads for note in one.notes)]
        if notes:
            blocks.append("\n".join(f"note: {note}" for note in notes))
        return "\n\n".join(blocks)

    def __repr__(self) -> str:
        return self.table()


def _rounded(n: float) -> int:
    """Return a number of labels with one digit that counts: a law knows no more."""
    if n < 1:
        return 1
    size = 10 ** (len(str(int(n))) - 1)
    return round(n / size) * size
