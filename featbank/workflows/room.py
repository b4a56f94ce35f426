"""Room: whether features that are to be learned from fit in memory, and what to do if not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.bank.bank import Bank
from featbank.bank.selection import Located, Selection
from featbank.errors import EvaluationError, HeadError
from featbank.heads.choice import LayerChoice
from featbank.heads.memory import SHARE, available_memory, parse_size, shown_size

__all__ = ["Chosen", "select_fitting"]

COPIES = 3
"""Of the features that a fit holds: all rows, those of its training part, and these scaled."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Images of a bank whose features are in memory or, where they don't fit, are read in blocks.

    Attributes
    ----------
    selection : Selection
        ``X`` is an array or `featbank.heads.streaming.Blocks`.
    n_jobs : int or None
        Fits at the same time that fit in memory.
    notes : tuple of str
    """

    selection: Selection
    n_jobs: int | None
    notes: tuple[str, ...]


def select_fitting(
    bank: Bank,
    heads: Sequence[Any],
    located: Located,
    *,
    memory: int | str | None,
    n_jobs: int | None,
) -> Chosen:
    """Read features that were located in a bank, which is held meanwhile, if there is room.

    Parameters
    ----------
    bank : Bank
    heads : sequence of str or estimator
    located : Located
    memory : int, str or None
        Bytes, or a text as ``"4GB"``, that may be taken; by default nine tenths of what is
        available.

    Raises
    ------
    HeadError
        There is no room, and a head can't do without.
    EvaluationError
        `memory` is no size.
    """
    budget = _budget(memory)
    n, d = len(located.digests), located.width
    size = n * d * max(4, located.dtype.itemsize)
    if budget is None or COPIES * size <= budget:
        features = located.read(slice(None))
        selection = dataclasses.replace(located.selection, X=features)
        return Chosen(selection, _fitting_jobs(n_jobs, size, budget), ())
    if any(isinstance(head, LayerChoice) for head in heads):
        raise EvaluationError(
            f"choosing a layer needs {shown_size(COPIES * size)} of memory, and "
            f"{shown_size(budget)} may be taken; name one layer with --layers (layers=), which can "
            "be read piece by piece, or fewer."
        )
    from featbank.heads.registry import head_name, make_head
    from featbank.heads.streaming import BLOCK_BYTES, STREAMED, Blocks, can_stream

    unable = [head_name(head) for head in heads if not can_stream(make_head(head))]
    if unable:
        raise HeadError(
            f"{', '.join(unable)} would need {shown_size(COPIES * size)} of memory for {n} images "
            f"of {d} numbers, and {shown_size(budget)} may be taken; use {' or '.join(STREAMED)}, "
            "which read the features piece by piece, or fewer images or columns."
        )
    reader = _Reader(bank, located)
    # Reading, scaling and shuffling take three times a block.
    block = max(1, min(BLOCK_BYTES, budget // 4))
    blocks: Any = Blocks(reader, n, d, block_bytes=block)
    selection = dataclasses.replace(located.selection, X=blocks)
    note = (
        f"{shown_size(COPIES * size)} would hold the features and a fit's copies, and "
        f"{shown_size(budget)} may be taken: they were read in blocks; where C is chosen, one "
        "inner fold chooses it."
    )
    return Chosen(selection, 1, (note,))


class _Reader:
    """Reads rows of a bank, and holds it for as long as this is there."""

    def __init__(self, bank: Bank, located: Located) -> None:
        self.held = contextlib.ExitStack()
        self.held.enter_context(bank.using())
        self.located = located

    def __call__(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        return self.located.read(rows)

    def __del__(self) -> None:
        self.held.close()


def _budget(memory: int | str | None) -> int | None:
    if memory is None:
        available = available_memory()
        return None if available is None else int(SHARE * available)
    try:
        return parse_size(memory)
    except ValueError as error:
        raise EvaluationError(str(error)) from None


def _fitting_jobs(n_jobs: int | None, size: int, budget: int | None) -> int | None:
    """Return how many fits have room at a time: workers map one more copy, and each makes two."""
    if n_jobs in (None, 1) or budget is None:
        return n_jobs
    from joblib import effective_n_jobs

    most = max(1, int((budget - 2 * size) // ((COPIES - 1) * max(size, 1))))
    return n_jobs if effective_n_jobs(n_jobs) <= most else most
