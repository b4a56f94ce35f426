"""Trainings: a network trained on each part of a plan, and scored as heads are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Recipe, canonical_json
from featbank.backbones.request import Request
from featbank.data.decode import DecodePolicy
from featbank.errors import FineTuneError
from featbank.finetuning.settings import FineTuneSettings
from featbank.workflows.checkpoints import Checkpoints
from featbank.workflows.rows import ChosenRows

if TYPE_CHECKING:
    from featbank.evaluation.inputs import Inputs
    from featbank.evaluation.neighbours import NearDuplicates
    from featbank.evaluation.plan import Part, Plan
    from featbank.evaluation.result import EvaluationResult
    from featbank.finetuning.images import Images
    from featbank.finetuning.range_test import RangeTest
    from featbank.finetuning.trainer import EpochProgress, Trained

__all__ = [
    "Budget",
    "Final",
    "Scores",
    "Trainer",
    "Training",
    "TrainingProgress",
    "check",
    "hold_out_to_watch",
    "score",
    "try_rates",
]

Array = npt.NDArray[Any]
Int = npt.NDArray[np.intp]

_SOME = 32  # images that tell how long predicting takes
_LEAST_SECONDS = 1e-3
"""What a training may take when all time is used up; the trainer still does what it must."""


@dataclass(frozen=True)
class Budget:
    """Seconds for several trainings: each may take an equal share of what is left.

    Attributes
    ----------
    end : float or None
        On the monotonic clock; None for no end.
    """

    end: float | None = None

    @classmethod
    def of(cls, seconds: float | None, begun: float | None = None) -> Budget:
        """Count a user's seconds from a time on the monotonic clock, by default from now.

        Raises
        ------
        FineTuneError
            They are no number above 0.
        """
        if seconds is None:
            return cls()
        if not 0 < seconds < float("inf"):
            raise FineTuneError(f"max_seconds is a number above 0, not {seconds!r}.")
        return cls((time.monotonic() if begun is None else begun) + seconds)

    def share(self, trainings: int, *, reserved: float = 0.0) -> float | None:
        """Return the seconds of the next of so many trainings, where some go to other work."""
        if self.end is None:
            return None
        return max(_LEAST_SECONDS, (self.end - time.monotonic() - reserved) / trainings)


@dataclass(frozen=True)
class Training:
    """How one training went.

    Attributes
    ----------
    name : str
        "fold 1", "final", ...
    images, watched : int
        That were learned from, and held out to watch.
    history : tuple of dict
        One an epoch, as `featbank.finetuning.trainer.Trained` says.
    best_epoch : int
        Whose weights were kept; 0 where no epoch was finished.
    stopped : str
        What ended it: "epochs", "patience" or "time".
    seconds : float
        Of training, over all calls that it went on in, and of predicting.
    trainable, parameters : int
    notes : tuple of str
    """

    name: str
    images: int
    watched: int
    history: tuple[dict[str, Any], ...]
    best_epoch: int
    stopped: str
    seconds: float
    trainable: int
    parameters: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**plain, "history": list(self.history), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Training:
        """Build from what `to_dict` returned."""
        return cls(**{**data, "history": tuple(data["history"]), "notes": tuple(data["notes"])})


@dataclass(frozen=True)
class TrainingProgress:
    """How far one of several trainings has come; told after each step.

    Attributes
    ----------
    name : str
    number, trainings : int
        Which one, from 1, of how many.
    epoch : EpochProgress
    """

    name: str
    number: int
    trainings: int
    epoch: EpochProgress


@dataclass(frozen=True)
class Trainer:
    """What every training of a run has in common.

    Attributes
    ----------
    request, recipe : Request, Recipe
        What the network begins with.
    settings : FineTuneSettings
    device : str
    workers : int or None
    budget : Budget
    checkpoints : str or None
        A folder, see `featbank.workflows.checkpoints`.
    resume : bool
    progress : callable or None
    """

    request: Request
    recipe: Recipe
    settings: FineTuneSettings
    device: str = "auto"
    workers: int | None = None
    budget: Budget = field(default_factory=Budget)
    checkpoints: str | None = None
    resume: bool = False
    progress: Callable[[TrainingProgress], None] | None = None

    def images(self, rows: ChosenRows, data: Inputs) -> Images:
        """Return the labelled images."""
        from featbank.finetuning.images import Images

        chosen = rows.selection
        return Images.of_files(
            [chosen.paths[row] for row in data.rows],
            DecodePolicy.from_dict(self.recipe.preprocess.decoder),
            digests=chosen.digests[data.rows],
        )


@dataclass(frozen=True)
class Final:
    """The network trained for use.

    Attributes
    ----------
    trained : Trained
    training : Training
        How it went.
    classes : tuple of str
        In the order of its outputs.
    digests : ndarray of shape (n, 32), uint8
        Of the images that it was trained on, and watched by.
    """

    trained: Trained
    training: Training
    classes: tuple[str, ...]
    digests: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Scores:
    """What the trainings of a run came to.

    Attributes
    ----------
    evaluation : EvaluationResult
        With one head.
    trainings : tuple of Training
        One a part, and the final one last, if it is none of these.
    final : Final or None
    """

    evaluation: EvaluationResult
    trainings: tuple[Training, ...]
    final: Final | None = None


def check(request: Request, recipe: Recipe, settings: FineTuneSettings) -> None:
    """Find out before any image is read whether settings fit a network.

    Raises
    ------
    FineTuneError, UnknownLayer
    """
    from featbank.finetuning.network import tunable

    tunable(request, 2, settings, recipe).freeze(settings.unfreeze)


def score(
    rows: ChosenRows,
    trainer: Trainer,
    *,
    name: str = "finetune",
    cv: int | float | None = None,
    repeats: int = 1,
    near_duplicates: NearDuplicates | None = None,
    final: bool = False,
) -> Scores:
    """Train on each part of the plan that `featbank.fit` would make of these rows.

    Parameters
    ----------
    rows : ChosenRows
        Their features are not looked at.
    trainer : Trainer
    name : str
        Of the head in the result.
    cv, repeats : optional
        As in `featbank.cross_validate`.
    near_duplicates : NearDuplicates, optional
        As they were found for heads, so that the parts are the same.
    final : bool
        Train once more, for use, on all rows that no split reserves.

    Raises
    ------
    EvaluationError
        A score can't be had honestly from these rows.
    FineTuneError
        The settings fit neither network nor rows, or what is to be resumed is another run.
    ImageError
        A file can't be read any more.
    """
    run = _Run(rows, trainer, name, near_duplicates, final)
    numbers = np.arange(len(rows.y), dtype=np.float64)[:, None]
    evaluation = rows.score(run.evaluate, numbers, cv, repeats=repeats)
    return Scores(evaluation, tuple(run.trainings), run.final)


def try_rates(
    rows: ChosenRows, trainer: Trainer, *, low: float, high: float, steps: int
) -> RangeTest:
    """Run the learning-rate range test on the training rows of the first part.

    Raises
    ------
    EvaluationError, FineTuneError
    """
    from featbank.evaluation.inputs import checked
    from featbank.evaluation.plan import plan
    from featbank.finetuning.range_test import find_rate

    data = checked(np.arange(len(rows.y), dtype=np.float64)[:, None], rows.y, **rows.scored)
    seed = trainer.settings.random_state
    part = plan(data, cv=None, repeats=1, seed=seed).parts[0]
    train, _ = hold_out_to_watch(data, part, trainer.settings)
    present, y = _compact(data, part)
    return find_rate(
        trainer.request,
        trainer.images(rows, data),
        y,
        train,
        n_classes=len(present),
        settings=trainer.settings,
        class_names=[str(data.classes[code]) for code in present],
        recipe=trainer.recipe,
        units=data.units,
        device=trainer.device,
        workers=trainer.workers,
        low=low,
        high=high,
        steps=steps,
    )


def hold_out_to_watch(data: Inputs, part: Part, settings: FineTuneSettings) -> tuple[Int, Int]:
    """Part the rows of a part's training into those to learn from and those to watch.

    Given rows of valid are watched where there are rows of test as well; otherwise a share of each
    class, whole units, of which at least one stays.
    """
    from featbank.finetuning.trainer import hold_out_valid

    given = set(data.splits or ())
    if {"train", "valid", "test"} <= given:
        assert data.splits is not None
        watched = np.array([data.splits[row] == "valid" for row in part.train])
        if watched.any() and not watched.all():
            return part.train[~watched], part.train[watched]
    return hold_out_valid(data.codes, data.units, part.train, settings.valid, settings.random_state)


def _learn_the_same(data: Inputs, use: Part, made: Plan, settings: FineTuneSettings) -> bool:
    """Tell whether the final training is that of the plan's first part: with given splits it is."""
    pairs = (hold_out_to_watch(data, part, settings) for part in (use, made.parts[0]))
    return all(np.array_equal(one, other) for one, other in zip(*pairs, strict=True))


def _compact(data: Inputs, part: Part) -> tuple[Int, Int]:
    """Return the classes that a part learns, and every row's position among them."""
    present = np.unique(data.codes[part.train])
    return present, np.minimum(np.searchsorted(present, data.codes), len(present) - 1)


class _Run:
    """One call of `score`: what its parts share, and what they have come to so far."""

    def __init__(
        self,
        rows: ChosenRows,
        trainer: Trainer,
        name: str,
        near_duplicates: NearDuplicates | None,
        final: bool,
    ) -> None:
        self.rows = rows
        self.trainer = trainer
        self.name = name
        self.near_duplicates = near_duplicates
        self.for_use = final
        self.trainings: list[Training] = []
        self.final: Final | None = None
        self.unpredicted = 0  # images of parts that are still to be scored
        self.predicting = 0.0  # seconds an image, where there is a budget
        self.final_is_first = False  # whether what is used learns from the rows of the first part
        self.first: Trained | None = None  # of the first part, if it was trained here

    def evaluate(
        self, X: Array, y: Any, cv: int | float | None, *, repeats: int, **bound: Any
    ) -> EvaluationResult:
        """Train, predict and score; as `ChosenRows.score` calls it."""
        from featbank.evaluation.assembly import Scored, evaluation_result, head_result
        from featbank.evaluation.inputs import checked
        from featbank.evaluation.plan import plan, plan_final
        from featbank.heads.outputs import Outputs

        settings = self.trainer.settings
        seed = settings.random_state
        data = checked(X, y, near=self.near_duplicates, **bound)
        made = plan(data, cv=cv, repeats=repeats, seed=seed)
        parts = dict(zip(_titles(made, repeats), made.parts, strict=True))
        if made.clean:
            parts["without duplicates"] = made.clean
        use = plan_final(data, seed=seed) if self.for_use else None
        self.images = self.trainer.images(self.rows, data)
        self.final_is_first = use is not None and _learn_the_same(data, use, made, settings)
        self.scored = len(parts)
        self.count = len(parts) + (use is not None and not self.final_is_first)
        self.unpredicted = sum(len(part.test) for part in parts.values())
        if self.trainer.budget.end is not None:
            self.predicting = self._pace(made.parts[0])
        scored = []
        with contextlib.ExitStack() as held:
            kept = self._kept(data, list(parts.values()), held)
            for title, part in parts.items():
                training, probability = self._part(data, part, title, kept)
                self.unpredicted -= len(part.test)
                self.trainings.append(training)
                present, _ = _compact(data, part)
                told = Outputs(probability.argmax(axis=1), probability, probability)
                told = told.among(present, len(data.classes))
                scored.append(Scored.of(part, told, data, training.seconds))
            if use is not None:
                self._finally(data, use, kept)
        return evaluation_result(
            [head_result(self.name, scored, made, data)],
            made,
            data,
            n=len(X),
            notes=self._notes(),
            repeats=repeats,
            seed=seed,
        )

    def _kept(
        self, data: Inputs, parts: list[Part], held: contextlib.ExitStack
    ) -> Checkpoints | None:
        """Open the folder of checkpoints, if there is to be one."""
        folder = self.trainer.checkpoints
        if folder is None:
            return None
        rows = hashlib.sha256(self.rows.selection.digests[data.rows].tobytes())
        rows.update(data.codes.tobytes() + canonical_json([str(c) for c in data.classes]).encode())
        plan = hashlib.sha256(data.units.tobytes())
        for part in parts:
            learned, watched = hold_out_to_watch(data, part, self.trainer.settings)
            for of_part in (learned, watched, part.test):
                plan.update(b"\0" + of_part.tobytes())
        run = {
            "settings": self.trainer.settings.to_dict(),
            "recipe": self.trainer.recipe.to_dict(),
            "images": rows.hexdigest(),
            "folds": plan.hexdigest(),
        }
        opened = Checkpoints.opened(folder, run, resume=self.trainer.resume)
        return held.enter_context(opened)

    def _part(
        self, data: Inputs, part: Part, title: str, kept: Checkpoints | None
    ) -> tuple[Training, npt.NDArray[np.float32]]:
        """Train on a part and predict its test rows, unless that was done before.

        What is trained for use as well is kept as a training until the end, weights and all.
        """
        from featbank.finetuning.trainer import predict_proba

        number = len(self.trainings) + 1
        scores = None if number == 1 and self.final_is_first else kept
        if scores is not None and (done := scores.done(number)) is not None:
            return Training.from_dict(done[0]), done[1]
        trained, training = self._train(data, part, title, kept)
        self.first = trained if number == 1 else self.first
        trained_at = time.perf_counter()
        probability = predict_proba(
            trained.network,
            self.images,
            part.test,
            device=self.trainer.device,
            workers=self.trainer.workers,
        )
        end = time.perf_counter()
        self.predicting = (end - trained_at) / len(part.test)
        training = dataclasses.replace(training, seconds=training.seconds + end - trained_at)
        if scores is not None:
            scores.finish(number, training.to_dict(), probability)
        return training, probability

    def _pace(self, part: Part) -> float:
        """Return the seconds that it takes to predict an image, measured on a few."""
        from featbank.finetuning.network import tunable
        from featbank.finetuning.trainer import predict_proba

        trainer = self.trainer
        network = tunable(trainer.request, 2, trainer.settings, trainer.recipe)
        words: dict[str, Any] = {"device": trainer.device, "workers": 0}
        some = part.test[:_SOME]
        predict_proba(network, self.images, some[:4], **words)  # the first ones take longer
        start = time.perf_counter()
        predict_proba(network, self.images, some, **words)
        return (time.perf_counter() - start) / len(some)

    def _finally(self, data: Inputs, part: Part, kept: Checkpoints | None) -> None:
        """Train on all that no split reserves, unless the first part did just that."""
        if self.final_is_first:
            assert self.first is not None
            trained, training = self.first, self.trainings[0]
        else:
            trained, training = self._train(data, part, "final", kept)
            self.trainings.append(training)
        present, _ = _compact(data, part)
        classes = tuple(str(data.classes[code]) for code in present)
        digests = self.rows.selection.digests[data.rows[part.train]]
        self.final = Final(trained, training, classes, digests)

    def _train(
        self, data: Inputs, part: Part, title: str, kept: Checkpoints | None
    ) -> tuple[Trained, Training]:
        from featbank.finetuning.trainer import train

        trainer = self.trainer
        number = len(self.trainings) + 1
        learned, watched = hold_out_to_watch(data, part, trainer.settings)
        present, y = _compact(data, part)

        def told(epoch: EpochProgress) -> None:
            if trainer.progress is not None:
                trainer.progress(TrainingProgress(title, number, self.count, epoch))

        trained = train(
            trainer.request,
            self.images,
            y,
            learned,
            watched,
            n_classes=len(present),
            settings=trainer.settings,
            class_names=[str(data.classes[code]) for code in present],
            recipe=trainer.recipe,
            units=data.units,
            device=trainer.device,
            workers=trainer.workers,
            checkpoint=None if kept is None else kept.of(number),
            resume=trainer.resume,
            max_seconds=trainer.budget.share(
                self.count - len(self.trainings), reserved=self.unpredicted * self.predicting
            ),
            progress=told,
        )
        return trained, Training(
            name=title,
            images=len(learned),
            watched=len(watched),
            history=tuple(trained.history),
            best_epoch=trained.best_epoch,
            stopped=trained.stopped,
            seconds=trained.seconds,
            trainable=trained.trainable,
            parameters=trained.parameters,
            notes=trained.notes,
        )

    def _notes(self) -> list[str]:
        told: dict[str, list[str]] = {}
        for one in self.trainings:
            for note in one.notes:
                told.setdefault(note, []).append(one.name)
        notes = [f"{', '.join(names)}: {note}" for note, names in told.items()]
        ended = sum(one.stopped == "time" for one in self.trainings)
        if ended:
            notes.append(f"max_seconds ended {ended} of {len(self.trainings)} trainings early.")
            epochs = [len(one.history) for one in self.trainings[: self.scored]]
            if max(epochs) >= max(1, 2 * min(epochs)):
                notes.append(
                    f"folds trained unequally ({min(epochs)} to {max(epochs)} epochs): their "
                    "scores are not of one setting; give more --max-seconds."
                )
        return notes


def _titles(made: Plan, repeats: int) -> list[str]:
    """Return a name for each part: "fold 2", "repeat 1, fold 2", or "train"."""
    if len(made.parts) == 1:
        return ["train"]
    if repeats == 1:
        return [f"fold {i}" for i in range(1, len(made.parts) + 1)]
    each = len(made.parts) // repeats
    if each == 1:
        return [f"repeat {i}" for i in range(1, repeats + 1)]
    return [f"repeat {i // each + 1}, fold {i % each + 1}" for i in range(len(made.parts))]
