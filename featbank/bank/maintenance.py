"""Maintenance of a bank: verify it, compact it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from featbank import durable, hdf5
from featbank.bank import packed
from featbank.bank.bank import Bank
from featbank.bank.recipes import known_recipe, shard_paths
from featbank.bank.shard import file_digest, read_shard
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
    """

    shards: int
    rows: int
    damaged: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


def verify(bank: Bank) -> Verification:
    """Compare every file of a bank with its digest, whatever was known before.

    Parameters
    ----------
    bank : Bank

    Returns
    -------
    Verification
        A bank without a shard is whole and empty.
    """
    shards, rows = 0, 0
    damaged: list[str] = []
    if bank.packed:
        try:
            hdf5.check_seal(bank.path)
            for known in bank.recipes:
                parts = bank.shards(known.fingerprint)
                shards += len(parts)
                rows += sum(len(part.keys) for part in parts)
        except BankDamaged as error:
            damaged.append(str(error))
        return Verification(shards, rows, tuple(damaged))
    for folder in bank.recipe_folders():
        fingerprint = ""
        try:
            fingerprint = known_recipe(folder).fingerprint
        except (BankError, OSError) as error:
            damaged.append(str(error))
        for path in shard_paths(folder):
            try:
                if file_digest(path) != os.path.basename(path).removesuffix(".h5"):
                    raise BankDamaged(f"{path} does not hold the bytes that were sealed.")
                shard = read_shard(path)
                if fingerprint and shard.fingerprint != fingerprint:
                    raise BankDamaged(f"{path} lies under another recipe than its own.")
            except (BankDamaged, BankVersionError, OSError) as error:
                damaged.append(str(error))
                continue
            shards += 1
            rows += len(shard.keys)
    for part in ("index", "sources"):
        try:
            getattr(bank, part)
        except (BankError, OSError) as error:
            damaged.append(str(error))
    return Verification(shards, rows, tuple(damaged))


def compact(bank: Bank, target: str | os.PathLike[str] | None = None) -> str:
    """Write a bank as one plain HDF5 file; return its path.

    Parameters
    ----------
    bank : Bank
        It stays as it is.
    target : str or path-like, optional
        By default the bank's path with ``.h5`` behind it.

    Raises
    ------
    BankDamaged
        A shard is damaged; nothing is written.
    BankError
        The bank is packed already, or something else stands at `target`.
    OSError
        The disk is full or failed; what stood at `target` stands.
    """
    if bank.packed:
        raise BankError(f"{bank.path} is packed already; copy the file to share it.")
    path = os.path.abspath(os.fspath(target) if target else packed.default_target(bank))
    if not path.endswith(".h5"):
        raise BankError(f"a packed bank's name ends in .h5, and {path} does not.")
    if os.path.isdir(path):
        raise BankError(f"{path} is a folder; name a file that ends in .h5.")
    if os.path.exists(path) and not hdf5.is_sealed(path):
        raise BankError(f"{path} is there already and is no packed bank; name another file.")
    durable.make_directory(os.path.dirname(path))
    packed.pack(bank, path)
    return path
