"""The table of a comparison: its rows, the plan that they share, and what they come to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import featbank
from featbank.bank.bank import Bank
from featbank.bank.recipes import KnownRecipe
from featbank.errors import BankError, EvaluationError
from featbank.workflows.comparison.cache import RowCache
from featbank.workflows.comparison.frozen import FrozenRow
from featbank.workflows.comparison.process import run_apart
from featbank.workflows.comparison.trained import TrainedRow
from featbank.workflows.comparison.words import RowOutcome, RowWords
from featbank.workflows.rows import ChosenRows

if TYPE_CHECKING:
    from featbank.evaluation.compared import ComparisonResult
    from featbank.evaluation.inputs import Inputs
    from featbank.evaluation.plan import Plan

__all__ = ["RowProgress", "Table"]

log = logging.getLogger(__name__)

_PACKAGES = ("scikit-learn", "torch", "numpy")


@dataclass(frozen=True)
class RowProgress:
    """How far a comparison is.

    Attributes
    ----------
    name : str
        Of the row that is computed.
    done, rows : int
        Rows that are finished, of all.
    words : str
        How far the row is.
    """

    name: str
    done: int
    rows: int
    words: str


@dataclass(frozen=True)
class Table:
    """The rows that are asked for, and the plan that they share."""

    rows: Sequence[FrozenRow | TrainedRow]
    words: RowWords
    chosen: ChosenRows
    data: Inputs
    made: Plan
    common: dict[str, Any]

    @classmethod
    def of(
        cls,
        rows: Sequence[FrozenRow | TrainedRow],
        bank: Bank,
        known: Sequence[KnownRecipe],
        words: RowWords,
    ) -> Table:
        """Choose the images and make the plan."""
        from featbank.evaluation.inputs import checked, named
        from featbank.evaluation.plan import plan

        trained = [row for row in rows if isinstance(row, TrainedRow)]
        if trained:  # these read the files, which must be those of the index
            chosen = trained[0].rows()
        else:
            column = next(iter(bank.columns(known[0].fingerprint))).name
            located = bank.locate(
                known[0].recipe,
                column,
                source=words.source,
                label=words.column,
                further=words.further,
            )
            chosen = words.rows(located.selection)
        numbers = np.arange(len(chosen.y), dtype=np.float32)[:, np.newaxis]
        try:
            data = checked(numbers, chosen.y, **chosen.scored)
            made = plan(data, cv=words.cv, repeats=words.repeats, seed=words.random_state)
        except EvaluationError as error:
            raise EvaluationError(named(str(error), chosen.selection.paths)) from error
        common = {
            "versions": {
                "featbank": featbank.__version__,
                **{name: metadata.version(name) for name in _PACKAGES},
            },
            "images": hashlib.sha256(chosen.selection.digests.tobytes()).hexdigest(),
            "labels": hashlib.sha256(json.dumps(chosen.y).encode()).hexdigest(),
            "plan": _digest(data, made),
            "seed": words.random_state,
            **({"metric_weight": chosen.metric_weight} if chosen.metric_weight else {}),
        }
        return cls(rows, words, chosen, data, made, common)

    def compute(
        self,
        store: RowCache,
        *,
        fresh: bool,
        progress: Callable[[RowProgress], None] | None,
    ) -> list[_Found]:
        """Take up each row that was kept, and compute the others."""
        entries = [self._entry(row, store, fresh=fresh) for row in self.rows]
        for entry in entries:
            if entry.kept is None and isinstance(entry.row, TrainedRow):
                entry.row.check()  # before anything is waited for
        found = []
        for entry in entries:
            if entry.kept is not None:
                found.append(_Found(entry.kept, True, ()))
                continue

            def tell(words: str, *, name: str = entry.row.name, done: int = len(found)) -> None:
                if progress is not None:
                    progress(RowProgress(name, done, len(entries), words))

            tell("starting")
            row = entry.row
            if isinstance(row, TrainedRow) and entry.key and store.is_writable():
                row = dataclasses.replace(row, checkpoints=store.training(entry.key))
            outcome: RowOutcome = run_apart(row.name, row, tell)
            self._check_folds(entry.row.name, outcome)
            entry.keep(outcome, store)
            found.append(_Found(outcome, False, entry.notes))
        if progress is not None:
            progress(RowProgress(entries[-1].row.name, len(found), len(found), "done"))
        return found

    def result(
        self, found: Sequence[_Found], features: str, notes: Sequence[str]
    ) -> ComparisonResult:
        """Put the rows side by side."""
        from featbank.evaluation.assembly import evaluation_result
        from featbank.evaluation.compared import ComparedRow, ComparisonResult
        from featbank.evaluation.inputs import UNLABELLED

        heads = [
            dataclasses.replace(one.outcome.result, head=row.name)
            for row, one in zip(self.rows, found, strict=True)
        ]
        evaluation = evaluation_result(
            heads,
            self.made,
            self.data,
            n=len(self.chosen.y),
            repeats=self.words.repeats,
            seed=self.words.random_state,
        )
        told = [note for note in evaluation.notes if not note.endswith(UNLABELLED)]
        evaluation = dataclasses.replace(evaluation, notes=(*self.chosen.notes, *told))
        evaluation = self.chosen.titled(evaluation)
        rows = [
            ComparedRow(
                row.name,
                row.kind,
                head,
                settings=row.settings,
                cached=one.cached,
                trainings=one.outcome.trainings,
                notes=(*(n for n in one.outcome.notes if n not in evaluation.notes), *one.notes),
                **one.outcome.costs(),
            )
            for row, head, one in zip(self.rows, heads, found, strict=True)
        ]
        return ComparisonResult.of(rows, evaluation, features=features, notes=notes)

    def _entry(self, row: FrozenRow | TrainedRow, store: RowCache, *, fresh: bool) -> _Entry:
        """Look a row up, if what it depends on can be said."""
        own = row.depends()
        if own is None:
            note = "the head's parameters can't be written down, so that the row is not kept."
            return _Entry(row, notes=(note,))
        depends = {"kind": row.kind, **own, **self.common}
        key = store.key(depends)
        if fresh:
            store.forget_training(key)
            return _Entry(row, key, depends)
        try:
            held = store.read(key)
            kept = None if held is None else self._unpacked(*held)
        except (OSError, BankError, EvaluationError, LookupError, TypeError, ValueError) as error:
            log.debug("%s in %s is of no use: %s", key, store.folder, error)
            note = f"what was kept of it in {store.folder} was damaged; it was computed again."
            return _Entry(row, key, depends, notes=(note,))
        return _Entry(row, key, depends, kept)

    def _unpacked(self, about: Mapping[str, Any], arrays: Mapping[str, Any]) -> RowOutcome:
        from featbank.evaluation.stored import unpacked

        outcome = RowOutcome(
            unpacked(about["result"], arrays, classes=len(self.data.classes)),
            trainings=tuple(json.loads(arrays["trainings"].tobytes())),
            notes=tuple(about["notes"]),
            **about["costs"],
        )
        self._check_folds("a kept row", outcome)
        return outcome

    def _check_folds(self, name: str, outcome: RowOutcome) -> None:
        """Refuse a row that was scored on other images than the plan says."""
        told = outcome.result.predictions
        tests = [part.test for part in self.made.parts]
        fold = np.repeat(np.arange(len(tests)), [len(rows) for rows in tests])
        rows = np.concatenate(tests)
        same = (
            np.array_equal(told.rows, self.data.rows[rows])
            and np.array_equal(told.fold, fold)
            and np.array_equal(told.y_true, self.data.codes[rows])
        )
        if not same:
            raise EvaluationError(
                f"{name} was scored on other images or folds than the rest; the bank changed "
                "meanwhile, so run the comparison again."
            )


@dataclass(frozen=True)
class _Entry:
    """A row with what was kept of it, and where."""

    row: FrozenRow | TrainedRow
    key: str | None = None
    depends: Mapping[str, Any] = field(default_factory=dict)
    kept: RowOutcome | None = None
    notes: tuple[str, ...] = ()

    def keep(self, outcome: RowOutcome, store: RowCache) -> None:
        """Write what the row came to, if it can be found again."""
        from featbank.evaluation.stored import packed

        if self.key is None:
            return
        result, arrays = packed(outcome.result)
        trainings = np.frombuffer(json.dumps(list(outcome.trainings)).encode(), np.uint8)
        row = {"result": result, "costs": outcome.costs(), "notes": list(outcome.notes)}
        try:
            store.write(self.key, row, {**arrays, "trainings": trainings}, self.depends)
        except OSError as error:
            log.warning(
                "%s can't be kept in %s (%s)",
                self.row.name,
                store.folder,
                error.strerror or error,
            )


@dataclass(frozen=True)
class _Found:
    """What a row came to, whether it was there, and what is to be said of that."""

    outcome: RowOutcome
    cached: bool
    notes: tuple[str, ...]


def _digest(data: Inputs, made: Plan) -> str:
    """Return a digest of all that says which rows are learned from, and which belong together."""
    found = hashlib.sha256()
    parts = [*made.parts, *([made.clean] if made.clean else [])]
    folds = [fold for part in parts for fold in (*part.inner, *part.across)]
    several = [data.rows, data.units, *(rows for part in parts for rows in (part.train, part.test)),
               *(rows for fold in folds for rows in fold)]  # fmt: skip
    for rows in several:
        found.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
    return found.hexdigest()
