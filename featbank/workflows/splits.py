"""Splits of a selection: the index's own, or made on request and kept in the index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from featbank.bank.bank import Bank
from featbank.bank.selection import Selection
from featbank.data.index import Index, StoredSplit
from featbank.data.splits import SplitSpec, make_split
from featbank.errors import DataError, EvaluationError

__all__ = ["chosen_splits"]

Splits = list[str | None]


def chosen_splits(
    chosen: Selection,
    labels: Sequence[str | None],
    split: str | None,
    seed: int,
    *,
    groups: Splits | None,
    bank: Bank | None,
    title: str,
) -> tuple[Splits | None, tuple[str, ...]]:
    """Return the split of each image, None to cross-validate, and notes.

    Parameters
    ----------
    chosen : Selection
    labels : sequence of str or None
        What is stratified by.
    split : str or None
        A spec of `featbank.data.splits`, "none", or None for the index's own splits.
    seed : int
    groups : list of (str or None), or None
        What stays together.
    bank : Bank or None
        The bank of the images. It brings the splits that were made before with the same spec, seed
        and `title`, and keeps those that are made now.
    title : str
        What the labels and the groups are of.

    Raises
    ------
    DataError, EvaluationError
        The splits can't be made, or are none that could be scored on.
    """
    if split == "none":
        return None, ()
    if split is None:
        return _given(chosen, labels), ()
    made, notes = _made(chosen, labels, SplitSpec.parse(split), seed, groups, bank, title)
    if {word for word, label in zip(made, labels, strict=True) if label} == {"train"}:
        raise DataError(
            f"the split {split} puts every labelled image in train and leaves none to score "
            "on; ask for fewer training images, or for --cv."
        )
    return made, notes


def _made(
    chosen: Selection,
    labels: Sequence[str | None],
    spec: SplitSpec,
    seed: int,
    groups: Splits | None,
    bank: Bank | None,
    title: str,
) -> tuple[Splits, tuple[str, ...]]:
    """Make a split, of what the bank has of it; keep what is new there."""
    names = [os.fsencode(path) for path in chosen.paths]
    keys = [key.tobytes() for key in chosen.digests]
    known = spec.text, seed, title

    def deal(index: Index | None) -> tuple[Splits, dict[bytes, str]]:
        """Return the split of each image, and of those keys that the index has otherwise."""
        stored = index.splits.get(known) if index is not None else None
        before: Mapping[bytes, str] = stored.splits() if stored is not None else {}
        dealt = make_split(
            spec.text, names, labels, keys=keys, groups=groups, seed=seed, made=before
        )
        pairs = zip(keys, dealt, strict=True)
        return dealt, {key: word for key, word in pairs if word and before.get(key) != word}

    if spec.kind == "first" or bank is None:
        return deal(None)[0], ()
    found, new = deal(bank.index)
    if not new:
        return found, ()

    def change(index: Index) -> Iterable[StoredSplit]:
        nonlocal found, new
        found, new = deal(index)
        fresh = StoredSplit.of(*known, new)
        return [fresh.completed_by(index.splits.get(known))] if new else []

    reason = "it is one packed file"
    if not bank.packed:
        try:
            bank.store_splits(change)
            return found, ()
        except OSError as error:
            reason = f"it can't be written: {error.strerror}"
    note = (
        f"the split {spec.text} is not kept in {bank.path} ({reason}): when images are added, "
        "others may change sides."
    )
    return found, (note,)


def _given(chosen: Selection, labels: Sequence[str | None]) -> Splits | None:
    """Return the index's own splits; None where it has none."""
    if all(word is None for word in chosen.splits):
        return None
    rows = zip(chosen.splits, chosen.sources, labels, strict=True)
    labelled = {(word, source) for word, source, label in rows if label is not None}
    parted = {source for word, source in labelled if word is not None}
    whole = {source for _, source in labelled} - parted
    if parted and whole:
        raise DataError(
            f"the source {', '.join(sorted(parted))} has splits and {', '.join(sorted(whole))} has "
            "none; choose one with --source, or make splits of all with --split."
        )
    if {word for word, _ in labelled} <= {"test", None}:
        raise EvaluationError(
            "the index has a split, and no labelled image in train; use --split none to "
            "cross-validate over all labelled images."
        )
    return list(chosen.splits)
