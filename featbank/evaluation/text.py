"""Plain text of tables: rows of cells in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

__all__ = ["CONFIDENCE", "aligned", "counted", "interval", "points"]

WIDTH = 100
"""Characters of a line; a wider table continues below, with its first column again."""

CONFIDENCE = "[95 % confidence interval]"
"""What the brackets of `interval` and `points` hold, for a table's title."""


class Ends(Protocol):
    """A value and the ends of its interval, NaN where there is none."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def aligned(
    rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), width: int = WIDTH
) -> list[str]:
    """Return lines of columns two spaces apart, those in `left` to the left, others to the right.

    Examples
    --------
    >>> aligned([["head", "score"], ["svm", "0.9"]])
    ['head  score', 'svm     0.9']
    >>> aligned([["head", "score", "seconds"], ["svm", "0.9", "3"]], width=16)
    ['head  score', 'svm     0.9', '', 'head  seconds', 'svm         3']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    blocks: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        taken = sum(widths[j] + 2 for j in blocks[-1]) + widths[i]
        if taken > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(i)
    lines: list[str] = []
    for columns in blocks:
        if lines:
            lines.append("")
        for row in rows:
            cells = (row[i].ljust(widths[i]) if i in left else row[i].rjust(widths[i])
                     for i in columns)  # fmt: skip
            lines.append("  ".join(cells).rstrip())
    return lines


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural but for one.

    Examples
    --------
    >>> counted(2, "class"), counted(1, "label")
    ('2 classes', '1 label')
    """
    plural = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n} {noun}{plural}"


def interval(score: Ends) -> str:
    """Return a score with its interval, from low to high.

    Examples
    --------
    >>> from featbank.evaluation.intervals import Estimate
    >>> interval(Estimate(0.9, 0.85, 0.93, ()))
    '0.900 [0.850, 0.930]'
    """
    ends = "" if score.low != score.low else f" [{score.low:z.3f}, {score.high:z.3f}]"
    return f"{score.mean:z.3f}{ends}"


def points(gap: Ends) -> str:
    """Return a difference in points, hundredths of the metric, with its interval.

    Examples
    --------
    >>> from featbank.evaluation.intervals import Estimate
    >>> points(Estimate(0.012, -0.001, 0.025, ()))
    '+1.2 [-0.1, +2.5]'
    """
    ends = "" if gap.low != gap.low else f" [{100 * gap.low:+z.1f}, {100 * gap.high:+z.1f}]"
    return f"{100 * gap.mean:+z.1f}{ends}"
