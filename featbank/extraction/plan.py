"""The plan: which images a run would read, and why. Pure: it looks at the index, not at files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featbank.bank.rows import Rows
from featbank.data.index import IndexedSource

__all__ = ["SourcePlan", "plan_source"]

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SourcePlan:
    """What a run would do with one source; each a mask of shape (N,) over its rows.

    Attributes
    ----------
    read : ndarray of bool
        Rows whose file is to be read: the bytes are unknown, or features are missing.
    unknown : ndarray of bool
        Rows of `read` whose bytes are unknown (the file is new, changed, or was changed too close
        to the last look at it), or are tried again though they failed before.
    compute : ndarray of bool
        Rows of `read` whose bytes are known, and whose features are missing.
    reused : ndarray of bool
        Rows that need nothing.
    failed : ndarray of bool
        Rows in the ledger that would fail again.
    """

    read: Bool
    unknown: Bool
    compute: Bool
    reused: Bool
    failed: Bool


def plan_source(
    source: IndexedSource,
    tables: Sequence[Rows],
    *,
    causes: Sequence[str] = (),
    retry_failed: bool = False,
    paranoid: bool = False,
) -> SourcePlan:
    """Say what is to be read of one source.

    Parameters
    ----------
    source : IndexedSource
        With what still holds of earlier runs (`IndexedSource.carried_to`).
    tables : sequence of Rows
        What the bank has, one a column that is asked for.
    causes : sequence of str
        Decoding policy and recipe: a file that failed under one of these would fail again.
    retry_failed : bool
        Try these too.
    paranoid : bool
        Read every file, whatever its times say.
    """
    known = source.known & ~source.failed & (not paranoid)
    lacking = np.zeros(len(source), np.bool_)
    rows = np.flatnonzero(known)
    for table in tables:
        lacking[rows] |= table.find(source.digest[rows]) < 0
    # The last entry is what the code -1 finds.
    fitting = np.array([*(word in causes for word in source.failure_under.vocabulary), False])
    same_cause = fitting[source.failure_under.codes]
    failed = source.failed & same_cause & (not retry_failed) & (not paranoid)
    unknown = ~known & ~failed
    compute = known & lacking & ~failed
    return SourcePlan(
        read=unknown | compute,
        unknown=unknown,
        compute=compute,
        reused=known & ~lacking & ~failed,
        failed=failed,
    )
