"""Seen images: those that a tuned network was trained on, whose features are never scored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.request import Request
from featbank.backbones.trained_on import TrainedOn
from featbank.backbones.tuned import describe_weights
from featbank.data.decode import read_bytes
from featbank.errors import BackboneError, EvaluationError

__all__ = ["digests_of", "trained_on_of", "unseen"]


def trained_on_of(
    known: TrainedOn | None, request: Request | dict[str, Any] | None
) -> TrainedOn | None:
    """Return what a recipe was trained on: by the bank, or by the file that its words name.

    None where the weights were not tuned by featbank. A bank of an older featbank doesn't say.
    """
    if known is not None:
        return known
    try:
        words = Request.from_dict(request) if isinstance(request, dict) else request
        file = None if words is None else words.file
        tuned = None if file is None else describe_weights(file)
    except (BackboneError, LookupError, TypeError, ValueError, AttributeError):
        return None  # it names no file that is there
    return None if tuned is None else tuned.trained_on


def digests_of(paths: Sequence[str | bytes | os.PathLike[str]]) -> npt.NDArray[np.uint8]:
    """Return the SHA-256 of each file's bytes, shape (n, 32).

    Raises
    ------
    ImageError
        A file can't be read.
    """
    found = b"".join(hashlib.sha256(read_bytes(path)).digest() for path in paths)
    return np.frombuffer(found, np.uint8).reshape(-1, 32)


def unseen(
    trained: Sequence[TrainedOn | None],
    digests: npt.NDArray[np.uint8],
    y: Sequence[Any],
    *,
    splits: Sequence[str | None] | None,
    groups: Sequence[str | None] | None,
) -> tuple[npt.NDArray[np.bool_] | None, tuple[str, ...]]:
    """Return which images may be scored, None for all, and notes.

    Seen images may be fitted on. Images of a seen image's group count as seen too.

    Parameters
    ----------
    trained : sequence of TrainedOn or None
        Of each network whose features are scored.
    digests : ndarray of shape (n, 32), uint8
    y, splits, groups : sequence of length n
        Labels, None where there is none; splits; groups that stay together.

    Raises
    ------
    EvaluationError
        Nothing is known of what a network was trained on, or too few images are left to score.
    """
    tuned = [one for one in trained if one is not None]
    if not tuned:
        return None, ()
    files = ", ".join(dict.fromkeys(one.file or "the fine-tuned network" for one in tuned))
    if any(one.digests is None for one in tuned):
        raise EvaluationError(
            f"{files} does not say which images the network was trained on, so that no score on "
            "its features can be trusted; run `featbank finetune` again on image files, and "
            "extract with the new file."
        )
    seen = np.any([one.has(digests) for one in tuned], axis=0)
    labelled = np.array([label is not None for label in y], dtype=bool)
    if not (seen & labelled).any():
        return None, ()
    scored, name = labelled, "labelled"
    if splits is not None:
        part = next((p for p in ("test", "valid") if p in splits and "train" in splits), None)
        if part is not None:
            scored, name = labelled & np.array([one == part for one in splits]), part
    if groups is not None:
        theirs = {group for group, one in zip(groups, seen, strict=True) if one}
        seen = seen | np.array([group is not None and group in theirs for group in groups])
    left = scored & ~seen
    kinds = len({label for label, one in zip(y, left, strict=True) if one})
    if kinds < 2:
        many = f"{int((scored & seen).sum())} of {int(scored.sum())} {name} images"
        rest = f"leaves {int(left.sum())}, of one class" if kinds else "leaves none"
        raise EvaluationError(
            f"the network of {files} was trained on {many}, which {rest} to score: a head's score "
            "on images that its network has seen means nothing. Hold images out of the "
            "fine-tuning: run `featbank finetune` on images with a split (train and test), which "
            "leaves test out, extract with its file, and fit with the same split; or score on "
            "other images."
        )
    note = (
        f"{int((labelled & seen).sum())} of {int(labelled.sum())} labelled images were seen by the "
        f"network of {files}: they are fitted on at most, and never scored."
    )
    return ~seen, (note,)
