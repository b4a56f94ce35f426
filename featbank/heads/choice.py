"""Choices: heads that also choose a block of columns, or that take several views of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COMBINATIONS", "DECIDING", "LAYER", "LayerChoice", "ViewChoice"]

LAYER = "columns__layer"
"""The parameter that takes a block."""

DECIDING = ("decisions", "train")
"""How a head combines views: decisions averaged; all of them learned from too."""

COMBINATIONS = ("features", *DECIDING)
"""How views are combined: features averaged, before the head; or by the head."""


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


@dataclass(frozen=True)
class ViewChoice:
    """A head that takes all views of an image side by side; see `featbank.heads.views.ViewsHead`.

    Attributes
    ----------
    head : str, estimator or LayerChoice
    views : int
    combine : {"decisions", "train"}
    """

    head: Any
    views: int
    combine: str
