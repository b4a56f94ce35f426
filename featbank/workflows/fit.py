"""Fit: heads scored on the features of a bank, fitted on all of them, and saved."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.bank.bank import Bank
from featbank.bank.selection import Selection
from featbank.data.splits import make_split
from featbank.errors import DataError, EvaluationError, HeadError

if TYPE_CHECKING:
    from featbank.evaluation.result import EvaluationResult, HeadResult

__all__ = ["fit"]


def fit(
    bank: Bank | str | os.PathLike[str] = "bank",
    head: Any = "svm",
    *,
    recipe: str | None = None,
    layers: str | Sequence[str] | None = None,
    source: str | Sequence[str] | None = None,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    cv: int | float | None = None,
    repeats: int = 1,
    tune: bool = True,
    params: Mapping[str, Any] | None = None,
    class_weight: Any = None,
    calibrate: bool = False,
    scoring: str = "accuracy",
    random_state: int = 0,
    n_jobs: int | None = None,
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
    label : str, optional
        Column of the source's table that is the label.
    classes, exclude : sequence of str
        Only these classes; not these.
    split : str, optional
        Made here: ``random:70/15/15``, ``first:60/10``, ``kfold:5``, ``group:80/20``; see
        `featbank.data.splits.make_split`. ``none`` ignores what the index says and
        cross-validates. By default the index's own splits are used where it has any.
    cv, repeats, tune, params, class_weight, calibrate, scoring, random_state, n_jobs, progress
        As in `featbank.cross_validate`.
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
    chosen = bank.select(
        recipe,
        layers.split(",") if isinstance(layers, str) else layers,
        source=source,
        label=label,
    )
    labels = _chosen_labels(chosen.labels, classes, exclude)
    if not any(word is not None for word in labels):
        raise DataError(
            "no image of the bank has a label; give classes as subfolders, or a table with labels."
        )
    splits = _splits(chosen, labels, split, random_state)
    groups = chosen.groups if any(word is not None for word in chosen.groups) else None
    options = {
        "splits": splits,
        "groups": groups,
        "digests": chosen.digests,
        "tune": tune,
        "params": params,
        "class_weight": class_weight,
        "calibrate": calibrate,
        "scoring": scoring,
        "random_state": random_state,
    }
    result = cross_validate(
        chosen.X, labels, heads, cv=cv, repeats=repeats, n_jobs=n_jobs, progress=progress, **options
    )
    if out is None:
        return result
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


def _chosen_labels(
    labels: Sequence[str | None], classes: Sequence[str] | None, exclude: Sequence[str]
) -> list[str | None]:
    from featbank.errors import nearest

    known = {word for word in labels if word is not None}
    for word in (*(classes or ()), *exclude):
        if word not in known:
            raise DataError(f"no image has the label {word!r}; {nearest(word, known)}")
    wanted = (set(classes) if classes else known) - set(exclude)
    return [word if word in wanted else None for word in labels]


def _splits(
    chosen: Selection, labels: Sequence[str | None], split: str | None, seed: int
) -> list[str | None] | None:
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
    labels: Sequence[str | None],
    head: Any,
    scored: HeadResult,
    result: EvaluationResult,
    target: str,
    options: Mapping[str, Any],
) -> HeadResult:
    from featbank.classifier import Classifier
    from featbank.evaluation.crossval import fit_final

    final = fit_final(chosen.X, labels, head, **options)
    classifier = Classifier(
        recipe=chosen.recipe,
        request=chosen.request,
        columns=chosen.columns,
        classes=final.classes,
        head=final.estimator,
        head_name=scored.head,
        provenance={
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "images": len(final.rows),
            "protocol": result.protocol,
            "scores": {name: estimate.to_dict() for name, estimate in scored.metrics.items()},
            "best_params": scored.to_dict()["best_params"],
        },
    )
    classifier.save(target)
    return dataclasses.replace(
        scored,
        best_params=final.best_params,
        classifier=target,
        notes=tuple(dict.fromkeys((*scored.notes, *final.notes))),
    )
