"""Fit: heads scored on the features of a bank, fitted on all of them, and saved."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from featbank.bank.bank import Bank
from featbank.errors import EvaluationError, HeadError
from featbank.heads.choice import LAYER, LayerChoice
from featbank.targets import prepare_target
from featbank.workflows.labels import chosen_weights, label_column
from featbank.workflows.layers import layers_to_choose
from featbank.workflows.moves import find_missing, note_on_missing, replacing_line
from featbank.workflows.predictions import write_predictions
from featbank.workflows.room import select_fitting
from featbank.workflows.rows import (
    ChosenRows,
    check_jobs,
    chosen_rows,
    further_columns,
    layer_words,
)
from featbank.workflows.views import checked_combination, how_many, note_on_views, seeing

if TYPE_CHECKING:
    from featbank.evaluation.result import EvaluationResult, HeadResult

__all__ = ["fit"]


def fit(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "logreg",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    choose_layer: bool = False,
    views: str | None = None,
    combine: str | None = None,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    multilabel: str | bool | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    group: str | None = None,
    keep_copies: bool = False,
    cv: int | float | None = None,
    repeats: int | None = None,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    sample_weight: str | None = None,
    metric_weight: str | None = None,
    calibrate: bool | str | None = None,
    threshold: str | None = None,
    scoring: str = "accuracy",
    near_duplicates: float | None = None,
    show_leak: bool = False,
    predictions: str | os.PathLike[str] | None = None,
    random_state: int = 0,
    device: str | None = None,
    n_jobs: int | None = None,
    memory: int | str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score one or several heads on the features of a bank, and save each, fitted on all images.

    Parameters
    ----------
    bank : Bank or path
        A folder or a packed file.
    head : str, estimator, or sequence of them
        As in `featbank.make_head`.
    recipe, layers, source
        Which features; needed only where the bank has several. See `featbank.Bank.features`.
    choose_layer : bool, default=False
        Choose one of the layers inside each fold, among the settings of the head, instead of
        joining them; among all layers of the recipe where none are named. The classifier takes the
        chosen one alone.
    views : {"identity", "flips", "d4", "all"}, optional
        Which views of each layer, of those that were extracted (`featbank.extract`, ``views``);
        by default images as they are.
    combine : {"features", "decisions", "train"}, default="features"
        How views are combined. "features": the mean of their features is what is learned from and
        scored. "decisions": heads learn from images as they are; their probabilities, or decisions
        where they have none, are averaged over views. "train": heads learn from all views, and
        decisions are averaged. All views of an image are on the same side of every fold.
    label : str, optional
        Column of the sources' tables that is the label; a source without it gives none.
    positive : str, optional
        Two classes made of a column by a comparison (``"probability>0.5"``, ``"type==mono"``; any
        of ``> >= < <= == !=``), named by it and by its opposite. Without a column (``">0.5"``) it
        compares the label.
    multilabel : str or True, optional
        An image has several labels, with this sign between them; True is ``";"``. An empty cell
        leaves the image out; a cell of the sign alone says that the image has none of the labels.
    classes, exclude : sequence of str
        Only these classes; not these: other images are left out. With `positive` they mean the
        column's values before they are compared. With `multilabel` they choose labels, and the
        images stay, if need be with none: a word for "none" is best excluded.
    split : str, optional
        Made here: ``random:70/15/15``, ``first:60/10``, ``kfold:5``, ``group:80/20``; see
        `featbank.data.splits`. Shares are exact in every class, identical images and groups stay
        together, and the bank's index keeps which image is where, for this spec, this
        `random_state` and this label: an image that is added later moves no other. ``none``
        ignores what the index says and cross-validates. By default the index's own splits are
        used where it has any.
    group : str, optional
        Column of the table whose equal values keep images together; ``"none"`` ignores groups. By
        default the groups of the index, where it has any.
    keep_copies : bool, default=False
        Count every image with the same bytes and label. By default one of each split counts, the
        first by source and name, with the split, the group and the further columns of its copies
        where it has none itself.
    sample_weight : str, optional
        Column of the table that says how much an image counts in fitting; numbers from 0 up.
    metric_weight : str, optional
        Column of the table that says how much an image counts in every metric; numbers from 0 up.
        Images of weight 0 are trained on and not scored.
    cv, repeats, tune, params, class_weight, calibrate, threshold, scoring, near_duplicates
        As in `featbank.cross_validate`, as are `show_leak`, `random_state`, `device`,
        `n_jobs`, `progress`.
    predictions : path, optional
        A CSV file for the predictions of images that a fit had not seen; see
        `featbank.workflows.predictions.write_predictions`.
    memory : int or str, optional
        Bytes that may be taken, or a text as ``"4GB"``; by default nine tenths of what is
        available. Features that don't fit are read in blocks by ``logreg`` and ``mlp``: other
        heads are refused.
    out : path, optional
        A folder for ``<head>.skops`` files, or the name of the one file. None saves nothing.

    Returns
    -------
    EvaluationResult
        ``heads[i].classifier`` is the path of the file.

    Raises
    ------
    FeaturesMissing, AmbiguousFeatures, DataError, EvaluationError, HeadError
    """
    from featbank.evaluation.crossval import cross_validate

    check_jobs(n_jobs)
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    heads = list(head) if isinstance(head, list | tuple) else [head]
    targets = _targets(heads, out)
    for path in (predictions, *targets):
        if path is not None:
            prepare_target(path)
    column = label_column(label, positive)
    words = layer_words(layers)
    combine = checked_combination(views, combine)
    if multilabel and combine != "features":
        raise EvaluationError(
            f"views are combined by {combine!r} for one label an image; leave multilabel out, or "
            "combine features."
        )
    if choose_layer:
        if multilabel:
            raise EvaluationError("choose_layer takes one label an image; leave multilabel out.")
        there = layers_to_choose(bank, recipe, words)
        words = [name for name, _ in there.values()]
        ends = accumulate((width for _, width in there.values()), initial=0)
        blocks = dict(zip(there, pairwise(ends), strict=True))
        heads, tune = [LayerChoice(one, blocks, tune) for one in heads], True
    options: dict[str, Any] = {
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "calibrate": calibrate,
        "threshold": threshold,
        "scoring": scoring,
        "near_duplicates": near_duplicates,
        "random_state": random_state,
        "device": device,
    }
    with bank.using():
        located = bank.locate(
            recipe,
            words,
            views=views,
            combine=combine,
            source=source,
            label=column,
            further=further_columns(sample_weight, metric_weight, group),
        )
        rows = chosen_rows(
            located.selection,
            bank=bank,
            column=column,
            positive=positive,
            multilabel=multilabel,
            classes=classes,
            exclude=exclude,
            split=split,
            random_state=random_state,
            group=group,
            metric_weight=metric_weight,
            keep_copies=keep_copies,
        )
        chosen = rows.selection
        seen = _Seen(how_many(chosen, views), combine)
        rows.check(
            [seeing(one, seen.views, combine) for one in heads],
            cv=cv,
            repeats=1 if repeats is None else repeats,
            **options,
        )
        options["sample_weight"] = None
        if sample_weight is not None:
            options["sample_weight"] = chosen_weights(
                chosen.further[sample_weight], rows.y, chosen.paths, column=sample_weight
            )
        room = select_fitting(bank, heads, located, memory=memory, n_jobs=n_jobs)
    chosen = dataclasses.replace(chosen, X=room.selection.X)
    rows = dataclasses.replace(rows, selection=chosen)
    result = rows.score(
        cross_validate,
        chosen.X,
        [seeing(one, seen.views, combine) for one in heads],
        cv=cv,
        repeats=repeats,
        show_leak=show_leak,
        n_jobs=room.n_jobs,
        progress=progress,
        **options,
    )
    told = note_on_views(seen.views, combine)
    result = dataclasses.replace(
        result, notes=(*told, *room.notes, *result.notes, *_on_missing(bank, chosen.sources))
    )
    if predictions is not None:
        write_predictions(predictions, result, chosen.paths)
    if out is None:
        return result
    options["near_duplicates"] = result.near_duplicates  # found once
    saved = [
        _save(rows, one, seen, scored, result, target, options)
        for one, scored, target in zip(heads, result.heads, targets, strict=True)
    ]
    return dataclasses.replace(result, heads=tuple(saved))


def _on_missing(bank: Bank, used: Sequence[str]) -> list[str]:
    """Say which of the sources that are used are gone; a packed bank travels without them."""
    missing = () if bank.packed else find_missing(bank)
    missing = tuple(one for one in missing if one.name in set(used))
    note = note_on_missing(missing, bank.path, again=replacing_line(bank, missing))
    return [] if note is None else [note]


def _targets(heads: Sequence[Any], out: str | os.PathLike[str] | None) -> list[str]:
    from featbank.heads.registry import head_name

    if out is None:
        return []
    out = os.fspath(out)
    times: Counter[str] = Counter()
    names = []
    for head in heads:
        name = head_name(head).rpartition(".")[2]
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name}-{times[name]}")
    if out.endswith(".skops"):
        if len(heads) > 1:
            raise HeadError(f"{out} is one file, and {len(heads)} heads were named; give a folder.")
        return [out]
    return [os.path.join(out, f"{name}.skops") for name in names]


@dataclasses.dataclass(frozen=True)
class _Seen:
    """How many views there are of an image, and how they are combined."""

    views: int
    combine: str


def _save(
    rows: ChosenRows,
    head: Any,
    seen: _Seen,
    scored: HeadResult,
    result: EvaluationResult,
    target: str,
    options: Mapping[str, Any],
) -> HeadResult:
    from featbank.classifier import Classifier
    from featbank.evaluation.final import fit_final
    from featbank.evaluation.multilabel.result import LabelResult

    chosen, labels = rows.selection, rows.y
    if isinstance(result, LabelResult):
        labels = [None if own is None else own & set(result.classes) for own in labels]
    own = seeing(head, seen.views, seen.combine)
    final = fit_final(chosen.X, labels, own, **rows.bound, **options)
    best_params, columns = final.best_params, chosen.columns
    if isinstance(head, LayerChoice):  # once more, on the chosen layer alone
        settings = dict(best_params)
        layer = settings.pop(LAYER, next(iter(head.blocks)))
        columns = columns[list(head.blocks).index(layer) :: len(head.blocks)]
        fixed = {**options, "tune": False, "params": {**(options["params"] or {}), **settings}}
        side_by_side = 1 if seen.combine == "features" else seen.views
        X = chosen.X.reshape(len(chosen.X), side_by_side, -1)
        block = X[:, :, slice(*head.blocks[layer])].reshape(len(X), -1)
        own = seeing(head.head, seen.views, seen.combine)
        final = fit_final(block, labels, own, **rows.bound, **fixed)
    classifier = Classifier(
        recipe=chosen.recipe,
        request=chosen.request,
        columns=columns,
        classes=final.classes,
        averaged=seen.views if seen.combine == "features" else 1,
        head=final.estimator,
        head_name=scored.head,
        provenance={
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "images": len(final.rows),
            "protocol": result.protocol,
            **({"views": seen.views, "combine": seen.combine} if seen.views > 1 else {}),
            "scores": {name: estimate.to_dict() for name, estimate in scored.metrics.items()},
            "best_params": dataclasses.replace(scored, best_params=best_params).to_dict()[
                "best_params"
            ],
            **final.learned,
        },
    )
    classifier.save(target)
    return dataclasses.replace(
        scored,
        best_params=best_params,
        classifier=target,
        notes=tuple(dict.fromkeys((*scored.notes, *final.notes))),
    )
