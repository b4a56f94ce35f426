"""Layer choice: a head that also chooses which block of columns it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LAYER", "LayerChoice"]

LAYER = "columns__layer"
"""The parameter that takes a block."""


@dataclass(frozen=True)
class LayerChoice:
    """A head and the blocks of columns that it is to choose from, as its other settings.

    `featbank.heads.make_head` puts `featbank.heads.columns.Columns` before the head, and
    `featbank.heads.grid` names the blocks first.

    Attributes
    ----------
    head : str or estimator
    blocks : mapping of str to (int, int)
        First and last but one column of each, by name.
    tune : bool
        Whether the head's own settings are chosen too.
    """

    head: Any
    blocks: Mapping[str, tuple[int, int]]
    tune: bool = True
