"""Advise: a head on frozen features or fine-tuning, by what a bank's features say."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.backbones.layers import PENULTIMATE
from featbank.backbones.recipe import Column
from featbank.bank.bank import Bank
from featbank.bank.recipes import KnownRecipe
from featbank.bank.selection import choose_columns, choose_recipe
from featbank.errors import FeatbankError, FeaturesMissing
from featbank.workflows.commandlines import bank_words, extract_lines, line, row_words
from featbank.workflows.labels import label_column
from featbank.workflows.layers import LocatedLayers, as_they_are, names_of
from featbank.workflows.rows import check_jobs, chosen_rows, further_columns, layer_words

if TYPE_CHECKING:
    from featbank.evaluation.advice import Advice, Command

__all__ = ["advise", "earlier_layers"]


def advise(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "logreg",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
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
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    random_state: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Advice:
    """Recommend a head on frozen features or fine-tuning, by what a bank's features say.

    The classic rule asks whether there are few images or many, and whether they are like those that
    the network was trained on. Here both are measured: by images a class and by what the second
    half of the labels brings; and by how the last layer does beside earlier ones, on the same folds
    and inside them. See `featbank.evaluation.advice.decide` for how these decide.

    Parameters
    ----------
    bank : Bank or path
        With features of the last layer and, better, of earlier ones.
    head : str or estimator
        What layers are compared by.
    recipe : str, optional
        Which backbone, if the bank has several.
    layers : str or sequence of str, optional
        Only these; by default all that the recipe has.
    source, label, positive, classes, exclude, split, keep_copies, group, metric_weight
        As in `featbank.fit`.
    cv, repeats, tune, params
        As there.
    random_state, n_jobs
        As there.
    progress : callable, optional
        Called as ``progress(done, total)`` after each layer, and after the shares of the labels.

    Returns
    -------
    Advice
        ``advice.recommendation`` is one sentence; ``print(advice)`` shows what it rests on and the
        commands that try it.

    Raises
    ------
    FeaturesMissing, AmbiguousFeatures, DataError, EvaluationError, HeadError

    Examples
    --------
    >>> import featbank
    >>> print(featbank.advise("bank"))  # doctest: +SKIP
    """
    from featbank.evaluation.advice import Command, measure

    check_jobs(n_jobs)
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    column = label_column(label, positive)
    with bank.using():
        known = choose_recipe(bank.recipes, recipe, lambda k: bool(bank.columns(k.fingerprint)))
        beside = further_columns(group, metric_weight)
        blocks, last, notes = _blocks(bank, known, layer_words(layers), source, column, beside)
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
        options: dict[str, Any] = {
            "tune": tune,
            "params": params,
            "cv": cv,
            "repeats": repeats,
            "random_state": random_state,
        }
        rows.check(head, **options)
        found = rows.score(
            measure, blocks, head, last=last, n_jobs=n_jobs, progress=progress, **options
        )
        own = row_words(
            source=source,
            label=label,
            positive=positive,
            classes=classes,
            exclude=exclude,
            split=split,
            group=group,
            metric_weight=metric_weight,
            keep_copies=keep_copies,
            cv=cv,
            repeats=repeats,
            random_state=random_state,
        )
        several = ["--recipe", known.slug] if len(bank.recipes) > 1 else []
        base = [*bank_words(bank.path), *several, *own]
        there = as_they_are(list(bank.columns(known.fingerprint)))
        unused = layers is not None and not notes and _has_further(there, blocks, last)
        further = [] if unused else _further(bank, known, source, blocks, last)
        commands = _commands(found, base, further, len(there))
        if unused:
            again = line("advise", *base, "--head", found.head)
            commands.append(Command(again, "compare all layers that the bank has"))
        if further is None:
            notes.append(_BY_HAND)
    return dataclasses.replace(found, commands=tuple(commands), notes=(*found.notes, *notes))


def _blocks(
    bank: Bank,
    known: KnownRecipe,
    layers: Sequence[str] | None,
    source: str | Sequence[str] | None,
    label: str | None,
    further: Sequence[str],
) -> tuple[LocatedLayers, str | None, list[str]]:
    """Find the layers that all images have, from early to late; return which is the last one."""
    there = as_they_are(list(bank.columns(known.fingerprint)))
    if not there:
        raise FeaturesMissing(f"{bank.path} has no features yet; run `featbank extract`.")
    names = dict(zip(there, names_of([(known, column) for column in there]), strict=True))
    wanted = there
    if layers is not None:
        every = list(bank.columns(known.fingerprint))
        wanted = [choose_columns(every, word, None)[0] for word in dict.fromkeys(layers)]
    located, notes = {}, []
    last: str | None = None
    for column in sorted(wanted, key=_depth):
        name = names.get(column, column.name)
        if column.layer == PENULTIMATE and last is not None:
            notes.append(f"left out: {name}, another form of the last layer.")
            continue
        try:
            located[name] = bank.locate(
                known.recipe, column.name, source=source, label=label, further=further
            )
        except FeaturesMissing as error:
            notes.append(f"left out: {error}")
            continue
        if column.layer == PENULTIMATE:
            last = name
    if not located:
        raise FeaturesMissing(notes[0].removeprefix("left out: "))
    return LocatedLayers(located), last, notes


def _depth(column: Column) -> tuple[bool, list[tuple[int, str]], Column]:
    """Return a key that sorts layers by the numbers in their names, the last one behind."""
    parts = re.findall(r"\d+|\D+", column.layer)
    numbers = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return column.layer == PENULTIMATE, numbers, column


def _has_further(there: Sequence[Column], blocks: LocatedLayers, last: str | None) -> bool:
    """Tell whether the bank's columns bring what the comparison of layers lacks."""
    if last is None:
        return any(column.layer == PENULTIMATE for column in there)
    return len(blocks) == 1 and any(column.layer != PENULTIMATE for column in there)


def _further(
    bank: Bank,
    known: KnownRecipe,
    source: str | Sequence[str] | None,
    blocks: LocatedLayers,
    last: str | None,
) -> list[str] | None:
    """Return commands that bring what the comparison of layers lacks; None where none can."""
    if last is not None and len(blocks) > 1:
        return []
    if last is None:
        return extract_lines(bank, known, source, [PENULTIMATE])
    try:
        layers = _layers_of(known)
    except FeatbankError:
        return None
    return extract_lines(bank, known, source, layers) if layers else None


def _layers_of(known: KnownRecipe) -> list[str]:
    from featbank.workflows.models import list_layers

    return earlier_layers({one.name: one.shape for one in list_layers(known.recipe.backbone)})


_BY_HAND = (
    "to compare layers, bring what this bank lacks, penultimate or earlier ones, by "
    "featbank.extract(..., layers=[...]): no command line says again how it was made."
)


def earlier_layers(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return three layers worth trying besides the last one.

    These are the last ones of a width and a resolution, nearest the end of the network; where it
    has one shape throughout, as transformers have, those after a quarter, a half and three quarters
    of its blocks. What is as wide as the last layer and followed by no other is left out: pooled,
    it is that layer.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The shape of each layer's output for one image, as `featbank models NAME --layers` lists
        them.

    Examples
    --------
    >>> earlier_layers({"penultimate": (512,), "layer1": (64, 56, 56), "layer2": (128, 28, 28),
    ...                 "layer3": (256, 14, 14), "layer4": (512, 7, 7)})
    ['layer1', 'layer2', 'layer3']
    """
    width = shapes[PENULTIMATE][-1] if len(shapes.get(PENULTIMATE, ())) == 1 else None
    pieces = {
        name: shapes[name] for name in _pieces([n for n in shapes if n != PENULTIMATE])
        if name in shapes and len(shapes[name]) > 1 and max(shapes[name][1:]) > 1
    }  # fmt: skip
    by_shape = {shape: name for name, shape in pieces.items()}
    kinds = [name for shape, name in by_shape.items() if width not in (shape[0], shape[-1])]
    if len(kinds) > 2:
        return kinds[-3:]
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in pieces.items():
        alike.setdefault((name.rpartition(".")[0], shape), []).append(name)
    row = max(alike.values(), key=len, default=[])
    places = dict.fromkeys(len(row) * quarter // 4 for quarter in (1, 2, 3))
    return [row[place - 1] for place in places if place]


def _pieces(names: Sequence[str]) -> list[str]:
    """Return the modules that a network is made of, containers of more than half of it opened."""
    front = {".".join(name.split(".")[:1]): None for name in names}
    while True:
        sizes = {piece: sum(n.startswith(f"{piece}.") for n in names) for piece in front}
        large = [piece for piece, size in sizes.items() if 2 * size > len(names)]
        if not large:
            return list(front)
        depth = large[0].count(".") + 2
        inside = {
            ".".join(n.split(".")[:depth]): None for n in names if n.startswith(f"{large[0]}.")
        }
        front = {
            name: None for piece in front for name in (inside if piece == large[0] else (piece,))
        }


def _commands(
    found: Advice, base: Sequence[str], further: list[str] | None, there: int
) -> list[Command]:
    """Return what tries the recommendation, what checks it, and what tells more.

    There are so many layers that commands mean where they name none.
    """
    from featbank.evaluation.advice import Command

    names = [one.name for one in found.layers]
    one = [] if there == 1 else ["--layers", found.labels_of]
    every = [] if there == len(names) else ["--layers", ",".join(names)]
    action = found.decision.action
    commands = []
    if action == "check":
        told = line("fit", *base, *one, "--head", found.head, "--no-save", "--predictions",
                    "predictions.csv")  # fmt: skip
        commands.append(Command(told, "see which images are taken for what"))
    elif action == "head":
        heads = list(dict.fromkeys((found.head, "svm")))
        commands.append(
            Command(line("fit", *base, *one, "--head", ",".join(heads)), "fit and save heads")
        )
    elif action == "layers":
        chosen = line("fit", *base, "--choose-layer", *every, "--head", found.head)
        commands.append(Command(chosen, "a head that chooses its layer inside the folds"))
        ranked = line("select", *base, *every, "--head", found.head, "--join", "all")
        commands.append(Command(ranked, "whether layers joined do better than each alone"))
    elif action == "finetune":
        tuned = line("finetune", *base, "--init", "probe", "--lr", "1e-4", "--backbone-lr", "1")
        commands.append(Command(tuned, "fine-tune all of it at a low rate from a fitted head on"))
    else:
        tuned = line("finetune", *base, "--epochs", "30", "--backbone-lr", "1", "--augment",
                     "standard")  # fmt: skip
        commands.append(Command(tuned, "train all of the network at the head's rate"))
    if action != "check":
        versus = line("compare", *base, *one, "--head", found.head, "--finetune", "lp-ft",
                      "--max-seconds", "600")  # fmt: skip
        commands.append(
            Command(versus, "frozen features and ten minutes of fine-tuning on the same folds")
        )
    commands += [
        Command(extra, "extract what this bank lacks to compare layers, then advise again")
        for extra in further or ()
    ]
    return commands
