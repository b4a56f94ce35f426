"""Layers of a bank: short names for its columns, and the choice among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from featbank.backbones.recipe import Column
from featbank.backbones.trained_on import TrainedOn
from featbank.bank.bank import Bank
from featbank.bank.recipes import KnownRecipe
from featbank.bank.selection import Located, choose_columns, choose_recipe
from featbank.errors import EvaluationError
from featbank.workflows.seen import trained_on_of

__all__ = ["LocatedLayers", "as_they_are", "layers_to_choose", "names_of"]


class LocatedLayers(Mapping[str, npt.NDArray[Any]]):
    """Features of a bank by the name of their layer, read when they are asked for."""

    def __init__(self, located: dict[str, Located]) -> None:
        self.located = located

    @property
    def trained_on(self) -> list[TrainedOn | None]:
        """The training images of each network that the features are of."""
        known = {one.known.fingerprint: one.known for one in self.located.values()}
        return [
            trained_on_of(one.trained_on, one.provenance.get("request")) for one in known.values()
        ]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.located[name].read(slice(None))

    def __iter__(self) -> Iterator[str]:
        return iter(self.located)

    def __len__(self) -> int:
        return len(self.located)


def as_they_are(columns: Sequence[Column]) -> list[Column]:
    """Return the columns without those of turned images, of which there are others unturned."""
    there = set(columns)
    return [
        column
        for column in columns
        if column.view == "identity" or dataclasses.replace(column, view="identity") not in there
    ]


def names_of(found: Sequence[tuple[KnownRecipe, Column]]) -> list[str]:
    """Return names: the layer, and of pooling, view, dtype and backbone what tells them apart."""
    backbones = {known.slug: known.recipe.backbone for known, _ in found}
    names = []
    for known, column in found:
        parts = column.name.split(":")
        own = [other.name.split(":") for one, other in found if one.slug == known.slug]
        short = next(n for n in range(1, 5) if sum(o[:n] == parts[:n] for o in own) == 1)
        name = ":".join(parts[:short])
        if len(backbones) > 1:
            alone = list(backbones.values()).count(known.recipe.backbone) == 1
            name = f"{known.recipe.backbone if alone else known.slug} {name}"
        names.append(name)
    return names


def layers_to_choose(
    bank: Bank, recipe: str | None, layers: Sequence[str] | None
) -> dict[str, tuple[str, int]]:
    """Return the layers that a fit may choose from: full name and width, by short name.

    Parameters
    ----------
    bank : Bank
    recipe : str, optional
    layers : sequence of str, optional
        As in `featbank.fit`; by default all that the recipe has.

    Raises
    ------
    AmbiguousFeatures, FeaturesMissing
        As `featbank.Bank.features` does.
    EvaluationError
        There is nothing to choose from.
    """
    known = choose_recipe(bank.recipes, recipe, lambda k: bool(bank.columns(k.fingerprint)))
    shards = bank.shards(known.fingerprint)
    widths = {c: place.shape[1] for shard in shards for c, place in shard.columns.items()}
    columns = list(bank.columns(known.fingerprint))
    if layers is not None:
        columns = [choose_columns(columns, word, None)[0] for word in dict.fromkeys(layers)]
    else:
        columns = as_they_are(columns)
    if len(columns) < 2:
        raise EvaluationError(
            f"there is one layer, {columns[0].name}, and nothing to choose from; name several with "
            "--layers, or extract more."
            if columns
            else f"{known.slug} has no features yet; run `featbank extract`."
        )
    names = names_of([(known, column) for column in columns])
    return {n: (c.name, widths[c]) for n, c in zip(names, columns, strict=True)}
