"""Protocol: the features of a bank scored by a published recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featbank.bank.bank import Bank
from featbank.workflows.rows import select_rows

if TYPE_CHECKING:
    from featbank.evaluation.protocols.result import ProtocolResult

__all__ = ["fit_protocol"]


def fit_protocol(
    bank: Bank | str | os.PathLike[str] = "bank",
    protocol: str = "clip-linear",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    multilabel: str | bool | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    group: str | None = None,
    keep_copies: bool = False,
    cv: float | None = None,
    head: Any = None,
    near_duplicates: float | None = None,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProtocolResult:
    """Score the features of a bank by a published protocol; nothing is saved.

    Parameters
    ----------
    bank : Bank or path
        A folder or a packed file.
    protocol : str
        A name that `featbank.list_protocols` lists.
    recipe, layers, source, label, positive, multilabel, classes, exclude, split, group
        As in `featbank.fit`.
    keep_copies
        As in `featbank.fit`.
    cv, head, near_duplicates, random_state, progress
        As in `featbank.run_protocol`.

    Returns
    -------
    ProtocolResult

    Raises
    ------
    FeaturesMissing, AmbiguousFeatures, DataError, EvaluationError, HeadError
    """
    from featbank.evaluation.protocols import run_protocol
    from featbank.evaluation.protocols.registry import find_protocol

    find_protocol(protocol)
    rows = select_rows(
        bank,
        recipe=recipe,
        layers=layers,
        source=source,
        label=label,
        positive=positive,
        multilabel=multilabel,
        classes=classes,
        exclude=exclude,
        split=split,
        random_state=random_state,
        group=group,
        keep_copies=keep_copies,
    )
    return rows.score(
        run_protocol,
        rows.selection.X,
        protocol,
        cv=cv,
        head=head,
        near_duplicates=near_duplicates,
        random_state=random_state,
        progress=progress,
    )
