"""Maintenance of a bank: verify it, compact it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from featbank import durable, hdf5
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.coverage import (
    Coverage,
    bank_coverage,
    coverage,
    glimpse,
    lost_columns,
    quarantined,
)
from featbank.bank.layered import check_target, look
from featbank.bank.recipes import known_recipe, shard_paths
from featbank.bank.shard import Shard, check_digest, read_shard
from featbank.errors import BankDamaged, BankError, BankVersionError

__all__ = ["Verification", "compact", "verify"]


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    shards, rows : int
        How many are whole.
    damaged : tuple of str
        One sentence a damaged file.
    coverage : dict of str to list of Coverage
        By the name of each recipe, which images lack a column that was extracted of them: its
        shard is damaged or gone, or the extraction did not end.
    """

    shards: int
    rows: int
    damaged: tuple[str, ...]
    coverage: dict[str, list[Coverage]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged

    @property
    def missing(self) -> dict[str, dict[str, int]]:
        """Number of images that lack each column, where any does, by recipe."""
        return lost_columns(self.coverage)


def verify(bank: Bank | str | os.PathLike[str]) -> Verification:
    """Compare every file of a bank with its digest, whatever was known before.

    Shards, the index, and the JSON documents; or the one file of a packed bank, and what an
    extraction into it that has not ended has sealed beside it. `repair` mends what is damaged, as
    far as that goes.

    Parameters
    ----------
    bank : Bank or path

    Returns
    -------
    Verification
        A bank without a shard is whole and empty.

    Raises
    ------
    BankNotFound, BankVersionError
        There is no bank, or a later featbank wrote it.
    BankDamaged
        The folder does not even say that it is a bank.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    if bank.packed:
        return _verify_packed(bank)
    shards, rows = 0, 0
    damaged: list[str] = []
    whole: dict[str, tuple[str, list[Shard], list[Shard | None]]] = {}
    for folder in bank.recipe_folders():
        slug = os.path.basename(folder)
        fingerprint = ""
        try:
            fingerprint = known_recipe(folder).fingerprint
        except (BankError, OSError) as error:
            damaged.append(str(error))
        else:
            whole[slug] = fingerprint, [], quarantined(bank, slug)
        for path in shard_paths(folder):
            try:
                check_digest(path)
                shard = read_shard(path)
                if fingerprint and shard.fingerprint != fingerprint:
                    raise BankDamaged(
                        f"{path} lies under another recipe than its own; run `featbank repair`."
                    )
            except (BankDamaged, BankVersionError, OSError) as error:
                damaged.append(str(error))
                if fingerprint:
                    whole[slug][2].append(glimpse(path))
                continue
            shards += 1
            rows += len(shard.keys)
            if fingerprint:
                whole[slug][1].append(shard)
    found: dict[str, list[Coverage]] = {}
    try:
        index = bank.index
        for slug, (fingerprint, parts, lost) in whole.items():
            found[slug] = coverage(fingerprint, parts, index, lost)
    except (BankError, OSError) as error:
        damaged.append(str(error))
    try:
        _ = bank.sources
    except (BankError, OSError) as error:
        damaged.append(str(error))
    return Verification(shards, rows, tuple(damaged), found)


def _verify_packed(bank: Bank) -> Verification:
    """Compare a packed bank with its digest, and what was sealed beside it with theirs."""
    shards, rows = 0, 0
    damaged: list[str] = []
    try:
        hdf5.check_seal(bank.path)
        for known in bank.recipes:
            parts = bank.shards(known.fingerprint)
            shards += len(parts)
            rows += sum(len(part.keys) for part in parts)
    except BankDamaged as error:
        damaged.append(str(error))
    pending = packed.unfinished(bank.path)
    if pending is not None:
        beside = verify(Bank(pending))
        shards, rows = shards + beside.shards, rows + beside.rows
        damaged += beside.damaged
    both = look(bank.path)
    found = bank_coverage(both) if both is not None and not damaged else {}
    return Verification(shards, rows, tuple(damaged), found)


def compact(
    bank: Bank | str | os.PathLike[str], target: str | os.PathLike[str] | None = None
) -> str:
    """Write a bank as one plain HDF5 file; return its path.

    Parameters
    ----------
    bank : Bank or path
        It stays as it is.
    target : str or path-like, optional
        By default the bank's path with ``.h5`` behind it.

    Raises
    ------
    BankDamaged
        A shard is damaged; nothing is written.
    BankError
        The bank is packed already, something else stands at `target`, or an extraction into
        `target` has not ended.
    OSError
        The disk is full or failed; what stood at `target` stands.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    if bank.packed:
        raise BankError(f"{bank.path} is packed already; copy the file to share it.")
    path = os.path.abspath(os.fspath(target) if target else packed.default_target(bank))
    if not path.endswith(".h5"):
        raise BankError(f"a packed bank's name ends in .h5, and {path} does not.")
    check_target(path)
    if packed.unfinished(path) is not None:
        raise BankError(
            f"an extraction into {path} has not ended (its shards are in "
            f"{packed.unfinished(path)}); run it again to end it, or name another file."
        )
    durable.make_directory(os.path.dirname(path))
    with bank.using():
        packed.pack(bank, path)
    return path
