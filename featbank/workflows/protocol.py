"""Protocol: the features of a bank scored by a published recipe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featbank.bank.bank import Bank
from featbank.workflows.fit import splits_of
from featbank.workflows.labels import SEPARATOR, chosen_labels, label_column

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
    recipe, layers, source, label, positive, multilabel, classes, exclude, split
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
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    column = label_column(label, positive)
    chosen = bank.select(
        recipe,
        layers.split(",") if isinstance(layers, str) else layers,
        source=source,
        label=column,
    )
    found = chosen_labels(
        chosen.labels,
        chosen.paths,
        column=column,
        positive=positive,
        multilabel=SEPARATOR if multilabel is True else multilabel or None,
        classes=classes,
        exclude=exclude,
    )
    result = run_protocol(
        chosen.X,
        found.y,
        protocol,
        splits=splits_of(chosen, found.strata, split, random_state),
        cv=cv,
        groups=chosen.groups if any(word is not None for word in chosen.groups) else None,
        digests=chosen.digests,
        head=head,
        near_duplicates=near_duplicates,
        random_state=random_state,
        progress=progress,
    )
    return dataclasses.replace(result, notes=(*found.notes, *result.notes))
