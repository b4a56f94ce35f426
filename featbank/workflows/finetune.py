"""Fine-tune: a whole network trained on the folds that `fit` would score heads on, and saved."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import durable
from featbank.backbones.request import Request
from featbank.bank.bank import Bank
from featbank.bank.selection import choose_recipe
from featbank.errors import DataError, FineTuneError, nearest
from featbank.finetuning.settings import FineTuneSettings
from featbank.frames import data_frame
from featbank.reporting.plots import check_picture, plot_history, plot_range_test
from featbank.targets import prepare_target
from featbank.workflows.gather import gather_bank, gather_sources
from featbank.workflows.labels import chosen_labels, label_column
from featbank.workflows.predictions import write_predictions
from featbank.workflows.rows import ChosenRows, check_split, chosen_rows, further_columns
from featbank.workflows.survey import open_sources

if TYPE_CHECKING:
    from featbank.backbones.module import ModuleBackbone
    from featbank.backbones.recipe import Recipe
    from featbank.bank.selection import Selection
    from featbank.evaluation.result import EvaluationResult
    from featbank.finetuning.range_test import RangeTest
    from featbank.workflows.trainings import Scores, Trainer, Training, TrainingProgress

__all__ = ["FineTuneResult", "find_learning_rate", "finetune", "settings_for"]

FILE = "finetune.safetensors"
CHECKPOINTS = "finetune"

_OF_MODEL = ("resize", "crop", "squash", "input_size")
_OF_SOURCE = ("kind", "root", "columns", "delimiter", "class_names", "follow_links", "pages")
_OF_SETTINGS = tuple(f.name for f in dataclasses.fields(FineTuneSettings))


@dataclass(frozen=True, repr=False)
class FineTuneResult:
    """How a fine-tuned network did, and how its trainings went.

    Attributes
    ----------
    evaluation : EvaluationResult
        With one head, the network; comparable with those of `featbank.fit` on the same images.
    trainings : tuple of Training
        One a fold, and the final one last, if it is none of these.
    recipe : Recipe
        What it began with.
    settings : FineTuneSettings
    seconds : float
        Of the whole call.
    classifier : str or None
        Path of the file, if one was written.
    """

    evaluation: EvaluationResult
    trainings: tuple[Training, ...]
    recipe: Recipe
    settings: FineTuneSettings
    seconds: float
    classifier: str | None = None

    @property
    def trainable(self) -> int:
        """Parameters that were trained."""
        return self.trainings[0].trainable

    @property
    def parameters(self) -> int:
        """Parameters of the network."""
        return self.trainings[0].parameters

    @property
    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """What each epoch of each training brought, by the training's name."""
        return {one.name: list(one.history) for one in self.trainings}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank finetune --json`` prints it."""
        return {
            **self.evaluation.to_dict(),
            "recipe": self.recipe.slug,
            "settings": self.settings.to_dict(),
            "trainable": self.trainable,
            "parameters": self.parameters,
            "trainings": [one.to_dict() for one in self.trainings],
            "seconds": self.seconds,
            "classifier": self.classifier,
        }

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict: the scores as `EvaluationResult.records` has them, and counts."""
        counts = {"trainable": self.trainable, "parameters": self.parameters}
        (scores,) = self.evaluation.records()
        return [{**scores, **counts, "classifier": self.classifier}]

    def to_frame(self) -> Any:
        """Return `records` as a pandas DataFrame of one row.

        Raises
        ------
        MissingDependency
            pandas is not installed.
        """
        return data_frame(self.records())

    def table(self, *, details: bool = False) -> str:
        """Return scores and trainings as plain text."""
        from featbank.evaluation.text import aligned

        rows = [["training", "images", "watched", "epochs", "best", "ended by", "seconds"]]
        for one in self.trainings:
            counts = (one.images, one.watched, len(one.history), one.best_epoch)
            rows.append([one.name, *map(str, counts), one.stopped, f"{one.seconds:.1f}"])
        share = self.trainable / self.parameters
        return (
            f"{self.evaluation.table(details=details)}\n\n"
            f"{self.recipe.backbone}: {self.trainable:,} of {self.parameters:,} parameters trained "
            f"({share:.1%})\n" + "\n".join(aligned(rows))
        )

    def __repr__(self) -> str:
        return self.table()


def finetune(
    source: Any = None,
    model: str | Request | None = None,
    *,
    bank: Bank | str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    weights: str = "DEFAULT",
    sources: str | Sequence[str] | None = None,
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
    settings: FineTuneSettings | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    resume: bool = False,
    name: str = "finetune",
    out: str | os.PathLike[str] | None = None,
    predictions: str | os.PathLike[str] | None = None,
    history: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    reading: Callable[[int, int], None] | None = None,
    **options: Any,
) -> FineTuneResult:
    """Train a network on the folds that `featbank.fit` would score heads on; save a final one.

    Of each fold's training images a share is held out to watch (`FineTuneSettings.valid`), never
    the images that are scored. With given splits train, valid and test, valid is watched and test
    scored once; with train and one other, a share of train is watched and the other scored once.

    Parameters
    ----------
    source : path, sequence, DataFrame, data set, Source, or tuple of paths, optional
        As in `featbank.extract`. Each file is read once before; what can't be read is left out,
        and a note says so.
    model : str or Request, optional
        A name of ``featbank models``; by default the backbone of the bank, else resnet50.
    bank : Bank or path, optional
        Take the images that it has indexed, in the place of `source`; "bank" if neither is given.
        Its features are not needed.
    recipe, sources : str, optional
        With a bank: whose backbone, if it has several; only the images of these sources.
    weights : str
        ``DEFAULT``, a torchvision enum name, a timm tag, a file, or ``none``: from scratch.
    label, positive, classes, exclude, split, keep_copies, group, metric_weight, cv, repeats
        As in `featbank.fit`, and so are the folds.
    settings : FineTuneSettings, optional
        Or its words one by one, among the options.
    max_seconds : float, optional
        For the whole call: each training may take its share of what is left.
    device : str
        auto, cpu, cuda or mps.
    workers : int, optional
        Processes that decode images; 0 for none.
    checkpoints : path, optional
        A folder, made if it is missing, where each epoch and each fold is kept until the end. None
        keeps nothing.
    resume : bool
        Go on where a call with the same words was ended; without anything there, begin.
    name : str
        Of the row in the table.
    out : path, optional
        A folder for ``finetune.safetensors``, or the file's name; for this the network is trained
        once more, on all images that no split reserves. None leaves that out.
    predictions : path, optional
        As in `featbank.fit`.
    history, plot : path, optional
        JSON and PNG files for what each epoch brought.
    progress : callable, optional
        Called with a `featbank.workflows.trainings.TrainingProgress` after each step.
    reading : callable, optional
        Called with the number of images read and of all.
    **options
        The words of `FineTuneSettings`; of the model ``resize``, ``crop``, ``squash`` and
        ``input_size``; of the source ``kind``, ``root``, ``columns``, ``delimiter``,
        ``class_names``, ``follow_links`` and ``pages``.

    Returns
    -------
    FineTuneResult

    Raises
    ------
    DataError, EvaluationError
        The images, their labels or the splits can't be had as asked.
    FineTuneError
        Settings contradict one another, the network, or what there is to resume.
    BackboneError
        The network or its weights can't be had.

    Examples
    --------
    >>> import featbank
    >>> result = featbank.finetune("data/", "resnet18", unfreeze="layer4")    # doctest: +SKIP
    >>> featbank.fit("bank", "logreg").heads[0].metrics["accuracy"].mean      # doctest: +SKIP
    """
    from featbank.evaluation.plan import check_folds
    from featbank.workflows.checkpoints import Checkpoints
    from featbank.workflows.trainings import Budget, score

    begun = time.monotonic()
    budget = Budget.of(max_seconds)
    target = _target(out)
    check_folds(cv, repeats)
    if plot is not None:
        check_picture(plot)
    for path in (predictions, history, plot, target):
        if path is not None:
            prepare_target(path)
    if resume and checkpoints is None:
        raise FineTuneError("there are no checkpoints to resume from; name their folder.")
    folder = None if checkpoints is None else os.fspath(checkpoints)
    rows, trainer, notes = _prepared(
        source,
        model,
        bank=bank,
        recipe=recipe,
        weights=weights,
        sources=sources,
        label=label,
        positive=positive,
        classes=classes,
        exclude=exclude,
        split=split,
        group=group,
        metric_weight=metric_weight,
        keep_copies=keep_copies,
        scored=True,
        settings=settings,
        device=device,
        workers=workers,
        reading=reading,
        options=options,
    )
    trainer = dataclasses.replace(
        trainer, budget=budget, checkpoints=folder, resume=resume, progress=progress
    )
    scores = score(rows, trainer, cv=cv, repeats=repeats, name=name, final=target is not None)
    evaluation = scores.evaluation
    evaluation = dataclasses.replace(evaluation, notes=(*notes, *evaluation.notes))
    if predictions is not None:
        write_predictions(predictions, evaluation, rows.selection.paths)
    if target is not None:
        _save(scores, evaluation, trainer, target)
        (head,) = evaluation.heads
        head = dataclasses.replace(head, classifier=target)
        evaluation = dataclasses.replace(evaluation, heads=(head,))
    result = FineTuneResult(
        evaluation=evaluation,
        trainings=scores.trainings,
        recipe=trainer.recipe,
        settings=trainer.settings,
        seconds=time.monotonic() - begun,
        classifier=target,
    )
    if history is not None:
        text = json.dumps(result.histories, allow_nan=False, indent=1)
        durable.write_file(os.fspath(history), text.encode())
    if plot is not None:
        plot_history(result.histories, plot, monitor=result.settings.monitor)
    if folder is not None:
        Checkpoints.forget(folder)
    return result


def find_learning_rate(
    source: Any = None,
    model: str | Request | None = None,
    *,
    bank: Bank | str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    weights: str = "DEFAULT",
    sources: str | Sequence[str] | None = None,
    label: str | None = None,
    positive: str | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    split: str | None = None,
    group: str | None = None,
    keep_copies: bool = False,
    settings: FineTuneSettings | None = None,
    device: str = "auto",
    workers: int | None = None,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    plot: str | os.PathLike[str] | None = None,
    reading: Callable[[int, int], None] | None = None,
    **options: Any,
) -> RangeTest:
    """Run the learning-rate range test on the images that a first training would learn from.

    Parameters
    ----------
    source, model, bank, recipe, weights, sources, label, positive, classes, exclude, split, group
        As in `finetune`, as are `keep_copies`, `settings`, `device`, `workers`, `reading` and
        `options`.
    low, high : float
        The first rate of the head, and the last.
    steps : int
    plot : path, optional
        A PNG file for the curve.

    Returns
    -------
    RangeTest

    Raises
    ------
    DataError, EvaluationError, FineTuneError, BackboneError
    """
    from featbank.workflows.trainings import try_rates

    if plot is not None:
        check_picture(plot)
        prepare_target(plot)
    rows, trainer, _ = _prepared(
        source,
        model,
        bank=bank,
        recipe=recipe,
        weights=weights,
        sources=sources,
        label=label,
        positive=positive,
        classes=classes,
        exclude=exclude,
        split=split,
        group=group,
        metric_weight=None,
        keep_copies=keep_copies,
        scored=False,
        settings=settings,
        device=device,
        workers=workers,
        reading=reading,
        options=options,
    )
    found = try_rates(rows, trainer, low=low, high=high, steps=steps)
    if plot is not None:
        plot_range_test(found, plot)
    return found


def settings_for(
    request: Request | ModuleBackbone, settings: FineTuneSettings | None = None, **words: Any
) -> FineTuneSettings:
    """Return the settings that words mean for a backbone.

    A network without training has nothing to preserve: its rate is the head's unless
    `backbone_lr` says otherwise.

    Raises
    ------
    FineTuneError
        Words are given beside settings, or they are none.
    """
    if settings is not None:
        if words:
            raise FineTuneError(
                f"{', '.join(sorted(words))} stand beside settings=; give one or the other."
            )
        return settings
    if isinstance(request, Request) and request.random:
        words = {"backbone_lr": 1.0, **words}
    return FineTuneSettings.from_dict(words)


def _prepared(
    source: Any,
    model: str | Request | None,
    *,
    bank: Bank | str | os.PathLike[str] | None,
    recipe: str | None,
    weights: str,
    sources: str | Sequence[str] | None,
    label: str | None,
    positive: str | None,
    classes: Sequence[str] | None,
    exclude: Sequence[str],
    split: str | None,
    group: str | None,
    metric_weight: str | None,
    keep_copies: bool,
    scored: bool,
    settings: FineTuneSettings | None,
    device: str,
    workers: int | None,
    reading: Callable[[int, int], None] | None,
    options: dict[str, Any],
) -> tuple[ChosenRows, Trainer, tuple[str, ...]]:
    """Find the network and check what trains of it; then read the images. Also return notes."""
    from featbank.backbones.device import check_device, pick_device
    from featbank.backbones.resolution import resolve
    from featbank.finetuning.loading import worker_count
    from featbank.finetuning.trainer import class_weights
    from featbank.workflows.trainings import Trainer, check

    check_device(device)
    check_split(split)
    if workers is not None:
        worker_count(workers, device, 0)
    own = {name: options.pop(name) for name in _OF_SETTINGS if name in options}
    words = {name: options.pop(name) for name in _OF_MODEL if name in options}
    for word in options:
        if word not in _OF_SOURCE:
            valid = {*_OF_SETTINGS, *_OF_MODEL, *_OF_SOURCE}
            valid |= set(inspect.signature(finetune).parameters)
            raise TypeError(f"finetune() has no option {word!r}; {nearest(word, valid)}")
    if source is not None and bank is not None:
        raise DataError("a source and a bank were named; give one of the two.")
    if source is None:
        if options:
            raise DataError(f"{', '.join(options)} say how a source is read; name a source.")
        bank = bank if isinstance(bank, Bank) else Bank("bank" if bank is None else bank)
    elif recipe is not None or sources is not None:
        raise DataError("recipe and sources choose of a bank; give them with a bank alone.")
    else:
        source = open_sources(source, **options)
    seed = own.get("random_state", 0) if settings is None else settings.random_state
    request = _request(model, bank, recipe, weights, words, seed)
    chosen = settings_for(request, settings, **own)
    column = label_column(label, positive)
    trainer = Trainer(request, resolve(request), chosen, device=device, workers=workers)
    check(request, trainer.recipe, chosen)
    pick_device(device)
    further = further_columns(group, metric_weight)
    told: dict[str, Any] = {
        "column": column,
        "positive": positive,
        "classes": classes,
        "exclude": exclude,
    }

    def check_labels(listed: Selection) -> None:
        found = chosen_labels(listed.labels, listed.paths, **told)
        names = sorted({word for word in found.y if word is not None})
        if isinstance(chosen.class_weight, Mapping):
            class_weights(chosen, np.empty(0, np.intp), len(names), names)

    notes: tuple[str, ...] = ()
    columns: dict[str, Any] = {"label": column, "further": further}
    if isinstance(bank, Bank):
        selection = gather_bank(bank, trainer.recipe, request.to_dict(), source=sources, **columns)
    else:
        selection, notes = gather_sources(
            source,
            trainer.recipe,
            request.to_dict(),
            check=check_labels,
            progress=reading,
            **columns,
        )
    rows = chosen_rows(
        selection,
        bank=bank if isinstance(bank, Bank) else None,
        split=split,
        random_state=chosen.random_state,
        group=group,
        metric_weight=metric_weight,
        keep_copies=keep_copies,
        trained_on=None if scored else (),
        **told,
    )
    return rows, trainer, notes


def _request(
    model: str | Request | None,
    bank: Any,
    recipe: str | None,
    weights: str,
    words: dict[str, Any],
    seed: int,
) -> Request:
    """Return the backbone that is meant; one of a bank by the words that it was extracted with."""
    if isinstance(model, Request):
        if words or weights != "DEFAULT":
            raise FineTuneError("a Request brings its own weights and sizes; give no others.")
        return model
    if model is None and bank is not None and bank.recipes:
        known = choose_recipe(bank.recipes, recipe, lambda one: bool(bank.columns(one.fingerprint)))
        if known.recipe.source == "module":
            raise FineTuneError(
                f"the features of {bank.path} are of a module of its maker's; name a model of "
                "`featbank models` to fine-tune."
            )
        given = Request.from_dict(known.provenance["request"])
        request = dataclasses.replace(given, precision="float32", runtime="auto", **words)
        if weights != "DEFAULT":
            request = dataclasses.replace(request, weights=weights)
    else:
        request = Request(model or "resnet50", weights=weights, seed=seed, **words)
    if request.file is not None:  # a classifier outlives the working directory
        request = dataclasses.replace(request, weights=request.file)
    return request


def _save(scores: Scores, evaluation: EvaluationResult, trainer: Trainer, target: str) -> None:
    from featbank.backbones.trained_on import TrainedOn
    from featbank.finetuning.tuned import TunedClassifier
    from featbank.workflows.seen import trained_on_of

    assert scores.final is not None
    training = scores.final.training
    (head,) = evaluation.heads
    TunedClassifier.of(
        trainer.request,
        scores.final.trained.network,
        scores.final.classes,
        trainer.settings,
        {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "images": len(scores.final.digests),
            "protocol": evaluation.protocol,
            "scores": {name: estimate.to_dict() for name, estimate in head.metrics.items()},
            "trainable": training.trainable,
            "parameters": training.parameters,
            "best_epoch": training.best_epoch,
            "history": list(training.history),
        },
        TrainedOn.of(scores.final.digests, trained_on_of(None, trainer.request)),
    ).save(target)


def _target(out: str | os.PathLike[str] | None) -> str | None:
    if out is None:
        return None
    path = os.fspath(out)
    if not path.endswith(".safetensors"):
        path = os.path.join(path, FILE)
    return path
