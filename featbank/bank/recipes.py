"""Recipes of a bank: the folders that hold their shards, and what they say of themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank.backbones.recipe import Recipe
from featbank.backbones.trained_on import TrainedOn
from featbank.bank.documents import DOCUMENT_VERSION, read_document, write_document
from featbank.errors import BankDamaged

__all__ = [
    "QUARANTINE",
    "KnownRecipe",
    "as_known_recipe",
    "as_trained_on",
    "known_recipe",
    "read_trained_on",
    "recipe_document",
    "shard_folders",
    "shard_paths",
    "trained_on_document",
    "write_trained_on",
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
    trained_on : TrainedOn or None
        Of tuned weights, the images that they were trained on; else None.
    """

    recipe: Recipe
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)
    trained_on: TrainedOn | None = None

    @property
    def slug(self) -> str:
        """Name of the recipe's folder."""
        return self.recipe.slug


def recipe_document(folder: str) -> str:
    """Return the path of the file that describes a recipe."""
    return os.path.join(folder, "recipe.json")


def trained_on_document(folder: str) -> str:
    """Return the path of the file that names the training images of a recipe's weights."""
    return os.path.join(folder, "trained-on.json")


def write_trained_on(folder: str, fingerprint: str, trained_on: TrainedOn) -> None:
    """Write the training images of a recipe's weights, durably."""
    content = {"format": DOCUMENT_VERSION, "fingerprint": fingerprint, **trained_on.to_dict()}
    write_document(trained_on_document(folder), content)


def read_trained_on(folder: str) -> TrainedOn | None:
    """Return the training images of a recipe's weights; None where there is no document of them.

    Raises
    ------
    BankDamaged
        It is not what was written.
    """
    path = trained_on_document(folder)
    try:
        return as_trained_on(read_document(path), path)
    except FileNotFoundError:
        return None


def as_trained_on(document: Mapping[str, Any], where: str) -> TrainedOn:
    """Read what names training images; `where` it stood is for the message."""
    try:
        return TrainedOn.from_dict(document)
    except (LookupError, TypeError, ValueError) as error:
        raise BankDamaged(f"{where} names no training images: {error}") from error


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
        known = dataclasses.replace(known, trained_on=read_trained_on(folder))
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
        if document.get("trained_on") is not None:
            named = as_trained_on(document["trained_on"], where)
            known = dataclasses.replace(known, trained_on=named)
        if not isinstance(provenance.get("request", {}), dict):
            raise TypeError("its provenance holds no request")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BankDamaged(f"{where} holds a recipe that can't be read: {error}") from error
    if recipe.fingerprint != known.fingerprint:
        raise BankDamaged(f"{where} holds a recipe that does not fit its fingerprint.")
    return known
