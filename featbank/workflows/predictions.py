"""Predictions of an evaluation as a table: what every image was taken for by fits without it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.durable import write_file
from featbank.errors import readable

if TYPE_CHECKING:
    from featbank.evaluation.result import EvaluationResult, HeadResult

__all__ = ["write_predictions"]


def write_predictions(
    path: str | os.PathLike[str], result: EvaluationResult, paths: Sequence[str]
) -> None:
    """Write one row for each prediction of each head, as CSV in UTF-8.

    The columns are path, head, fold and repeat (both from 1), label, predicted, values, and one a
    class: its probability, or its score where the head has no probabilities, as ``values`` says.
    With given splits images that are only learned from have no row.

    Parameters
    ----------
    path : path
    result : EvaluationResult
    paths : sequence of str
        Of the rows of features that were scored.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("path", "head", "fold", "repeat", "label", "predicted", "values")
    writer.writerow([*head, *map(readable, result.classes)])
    for one in result.heads:
        writer.writerows(_rows(one, result, paths))
    write_file(os.fspath(path), text.getvalue().encode())


def _rows(head: HeadResult, result: EvaluationResult, paths: Sequence[str]) -> Iterator[list[Any]]:
    told = head.predictions
    classes = [readable(name) for name in result.classes]
    values, kind = told.probability, "probability"
    if values is None:
        values, kind = told.scores, "score" if told.scores is not None else ""
    in_repeat = result.folds // result.repeats
    for i, row in enumerate(told.rows):
        repeat, fold = divmod(int(told.fold[i]), in_repeat)
        words = (_words(codes[i], classes) for codes in (told.y_true, told.y_pred))
        cells = [""] * len(classes) if values is None else [f"{v:.6g}" for v in values[i]]
        place = [readable(paths[row]), head.head, fold + 1, repeat + 1]
        yield [*place, *words, kind, *cells]


def _words(code: Any, classes: Sequence[str]) -> str:
    """Return the class of a code; of a row of an indicator matrix all classes, with ``;``."""
    if np.ndim(code):
        return ";".join(classes[k] for k in np.flatnonzero(code).tolist())
    return classes[int(code)]
