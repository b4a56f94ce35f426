"""Select: the layers and backbones of a bank, and their joins, ranked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.backbones.recipe import Column
from featbank.bank.bank import Bank
from featbank.bank.recipes import KnownRecipe
from featbank.bank.selection import Located, choose_recipe
from featbank.errors import FeatbankError, FeaturesMissing
from featbank.workflows.labels import label_column
from featbank.workflows.layers import LocatedLayers, as_they_are, names_of
from featbank.workflows.rows import check_jobs, chosen_rows, further_columns, layer_words
from featbank.workflows.views import checked_combination

if TYPE_CHECKING:
    from featbank.evaluation.ranking import Ranking

__all__ = ["select"]


def select(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "logreg",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    views: str | None = None,
    join: str | Sequence[str | Sequence[str]] = (),
    cost: bool = False,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    group: str | None = None,
    metric_weight: str | None = None,
    keep_copies: bool = False,
    cv: int | float | None = None,
    repeats: int = 1,
    params: Mapping[str, Any] | None = None,
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank all layers and backbones of a bank by the accuracy of one head on the same folds.

    Parameters
    ----------
    bank : Bank or path
    head : str or estimator
        What ranks; it isn't tuned.
    recipe, layers : optional
        Only this backbone; only these layers.
    views : {"identity", "flips", "d4", "all"}, optional
        Rank each layer by the mean of these views; see `featbank.fit`.
    join : "all", or sequence of "all" and sequences of str
        Joins to rank besides: all features that there are in one, or these, by the names that the
        ranking gives them. Each comes in three forms; see `featbank.rank_features`.
    cost : bool, default=False
        Measure what each layer costs the network, where its weights are here; this loads torch.
    source, label, positive, classes, exclude, split, keep_copies, group, metric_weight
        As in `featbank.fit`.
    cv, repeats, params
        As in `featbank.fit`.
    random_state, n_jobs
        As there.
    progress : callable, optional
        Called as ``progress(done, total)`` after each candidate.

    Returns
    -------
    Ranking

    Raises
    ------
    FeaturesMissing, DataError, EvaluationError, HeadError

    Examples
    --------
    >>> import featbank
    >>> print(featbank.select("bank", join="all"))  # doctest: +SKIP
    """
    from featbank.evaluation.select import check_join, rank_features

    check_jobs(n_jobs)
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    column = label_column(label, positive)
    with bank.using():
        checked_combination(views, None)
        further = further_columns(group, metric_weight)
        blocks, notes = _blocks(bank, recipe, layer_words(layers), views, source, column, further)
        rows = chosen_rows(
            next(iter(blocks.located.values())).selection,
            bank=bank,
            column=column,
            positive=positive,
            classes=classes,
            exclude=exclude,
            split=split,
            random_state=random_state,
            group=group,
            metric_weight=metric_weight,
            keep_copies=keep_copies,
            trained_on=blocks.trained_on,
        )
        joins = [
            list(blocks) if one == "all" else one
            for one in ([join] if isinstance(join, str) else join)
        ]
        options: dict[str, Any] = {
            "params": params,
            "cv": cv,
            "repeats": repeats,
            "random_state": random_state,
        }
        rows.check(head, tune=False, **options)
        for one in joins:
            check_join(one, blocks)
        costs, said = _costs(blocks) if cost else ({}, [])
        result = rows.score(
            rank_features,
            blocks,
            head,
            joins=joins,
            costs=costs,
            n_jobs=n_jobs,
            progress=progress,
            **options,
        )
    return dataclasses.replace(result, notes=(*result.notes, *notes, *said))


def _blocks(
    bank: Bank,
    recipe: str | None,
    layers: Sequence[str] | None,
    views: str | None,
    source: str | Sequence[str] | None,
    label: str | None,
    further: Sequence[str],
) -> tuple[LocatedLayers, list[str]]:
    """Find every column that all images have, by the shortest name that tells it apart."""
    known_recipes = bank.recipes
    if recipe is not None:
        known_recipes = [choose_recipe(known_recipes, recipe, lambda known: True)]
    there = [(known, c) for known in known_recipes for c in bank.columns(known.fingerprint)]
    own = [
        (known, c)
        for known in known_recipes
        for c in as_they_are(list(bank.columns(known.fingerprint)))
    ]
    if not there:
        raise FeaturesMissing(f"{bank.path} has no features yet; run `featbank extract`.")
    wanted = own if layers is None else [pair for pair in there if _is_named(pair, own, layers)]
    if not wanted:
        raise FeaturesMissing(
            f"the bank has no layer {', '.join(layers or ())}; it has "
            f"{', '.join(dict.fromkeys(column.name for _, column in there))}."
        )
    found: list[tuple[KnownRecipe, Column, Located]] = []
    notes = []
    for known, column in wanted:
        try:
            located = bank.locate(
                known.recipe,
                column.name,
                views=views,
                source=source,
                label=label,
                further=further,
            )
            found.append((known, column, located))
        except FeaturesMissing as error:
            notes.append(f"left out: {error}")
    if not found:
        raise FeaturesMissing(notes[0].removeprefix("left out: "))
    names = names_of([(known, column) for known, column, _ in found])
    return LocatedLayers(dict(zip(names, (one[2] for one in found), strict=True))), notes


def _is_named(
    pair: tuple[KnownRecipe, Column],
    own: Sequence[tuple[KnownRecipe, Column]],
    layers: Sequence[str],
) -> bool:
    """Tell whether a word means a column; turned images must be named as such."""
    parts = pair[1].name.split(":")
    return any(
        parts[: word.count(":") + 1] == word.split(":") and (word.count(":") > 1 or pair in own)
        for word in layers
    )


def _costs(blocks: LocatedLayers) -> tuple[dict[str, float], list[str]]:
    """Measure what networks take, where they can be built."""
    from featbank.workflows.cost import network_milliseconds

    costs: dict[str, float] = {}
    notes = []
    for slug in dict.fromkeys(located.known.slug for located in blocks.located.values()):
        own = {n: at for n, at in blocks.located.items() if at.known.slug == slug}
        columns = {name: located.tables[0].column for name, located in own.items()}
        try:
            taken = network_milliseconds(next(iter(own.values())).known, list(columns.values()))
        except FeatbankError as error:
            notes.append(f"no cost of {slug}: {error}")
            continue
        costs |= {name: own[name].averaged * taken[column] for name, column in columns.items()}
    return costs, notes
