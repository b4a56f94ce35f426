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
from featbank.bank.selection import Selection
from featbank.data.splits import make_split
from featbank.errors import DataError, EvaluationError, HeadError
from featbank.heads.choice import LAYER, LayerChoice
from featbank.workflows.labels import SEPARATOR, chosen_labels, chosen_weights, label_column
from featbank.workflows.layers import layers_to_choose
from featbank.workflows.predictions import check_table, write_predictions
from featbank.workflows.room import select_fitting

if TYPE_CHECKING:
    from featbank.evaluation.result import EvaluationResult, HeadResult

__all__ = ["fit", "splits_of"]


def fit(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "svm",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    choose_layer: bool = False,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    multilabel: str | bool | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    cv: int | float | None = None,
    repeats: int = 1,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    sample_weight: str | None = None,
    calibrate: bool | str = False,
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
    label : str, optional
        Column of the source's table that is the label.
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
        `featbank.data.splits.make_split`. ``none`` ignores what the index says and
        cross-validates. By default the index's own splits are used where it has any.
    sample_weight : str, optional
        Column of the table that says how much an image counts in fitting; numbers from 0 up.
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

    if n_jobs == 0:
        raise EvaluationError("n_jobs is 0; give the number of fits at a time, or -1: one a core.")
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    heads = list(head) if isinstance(head, list | tuple) else [head]
    targets = _targets(heads, out)
    if predictions is not None:
        check_table(predictions)
    column = label_column(label, positive)
    words = layers.split(",") if isinstance(layers, str) else layers
    if choose_layer:
        if multilabel:
            raise EvaluationError("choose_layer takes one label an image; leave multilabel out.")
        there = layers_to_choose(bank, recipe, words)
        words = [name for name, _ in there.values()]
        ends = accumulate((width for _, width in there.values()), initial=0)
        blocks = dict(zip(there, pairwise(ends), strict=True))
        heads, tune = [LayerChoice(one, blocks, tune) for one in heads], True
    room = select_fitting(
        bank,
        heads,
        memory=memory,
        n_jobs=n_jobs,
        recipe=recipe,
        layer=words,
        source=source,
        label=column,
        further=[] if sample_weight is None else [sample_weight],
    )
    chosen = room.selection
    found = chosen_labels(
        chosen.labels,
        chosen.paths,
        column=column,
        positive=positive,
        multilabel=SEPARATOR if multilabel is True else multilabel or None,
        classes=classes,
        exclude=exclude,
    )
    labels = found.y
    splits = splits_of(chosen, found.strata, split, random_state)
    groups = chosen.groups if any(word is not None for word in chosen.groups) else None
    options: dict[str, Any] = {
        "splits": splits,
        "groups": groups,
        "digests": chosen.digests,
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "sample_weight": None
        if sample_weight is None
        else chosen_weights(
            chosen.further[sample_weight], labels, chosen.paths, column=sample_weight
        ),
        "calibrate": calibrate,
        "threshold": threshold,
        "scoring": scoring,
        "near_duplicates": near_duplicates,
        "random_state": random_state,
        "device": device,
    }
    result = cross_validate(
        chosen.X,
        labels,
        heads,
        cv=cv,
        repeats=repeats,
        show_leak=show_leak,
        n_jobs=room.n_jobs,
        progress=progress,
        **options,
    )
    result = dataclasses.replace(result, notes=(*room.notes, *found.notes, *result.notes))
    if predictions is not None:
        write_predictions(predictions, result, chosen.paths)
    if out is None:
        return result
    options["near_duplicates"] = result.near_duplicates  # found once
    saved = [
        _save(chosen, labels, name, one, result, target, options)
        for name, one, target in zip(heads, result.heads, targets, strict=True)
    ]
    return dataclasses.replace(result, heads=tuple(saved))


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
        folder, targets = os.path.dirname(out) or ".", [out]
    else:
        folder, targets = out, [os.path.join(out, f"{name}.skops") for name in names]
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder} to save classifiers in; make it first.")
    return targets


def splits_of(
    chosen: Selection, labels: Sequence[str | None], split: str | None, seed: int
) -> list[str | None] | None:
    """Return the split of each image, made as asked or the index's own; None: cross-validate."""
    if split == "none":
        return None
    if split is not None:
        names = [os.fsencode(path) for path in chosen.paths]
        groups: list[str | None] | None = None
        if any(group is not None for group in chosen.groups):
            groups = chosen.groups
        elif split.partition(":")[0] in ("random", "kfold"):  # identical images stay together
            groups = [key.tobytes().hex() for key in chosen.digests]
        made = list(make_split(split, names, labels, groups=groups, seed=seed))
        if {word for word, label in zip(made, labels, strict=True) if label} == {"train"}:
            raise DataError(
                f"the split {split} puts every labelled image in train and leaves none to score "
                "on; ask for fewer training images, or for --cv."
            )
        return made
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


def _save(
    chosen: Selection,
    labels: Sequence[Any],
    head: Any,
    scored: HeadResult,
    result: EvaluationResult,
    target: str,
    options: Mapping[str, Any],
) -> HeadResult:
    from featbank.classifier import Classifier
    from featbank.evaluation.final import fit_final
    from featbank.evaluation.multilabel.result import LabelResult

    if isinstance(result, LabelResult):
        labels = [None if own is None else own & set(result.classes) for own in labels]
    final = fit_final(chosen.X, labels, head, **options)
    best_params, columns = final.best_params, chosen.columns
    if isinstance(head, LayerChoice):  # once more, on the chosen layer alone
        settings = dict(best_params)
        layer = settings.pop(LAYER, next(iter(head.blocks)))
        columns = (columns[list(head.blocks).index(layer)],)
        fixed = {**options, "tune": False, "params": {**(options["params"] or {}), **settings}}
        block = chosen.X[:, slice(*head.blocks[layer])]
        final = fit_final(block, labels, head.head, **fixed)
    classifier = Classifier(
        recipe=chosen.recipe,
        request=chosen.request,
        columns=columns,
        classes=final.classes,
        head=final.estimator,
        head_name=scored.head,
        provenance={
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "images": len(final.rows),
            "protocol": result.protocol,
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
