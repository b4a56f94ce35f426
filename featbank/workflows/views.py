"""Views: how several of an image are asked for, and combined, by the commands about heads."""

from __future__ import annotations

from typing import Any

from featbank.backbones.views import VIEW_SETS
from featbank.bank.selection import Selection
from featbank.errors import EvaluationError, nearest
from featbank.heads.choice import COMBINATIONS, ViewChoice

__all__ = ["checked_combination", "how_many", "note_on_views", "seeing"]

_COMBINED = {
    "features": "their features averaged",
    "decisions": "decisions averaged, learned from images as they are",
    "train": "all learned from, decisions averaged",
}


def checked_combination(views: str | None, combine: str | None) -> str:
    """Return how views are combined: as asked, or by their features.

    Raises
    ------
    EvaluationError
        The words are unknown, or there are no views to be combined.
    """
    if views is not None and views not in (*VIEW_SETS, "all"):
        raise EvaluationError(f"views {views!r} are unknown: {nearest(views, [*VIEW_SETS, 'all'])}")
    if combine is None:
        return "features"
    if combine not in COMBINATIONS:
        raise EvaluationError(
            f"views are combined by {', '.join(COMBINATIONS)}, not by {combine!r}."
        )
    if views is None:
        raise EvaluationError(
            f"combine is {combine!r}, and no views were named; add --views flips (views=)."
        )
    return combine


def how_many(selection: Selection, views: str | None) -> int:
    """Return how many views the columns of a selection are of."""
    return 1 if views is None else len({column.view for column in selection.columns})


def note_on_views(views: int, combine: str) -> tuple[str, ...]:
    """Say how many views a score is of, where there are several."""
    return (f"{views} views an image: {_COMBINED[combine]}.",) if views > 1 else ()


def seeing(head: Any, views: int, combine: str) -> Any:
    """Return a head for features as `featbank.Bank.select` gives them, combined as asked."""
    return head if combine == "features" or views == 1 else ViewChoice(head, views, combine)
