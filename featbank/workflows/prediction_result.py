"""Predictions of a saved classifier: one an image, as text, CSV, JSON or a data frame."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featbank import durable
from featbank.errors import DataError, nearest, readable
from featbank.frames import data_frame
from featbank.targets import prepare_target

if TYPE_CHECKING:
    from featbank.classifier import Classifier, Prediction
    from featbank.finetuning.tuned import TunedClassifier

__all__ = ["CSV_STYLES", "ImagePrediction", "PredictionResult"]

CSV_STYLES = ("full", "kaggle")
"""Tables that `PredictionResult.csv` writes."""

_COLUMNS = ("path", "label", "probability", "status")
_SHOWN = 10  # rows of a result's repr


@dataclass(frozen=True)
class ImagePrediction:
    """The most likely classes of one image, the predicted one first.

    Where an image may have several labels, `labels` are those that it has, else None.
    """

    path: str
    top: tuple[Prediction, ...]
    labels: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.top[0].label

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        top = [{"label": p.label, "probability": p.probability, "score": p.score} for p in self.top]
        several = {} if self.labels is None else {"labels": list(self.labels)}
        return {"path": self.path, **top[0], **several, "top": top}


@dataclass(frozen=True, repr=False)
class PredictionResult:
    """Predictions of all images that could be read, and why the others could not.

    Attributes
    ----------
    predictions : tuple of ImagePrediction
    failed : tuple of (str, str)
        Path and reason of each image that could not be read.
    classifier : Classifier or TunedClassifier
    computed, reused : int
        Images that went through the network, and images whose features the bank had.
    paths : tuple of str
        All images that were asked for, as they were named, in that order.
    """

    predictions: tuple[ImagePrediction, ...]
    failed: tuple[tuple[str, str], ...]
    classifier: Classifier | TunedClassifier
    computed: int
    reused: int
    paths: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "predictions": [p.to_dict() for p in self.predictions],
            "failed": [{"path": path, "reason": reason} for path, reason in self.failed],
        }

    def to_frame(self, *, probabilities: bool = False) -> Any:
        """Return a pandas DataFrame with one row an image that was asked for.

        Its columns are ``path``, ``label``, ``probability`` (of the label) and ``status``: "ok", or
        why the image could not be read. What an image lacks is None or NaN. With `probabilities`
        each class has a further column; `featbank.predict` must have been called with a `top` of
        at least the number of classes. Several labels of an image are joined by ``;``, and so are
        their probabilities.

        Raises
        ------
        MissingDependency
            pandas is not installed.
        """
        classes = self._classes(probabilities)
        names = (*_COLUMNS, *classes)
        rows = self._rows(classes)
        return data_frame([dict(zip(names, row, strict=True)) for row in rows], names)

    def csv(self, *, probabilities: bool = False, style: str = "full") -> str:
        """Return a CSV table with a header.

        Parameters
        ----------
        probabilities : bool, default=False
            Add the probability of each class; see `to_frame`.
        style : {"full", "kaggle"}, default="full"
            "full" has the columns and rows of `to_frame`. "kaggle" has ``file_name`` (without
            folders, unless two images have the same name) and ``id`` (the label) of the images that
            could be read.
        """
        if style not in CSV_STYLES:
            raise DataError(f"style {style!r} is unknown; {nearest(str(style), CSV_STYLES)}")
        classes = self._classes(probabilities)
        rows = self._rows(classes)
        header = [*_COLUMNS, *map(readable, classes)]
        if style == "kaggle":
            names = [os.path.basename(one.path) for one in self.predictions]
            if len(set(names)) < len(names):
                names = [one.path for one in self.predictions]
            told = (row for row in rows if row[3] == "ok")
            rows = ([name, row[1], *row[4:]] for name, row in zip(names, told, strict=True))
            header = ["file_name", "id", *header[4:]]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(map(_cell, row) for row in rows)
        return text.getvalue()

    def write_csv(
        self,
        path: str | os.PathLike[str],
        *,
        probabilities: bool = False,
        style: str = "full",
    ) -> None:
        """Write what `csv` returns, in UTF-8, whole or not at all.

        Raises
        ------
        DataError
            There is no place for the table.
        """
        text = self.csv(probabilities=probabilities, style=style)
        durable.write_file(prepare_target(path), text.encode())

    def __repr__(self) -> str:
        from featbank.evaluation.text import aligned, counted

        rows = [[readable(_cell(cell)) for cell in row] for row in self._rows(())]
        said = f"{counted(len(self.predictions), 'prediction')}, {len(self.failed)} failed"
        more = [f"... and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
        table = aligned([_COLUMNS, *rows[:_SHOWN]], left=(0, 1, 3), width=sys.maxsize)
        return "\n".join([said, *table, *more])

    def _classes(self, probabilities: bool) -> tuple[str, ...]:
        return tuple(self.classifier.classes) if probabilities else ()

    def _rows(self, classes: Sequence[str]) -> Iterator[list[Any]]:
        """Yield path, label, probability, status and the probabilities of classes."""
        found = {one.path: one for one in self.predictions}
        reasons = dict(self.failed)
        for path in self.paths:
            one = found.get(path)
            if one is None:
                yield [path, None, None, reasons[path], *(None for _ in classes)]
                continue
            of = {guess.label: guess.probability for guess in one.top}
            label = one.label
            probability: Any = of[label]
            if one.labels is not None:
                label = ";".join(one.labels)
                several = [_cell(of.get(name)) for name in one.labels]
                probability = ";".join(several) if all(several) else None
            yield [path, label, probability, "ok", *(of[name] for name in classes)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else readable(str(value))
