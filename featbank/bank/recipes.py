"""Recipes of a bank: the folders that hold their shards, and what they say of themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank.backbones.recipe import Recipe
from featbank.bank.documents import read_document
from featbank.errors import BankDamaged

__all__ = [
    "QUARANTINE",
    "KnownRecipe",
    "as_known_recipe",
    "known_recipe",
    "recipe_document",
    "shard_folders",
    "shard_paths",
]

QUARANTINE = "quarantine"
"""The folder in a bank where `featbank repair` puts what is damaged; nothing reads it."""


@dataclass(frozen=True)
class KnownRecipe:
    """A recipe of a bank with where its shards lie and how it came to be.

    Attributes
    ----------
    recipe : Recipe
    fingerprint : str
        The recipe's, 64 hexadecimal digits.
    provenance : dict
        Versions, device, threads, time and the user's words; features do not depend on it beyond
        the tolerance that README states.
    """

    recipe: Recipe
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Name of the recipe's folder."""
        return self.recipe.slug


def recipe_document(folder: str) -> str:
    """Return the path of the file that describes a recipe."""
    return os.path.join(folder, "recipe.json")


def shard_folders(folder: str) -> list[str]:
    """Return the folders below a recipe's that hold its shards.

    Raises
    ------
    BankDamaged
        One of them is a link: a bank opens nothing that lies elsewhere.
    """
    _refuse_link(folder)
    with os.scandir(folder) as entries:
        found = sorted(e.path for e in entries if len(e.name) == 2 and os.path.isdir(e.path))
    for part in found:
        _refuse_link(part)
    return found


def _refuse_link(folder: str) -> None:
    if os.path.islink(folder):
        raise BankDamaged(
            f"{folder} is a link, and a bank's files lie in its own folder; put the folder itself "
            "in its place."
        )


def known_recipe(folder: str) -> KnownRecipe:
    """Read the recipe of a folder of shards.

    Raises
    ------
    BankDamaged
        It is missing, not what was written, or that of another folder.
    """
    _refuse_link(folder)
    path = recipe_document(folder)
    try:
        known = as_known_recipe(read_document(path), path)
        if known.slug != os.path.basename(folder):
            raise BankDamaged(
                f"{path} holds the recipe of {known.slug}; run `featbank repair`, which names the "
                "folder so."
            )
        return known
    except FileNotFoundError:
        raise BankDamaged(
            f"{path} is missing, so the shards beside it can't be found; run `featbank repair`, or "
            "`featbank extract` with the same model."
        ) from None


def shard_paths(folder: str) -> list[str]:
    """Return the files of the shards below a recipe's folder, unread, sorted.

    The folders are looked at twice: while they are, a pruning may put a shard's rows into a new
    one in a folder that was passed already, and take the old one from a folder still to come.
    """
    found = set()
    for part in 2 * shard_folders(folder):
        with contextlib.suppress(FileNotFoundError):  # it was the last one in its folder
            names = os.listdir(part)
            found |= {os.path.join(part, n) for n in names if n.endswith(".h5") and n[0] != "."}
    return sorted(found)


def as_known_recipe(document: Mapping[str, Any], where: str) -> KnownRecipe:
    """Read what describes a recipe; `where` it stood is for the message."""
    try:
        recipe = Recipe.from_dict(document["recipe"])
        provenance = dict(document.get("provenance", {}))
        known = KnownRecipe(recipe, document["fingerprint"], provenance)
        if not isinstance(provenance.get("request", {}), dict):
            raise TypeError("its provenance holds no request")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BankDamaged(f"{where} holds a recipe that can't be read: {error}") from error
    if recipe.fingerprint != known.fingerprint:
        raise BankDamaged(f"{where} holds a recipe that does not fit its fingerprint.")
    return known
