"""The result of a protocol: its scores, every constant, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.baselines import baseline_line, baselines, label_baselines
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.metrics import METRICS
from featbank.evaluation.text import CONFIDENCE, aligned, interval

__all__ = ["ProtocolResult", "Setting"]

Array = npt.NDArray[Any]

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "voc_map")
TITLES = {**METRICS, "voc_map": "mAP"}


@dataclass(frozen=True)
class Setting:
    """One line of a protocol's table.

    Attributes
    ----------
    head : str
        What learned, and by which setting: ``"knn, k = 20"``.
    metrics : dict of str to Estimate
        ``voc_map`` with ``voc07-svm``; all others where an image has one class.
    chosen : tuple of dict
        What each fit chose.
    per_class : dict of str to float
        What the protocol's own metric is the mean of, where it is one over classes: average
        precision, NaN where no image of test is of the class.
    predicted : ndarray of shape (fits, m), intp
        For the test rows, positions in the result's `classes` (the highest score's).
    scores : ndarray of shape (fits, m, K), or None
    seconds : float
        Of choosing, fitting and predicting, summed over fits.
    without_duplicates : dict of str to Estimate, or None
        The metrics of fits without the images whose copies are scored on.
    """

    head: str
    metrics: dict[str, Estimate]
    chosen: tuple[dict[str, Any], ...]
    per_class: dict[str, float] = field(repr=False)
    predicted: Array = field(repr=False)
    scores: Array | None = field(repr=False)
    seconds: float
    without_duplicates: dict[str, Estimate] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        clean = self.without_duplicates
        known = {k: None if np.isnan(v) else v for k, v in self.per_class.items()}
        return {
            "head": self.head,
            **{name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "best_params": self.chosen[0] if len(self.chosen) == 1 else {},
            "fold_params": list(self.chosen),
            "per_class": known,
            "seconds": self.seconds,
            "without_duplicates": clean and {name: e.to_dict() for name, e in clean.items()},
        }


@dataclass(frozen=True, repr=False)
class ProtocolResult:
    """How features did by a published protocol.

    Attributes
    ----------
    protocol : str
        Its name.
    description : str
        Three lines: what is fitted, what is chosen, the source.
    constants : dict
        All numbers that it went by.
    settings : tuple of Setting
        What the protocol reports, a line each.
    train, valid, test : int
        Rows; of few-shot protocols those that are drawn from.
    rows : ndarray of shape (m,), intp
        Positions of the test rows in what was given.
    y_true : ndarray of shape (m,) intp, or (m, K) bool
        Their classes.
    classes : tuple of str
    duplicates : int
        Images whose bytes another image before them has.
    random_state : int
        Seed of splits and solvers.
    notes : tuple of str
        What a reader of the scores should know.
    """

    protocol: str
    description: str
    constants: dict[str, Any]
    settings: tuple[Setting, ...]
    train: int
    valid: int
    test: int
    rows: Array = field(repr=False)
    y_true: Array = field(repr=False)
    classes: tuple[str, ...]
    duplicates: int
    random_state: int
    notes: tuple[str, ...] = ()

    def __getitem__(self, head: str) -> Setting:
        """Return the setting of this name."""
        for found in self.settings:
            if found.head == head:
                return found
        raise KeyError(f"{head!r} is none of {', '.join(s.head for s in self.settings)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank fit --protocol NAME --json`` prints it."""
        return {
            "heads": [setting.to_dict() for setting in self.settings],
            "protocol": self.protocol,
            "source": self.description.splitlines()[-1],
            "constants": self.constants,
            "folds": max(len(setting.chosen) for setting in self.settings),
            "images": self.train + self.valid + self.test,
            "train": self.train,
            "valid": self.valid,
            "test": self.test,
            "classes": list(self.classes),
            "duplicates": self.duplicates,
            "baselines": self.baselines,
            "random_state": self.random_state,
            "notes": list(self.notes),
        }

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """What the majority class and chance score on the test rows."""
        if self.y_true.ndim == 2:
            return {"chance": {"voc_map": label_baselines(self.y_true)["chance"]["map"]}}
        return baselines(np.bincount(self.y_true))

    def table(self, *, details: bool = False) -> str:
        """Return scores and constants as plain text; with `details` also figures of each class."""
        counts = f"{self.train} images of train"
        counts += f", {self.valid} of valid" if self.valid else ""
        counts += f", scored on {self.test} of test; {len(self.classes)} classes"
        many = "s" * (self.duplicates > 1)
        counts += f", {self.duplicates} duplicate{many}" if self.duplicates else ""
        seeds = max(len(setting.chosen) for setting in self.settings)
        scale = f"score {CONFIDENCE}"
        if seeds > 1:
            scale = f"mean {CONFIDENCE} over {seeds} seeds, scored on the same test"
        constants = {**self.constants, "random_state": self.random_state}
        blocks = [
            f"{self.protocol}: {counts}",
            "\n".join(f"  {line}" for line in self.description.splitlines()),
            "\n".join(f"  {line}" for line in aligned(_constants(constants), left=(0, 1))),
            scale,
            "\n".join(self._lines()),
            baseline_line(self.baselines, SHOWN),
        ]
        if details:
            blocks += [
                "\n".join(aligned(_per_class(setting)))
                for setting in self.settings
                if setting.per_class
            ]
        if self.notes:
            blocks.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(blocks)

    def __repr__(self) -> str:
        return self.table()

    def _lines(self) -> list[str]:
        known = [n for n in SHOWN if any(n in setting.metrics for setting in self.settings)]
        own = self.constants["metric"]
        names = [own, *(name for name in known if name != own)]
        lines = [["head", *(TITLES[name] for name in names), "seconds", "chosen"]]
        for setting in self.settings:
            cells = [_estimate(setting.metrics.get(name)) for name in names]
            chosen = _span(setting.chosen)
            lines.append([setting.head, *cells, f"{setting.seconds:.1f}", chosen])
            if setting.without_duplicates is not None:
                clean = setting.without_duplicates
                lines.append(["  no duplicates", *(_estimate(clean.get(n)) for n in names), "", ""])
        if not any(line[-1] for line in lines[1:]):
            return aligned([line[:-1] for line in lines])
        return aligned(lines, left=(0, len(lines[0]) - 1))


def _constants(constants: Mapping[str, Any]) -> list[list[str]]:
    def text(value: Any) -> str:
        several = isinstance(value, list)
        return " ".join(map(text, value)) if several else f"{value:g}" if _number(value) else value

    return [[name, text(value)] for name, value in constants.items()]


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return interval(estimate)


def _span(chosen: tuple[dict[str, Any], ...]) -> str:
    """Return what was chosen: a value, or the lowest and the highest of several numbers."""
    parts = []
    for name in chosen[0]:
        values = [one[name] for one in chosen]
        if isinstance(values[0], dict):
            values = [value for one in values for value in one.values()]
        word = name.rpartition("__")[2]
        if len(set(values)) == 1:
            parts.append(f"{word}={values[0]:.3g}" if _number(values[0]) else f"{word}={values[0]}")
        else:
            parts.append(f"{word}={min(values):.3g} to {max(values):.3g}")
    return ", ".join(parts)


def _per_class(setting: Setting) -> list[list[str]]:
    chosen = setting.chosen[0].get("C", {})
    rows = [["class", "AP", "C"]]
    for name, value in setting.per_class.items():
        rows.append([name, "-" if np.isnan(value) else f"{value:.3f}", f"{chosen[name]:g}"])
    return rows
