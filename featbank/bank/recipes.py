"""Recipes of a bank: the folders that hold their shards, and what they say of themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank.backbones.recipe import Recipe
from featbank.errors import BackboneError, BankDamaged

__all__ = [
    "KnownRecipe",
    "as_known_recipe",
    "known_recipe",
    "read_json",
    "recipe_document",
    "shard_folders",
    "shard_paths",
]


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
    """Return the folders below a recipe's that hold its shards."""
    with os.scandir(folder) as entries:
        return sorted(e.path for e in entries if len(e.name) == 2 and e.is_dir())


def known_recipe(folder: str) -> KnownRecipe:
    """Read the recipe of a folder of shards.

    Raises
    ------
    BankDamaged
        It is missing, or not what was written.
    """
    path = recipe_document(folder)
    try:
        return as_known_recipe(read_json(path), path)
    except FileNotFoundError:
        raise BankDamaged(
            f"{path} is missing, so the shards beside it can't be found; bring it again from a "
            "copy, or run `featbank extract` with the same model."
        ) from None


def shard_paths(folder: str) -> list[str]:
    """Return the files of the shards below a recipe's folder, unread, sorted."""
    found = []
    for part in shard_folders(folder):
        names = sorted(n for n in os.listdir(part) if n.endswith(".h5") and n[0] != ".")
        found += [os.path.join(part, name) for name in names]
    return found


def read_json(path: str) -> dict[str, Any]:
    """Read a JSON object, or say that the file is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise BankDamaged(f"{path} is no longer the JSON that was written: {error}") from error
    if not isinstance(document, dict):
        raise BankDamaged(f"{path} holds no JSON object.")
    return document


def as_known_recipe(document: Mapping[str, Any], where: str) -> KnownRecipe:
    """Read what describes a recipe; `where` it stood is for the message."""
    try:
        recipe = Recipe.from_dict(document["recipe"])
        known = KnownRecipe(recipe, document["fingerprint"], dict(document.get("provenance", {})))
    except (KeyError, TypeError, BackboneError) as error:
        raise BankDamaged(f"{where} holds a recipe that can't be read: {error}") from error
    if recipe.fingerprint != known.fingerprint:
        raise BankDamaged(f"{where} holds a recipe that does not fit its fingerprint.")
    return known
