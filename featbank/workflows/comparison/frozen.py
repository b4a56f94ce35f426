"""The row of a head on frozen features: its scores, its costs, and what it depends on."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.request import Request
from featbank.bank.bank import Bank
from featbank.bank.selection import Selection
from featbank.errors import BackboneError, FeatbankError
from featbank.workflows.comparison.process import Tell, peak_bytes
from featbank.workflows.comparison.words import RowOutcome, RowWords
from featbank.workflows.extract import open_model
from featbank.workflows.room import select_fitting
from featbank.workflows.rows import ChosenRows

if TYPE_CHECKING:
    from featbank.evaluation.result import HeadResult

__all__ = ["FrozenRow", "described"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FrozenRow:
    """A head on features of a bank.

    Attributes
    ----------
    name : str
    words : RowWords
    head : str or estimator
    recipe : str
        Fingerprint.
    columns : tuple of str
        Their full names.
    options : dict
        tune, class_weight and scoring, as in `featbank.cross_validate`.
    """

    name: str
    words: RowWords
    head: Any
    recipe: str
    columns: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    kind = "frozen"

    @property
    def settings(self) -> dict[str, Any]:
        """What the row is made of, for readers."""
        from featbank.heads.registry import head_name

        return {"head": head_name(self.head), "columns": list(self.columns)}

    def depends(self) -> dict[str, Any] | None:
        """Return what the row depends on besides images and folds; None for what can't be said."""
        head = described(self.head)
        if head is None:
            return None
        return {"head": head, "recipe": self.recipe, "columns": list(self.columns), **self.options}

    def __call__(self, tell: Tell) -> RowOutcome:
        """Score the head, then measure what it costs."""
        from featbank.evaluation.crossval import cross_validate

        self._warm_up()
        bank = Bank(self.words.bank)
        with bank.using():
            located = bank.locate(
                self.recipe,
                list(self.columns),
                source=self.words.source,
                label=self.words.column,
                further=self.words.further,
            )
            room = select_fitting(bank, [self.head], located, memory=None, n_jobs=1)
            rows = self.words.rows(room.selection)
            found = rows.score(
                cross_validate,
                room.selection.X,
                [self.head],
                n_jobs=1,
                progress=lambda done, total: tell(f"fit {done} of {total}"),
                **self.words.folds,
                **self.options,
            )
            result, peak = found.heads[0], peak_bytes()
            tell("timing predictions")
            estimator, tested = self._fitted(rows, result)
        numbers = _learned_numbers(estimator)
        notes = [*room.notes, *found.notes]
        seconds = None
        try:
            seconds = _seconds(estimator, rows.selection, tested)
        except FeatbankError as error:
            notes.append(f"no time of predictions: {error}")
        return RowOutcome(result, seconds, peak, numbers, numbers, notes=tuple(notes))

    def _warm_up(self) -> None:
        """Import what the head needs, which is no part of its fits, by scoring it on noise."""
        from featbank.evaluation.crossval import cross_validate

        X = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
        options = {**self.options, "class_weight": None, "scoring": "accuracy"}
        with contextlib.suppress(FeatbankError):
            cross_validate(X, [0, 1] * 12, [self.head], cv=2, **options)

    def _fitted(self, rows: ChosenRows, result: HeadResult) -> tuple[Any, Array]:
        """Fit once more on the first part, as it chose; return its test rows too."""
        from featbank.evaluation.crossval import prepared
        from featbank.evaluation.fitting import fit
        from featbank.evaluation.plan import plan

        seed = self.words.random_state
        data, (candidate,), _ = prepared(
            rows.selection.X,
            rows.y,
            [self.head],
            near_duplicates=None,
            sample_weight=None,
            threshold=None,
            device=None,
            calibrate=False,
            random_state=seed,
            params=result.fold_params[0],
            **{**self.options, "tune": False},
            **rows.bound,
        )
        part = plan(data, cv=self.words.cv, repeats=self.words.repeats, seed=seed).parts[0]
        fitted = fit(candidate, data.X[part.train], data.y[part.train], part.inner)
        return fitted.estimator, data.rows[part.test]


def described(head: Any) -> Any:
    """Return plain data that tells a head from any other, or None where there is none.

    Examples
    --------
    >>> described("svm")
    'svm'
    """
    from featbank.backbones.recipe import canonical_json

    if isinstance(head, str):
        return {"head": head, "package": _version(head)} if "." in head else head
    found = _plain(head)
    try:
        canonical_json(found)
    except (TypeError, ValueError):
        return None
    return found


def _plain(value: Any) -> Any:
    """Return an estimator as its class and parameters; other values as they are."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, type) or not hasattr(value, "get_params"):
        return value
    kind = type(value)
    params = value.get_params(deep=False)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "package": _version(kind.__module__),
        "params": {name: _plain(params[name]) for name in sorted(params)},
    }


def _version(path: str) -> str | None:
    import importlib

    try:
        found = getattr(importlib.import_module(path.partition(".")[0]), "__version__", None)
    except ImportError:
        return None
    return None if found is None else str(found)


def _seconds(estimator: Any, selection: Selection, tested: Array) -> float:
    """Measure predictions by the network of a selection's features and a head."""
    from featbank.workflows.comparison.timing import from_features, seconds_per_1000

    if "decode" not in selection.request:
        raise BackboneError(
            f"{selection.recipe.backbone} was made in Python, and the bank doesn't say how to "
            "build it again."
        )
    model = open_model(Request.from_dict(selection.request))
    if model.recipe != selection.recipe:
        raise BackboneError(f"another {selection.recipe.backbone} is here than the bank's.")
    os.environ["OMP_NUM_THREADS"] = "1"
    network = model.loader.load("cpu")
    predict = from_features(estimator, network, selection.columns, selection.paths, model.policy)
    return seconds_per_1000(predict, tested.tolist())


_LEARNED = ("coef_", "coefs_", "intercept_", "intercepts_", "dual_coef_", "centroids_")


def _learned_numbers(estimator: Any) -> int | None:
    """Return how many numbers a fit chose: weights, not the rows that it keeps."""
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    if type(last).__name__ == "KNeighborsClassifier":
        return 0
    found = [getattr(last, name) for name in _LEARNED if hasattr(last, name)]
    arrays = [a for one in found for a in (one if isinstance(one, list) else [one])]
    return sum(np.asarray(array).size for array in arrays) if arrays else None
