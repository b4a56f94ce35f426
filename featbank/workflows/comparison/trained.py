"""The row of a network that is trained: its scores, its costs, and what it depends on."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.backbones.recipe import Recipe
from featbank.backbones.request import Request
from featbank.bank.bank import Bank
from featbank.errors import FineTuneError
from featbank.finetuning.settings import FineTuneSettings
from featbank.workflows.comparison.process import Tell, peak_bytes
from featbank.workflows.comparison.words import RowOutcome, RowWords
from featbank.workflows.gather import gather_bank
from featbank.workflows.rows import ChosenRows

if TYPE_CHECKING:
    from featbank.workflows.trainings import Training, TrainingProgress

__all__ = ["TrainedRow"]


@dataclass(frozen=True)
class TrainedRow:
    """A network that is trained on the images of a bank.

    Attributes
    ----------
    name : str
    kind : {"finetune", "scratch"}
    words : RowWords
    request, recipe : Request, Recipe
        Where training begins.
    training : FineTuneSettings
    device : str
    workers : int, optional
    max_seconds : float, optional
        For all folds together.
    checkpoints : str, optional
        Folder in which a training goes on where one before was ended.
    """

    name: str
    kind: str
    words: RowWords
    request: Request
    recipe: Recipe
    training: FineTuneSettings
    device: str = "auto"
    workers: int | None = None
    max_seconds: float | None = None
    checkpoints: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the row is made of, for readers."""
        return {
            "model": self.request.model,
            "weights": self.request.weights,
            "recipe": self.recipe.slug,
            **self.training.to_dict(),
            "max_seconds": self.max_seconds,
        }

    def depends(self) -> dict[str, Any]:
        """Return what the row depends on besides images and folds."""
        from featbank.backbones.device import likely_device

        return {
            "recipe": self.recipe.fingerprint,
            "settings": self.training.to_dict(),
            "max_seconds": None if self.max_seconds is None else float(self.max_seconds),
            "device": likely_device(self.device),
        }

    def check(self) -> None:
        """Find out before the work whether the network can be trained so.

        Raises
        ------
        FineTuneError, BackboneError
        """
        from featbank.workflows.trainings import check

        try:
            check(self.request, self.recipe, self.training)
        except FineTuneError as error:
            raise FineTuneError(f"{self.name}: {error}") from error

    def rows(self) -> ChosenRows:
        """Read which images there are, as they stand on the disk."""
        selection = gather_bank(
            Bank(self.words.bank),
            self.recipe,
            self.request.to_dict(),
            source=self.words.source,
            label=self.words.column,
            further=self.words.further,
        )
        return self.words.rows(selection)

    def __call__(self, tell: Tell) -> RowOutcome:
        """Train and score the network on every part, then measure what it costs."""
        from featbank.workflows.trainings import Budget, Trainer, score

        importlib.import_module("featbank.finetuning.trainer")  # is no part of the training

        def progress(at: TrainingProgress) -> None:
            epoch = at.epoch
            tell(
                f"training {at.number} of {at.trainings}, epoch {epoch.epoch} of {epoch.epochs}, "
                f"loss {epoch.loss:.3f}, {epoch.images_per_second:.0f} images/s"
            )

        rows = self.rows()
        trainer = Trainer(
            self.request,
            self.recipe,
            self.training,
            device=self.device,
            workers=self.workers,
            checkpoints=self.checkpoints,
            resume=self.checkpoints is not None,
            budget=Budget.of(self.max_seconds),
            progress=progress,
        )
        found = score(
            rows,
            trainer,
            cv=self.words.cv,
            repeats=self.words.repeats,
            name=self.name,
            final=False,
        )
        peak = peak_bytes()
        tell("timing predictions")
        result, trainings = found.evaluation.heads[0], found.trainings
        tested = result.predictions.rows[result.predictions.fold == 0]
        notes = [note for note in found.evaluation.notes if "max_seconds" not in note]
        return RowOutcome(
            result,
            self._seconds(rows, tested.tolist(), len(found.evaluation.classes)),
            peak,
            trainings[0].trainable,
            trainings[0].parameters,
            tuple(_finite(one.to_dict()) for one in trainings),
            (*notes, *self._stopped(trainings)),
        )

    def _seconds(self, rows: ChosenRows, tested: Sequence[int], n_classes: int) -> float:
        """Measure predictions by such a network; what it has learned makes no difference."""
        from featbank.data.decode import DecodePolicy
        from featbank.finetuning.images import Images
        from featbank.finetuning.network import tunable
        from featbank.finetuning.prediction import predict_proba
        from featbank.workflows.comparison.timing import seconds_per_1000

        network = tunable(self.request, n_classes, self.training, recipe=self.recipe)
        policy = DecodePolicy.from_dict(self.recipe.preprocess.decoder)
        images = Images.of_files(rows.selection.paths, policy)
        return seconds_per_1000(
            lambda some: predict_proba(network, images, np.asarray(some), device="cpu", workers=0),
            tested,
        )

    def _stopped(self, trainings: Sequence[Training]) -> list[str]:
        """Say what the budget cut short."""
        cut = [
            sum(epoch["complete"] for epoch in one.history)
            for one in trainings
            if one.stopped == "time"
        ]
        if not cut:
            return []
        of = self.training.head_epochs + self.training.epochs
        after = f"{min(cut)} to {max(cut)}" if min(cut) < max(cut) else f"{cut[0] or 'a part'}"
        which = "" if len(trainings) == 1 else f" in {len(cut)} of {len(trainings)} trainings"
        return [f"stopped by time after {after} of {of} epochs{which} (max_seconds)."]


def _finite(value: Any) -> Any:
    """Return plain data with None for the losses of a training that diverged."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
