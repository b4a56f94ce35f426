"""Views: an image turned or mirrored exactly, before the network sees it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from featbank.errors import BackboneError, nearest

if TYPE_CHECKING:
    from featbank.backbones.recipe import Column, Preprocess

__all__ = ["VIEWS", "VIEW_SETS", "check_square", "plain", "run_views", "turned", "views_named"]

Batch = TypeVar("Batch")

_TURNS: dict[str, tuple[bool, tuple[int, ...]]] = {
    "identity": (False, ()),
    "hflip": (False, (1,)),
    "vflip": (False, (0,)),
    "rot180": (False, (0, 1)),
    "rot90": (True, (0,)),
    "rot270": (True, (1,)),
    "transpose": (True, ()),
    "transverse": (True, (0, 1)),
}
"""Whether rows and columns change places, and which of the two are then reversed."""

VIEWS = tuple(_TURNS)
"""The eight symmetries of the square; ``rot90`` turns anticlockwise, as `numpy.rot90` does."""

VIEW_SETS = {"identity": VIEWS[:1], "flips": VIEWS[:4], "d4": VIEWS}
"""Views that go together, by the word that ``--views`` takes."""


def views_named(word: str) -> tuple[str, ...]:
    """Return the views of a set, identity first.

    Raises
    ------
    BackboneError
        There is no such set.

    Examples
    --------
    >>> views_named("flips")
    ('identity', 'hflip', 'vflip', 'rot180')
    """
    if word not in VIEW_SETS:
        raise BackboneError(f"there are no views {word!r}: {nearest(word, VIEW_SETS)}")
    return VIEW_SETS[word]


def turned(batch: Batch, view: str, *, axes: tuple[int, int] = (1, 2)) -> Batch:
    """Return a batch of images as a view shows them.

    Parameters
    ----------
    batch : ndarray or Tensor of shape (B, H, W, 3)
    view : str
        One of `VIEWS`.
    axes : tuple of int
        Where height and width are, if they are elsewhere.

    Raises
    ------
    BackboneError
        The images are not square, and the view would change their shape.

    Examples
    --------
    >>> import numpy as np
    >>> turned(np.arange(4).reshape(1, 2, 2, 1), "hflip").ravel().tolist()
    [1, 0, 3, 2]
    """
    swap, flips = _TURNS[view]
    images: Any = batch
    if swap:
        height, width = (images.shape[axis] for axis in axes)
        if height != width:
            raise BackboneError(_not_square(view, (height, width)))
        images = images.swapaxes(*axes)
    if flips:
        flipped = tuple(axes[i] for i in flips)
        if hasattr(images, "flip"):  # a tensor, which knows no negative steps
            images = images.flip(flipped)
        else:
            import numpy as np

            images = np.flip(images, flipped)
    turned_batch: Batch = images
    return turned_batch


def check_square(columns: Iterable[Column], preprocess: Preprocess | None) -> None:
    """Refuse, before the work, views that would change the shape of a network's input.

    Raises
    ------
    BackboneError
    """
    if preprocess is None:  # a function prepares the images, and only it knows
        return
    height, width = preprocess.crop
    for column in columns:
        if _TURNS[column.view][0] and height != width:
            raise BackboneError(_not_square(column.view, (height, width)))


def plain(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Return the columns as of the identity, each once: what the network itself is asked for."""
    return tuple(dict.fromkeys(dataclasses.replace(c, view="identity") for c in columns))


def run_views(
    run: Callable[[Any, tuple[Column, ...]], dict[Column, Any]],
    batch: Any,
    columns: Sequence[Column],
    *,
    axes: tuple[int, int] = (1, 2),
) -> dict[Column, Any]:
    """Compute columns of several views, one forward pass each.

    Parameters
    ----------
    run : callable
        Takes a batch and columns of the identity.
    batch : ndarray or Tensor
    columns : sequence of Column
    axes : tuple of int
        As in `turned`.
    """
    by_view: dict[str, list[Column]] = defaultdict(list)
    for column in dict.fromkeys(columns):
        by_view[column.view].append(column)
    found: dict[Column, Any] = {}
    for view, own in by_view.items():
        values = run(turned(batch, view, axes=axes), plain(own))
        for column, same in zip(own, plain(own), strict=True):
            found[column] = values[same]
    return {column: found[column] for column in columns}


def _not_square(view: str, size: tuple[int, int]) -> str:
    return (
        f"the view {view} needs a square input, and the network's is {size[0]} x {size[1]}; take "
        "--views flips, or a square --crop or --input-size."
    )
