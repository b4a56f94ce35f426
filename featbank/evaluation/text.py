"""Plain text of tables: rows of cells in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["aligned", "counted", "interval", "points"]


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Return lines of columns two spaces apart, those in `left` to the left, others to the right.

    Examples
    --------
    >>> aligned([["head", "score"], ["svm", "0.9"]])
    ['head  score', 'svm     0.9']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural but for one.

    Examples
    --------
    >>> counted(2, "class"), counted(1, "label")
    ('2 classes', '1 label')
    """
    plural = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n} {noun}{plural}"


def interval(mean: float, low: float, high: float, *, sign: str = "") -> str:
    """Return a score and the wider side of its interval; with a sign of ``"+"`` a difference.

    Examples
    --------
    >>> interval(0.9, 0.85, 0.93)
    '0.900 ±0.050'
    """
    half = max(mean - low, high - mean)
    return f"{mean:{sign}z.3f}" + ("" if half != half else f" ±{half:.3f}")


def points(mean: float, low: float, high: float) -> str:
    """Return a difference in percentage points with its interval.

    Examples
    --------
    >>> points(0.012, -0.001, 0.025)
    '+1.2 (-0.1 to +2.5)'
    """
    ends = "" if low != low else f" ({100 * low:+z.1f} to {100 * high:+z.1f})"
    return f"{100 * mean:+z.1f}{ends}"
