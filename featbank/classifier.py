"""The classifier: recipe, columns, classes and a fitted head as one value, and its file.

A classifier file (``.skops``) is the archive of `featbank.heads.archive`: the head, and a JSON text
of everything else. To raise `FORMAT_VERSION`: write the new form, keep a reader of the old one
beside it, chosen by ``"format"`` in the JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.backbones.recipe import Column, Recipe, canonical_json
from featbank.durable import write_file
from featbank.errors import ClassifierError, FeatbankError
from featbank.heads.archive import check_end, dump_head, load_head
from featbank.heads.outputs import Outputs, gives_votes, outputs
from featbank.regular import NotRegular, fits_in_memory, open_regular

__all__ = ["FORMAT_VERSION", "Classifier", "Prediction"]

FORMAT_VERSION = 2
"""2: the temperature of an SVC of several classes applies to its margins; 1: to its votes."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Prediction:
    """One of the most likely classes of an image; `probability` is None where the head has none."""

    label: str
    score: float | None
    probability: float | None


@dataclass(frozen=True)
class Classifier:
    """A fitted head and all that is needed to use it on new images.

    Attributes
    ----------
    recipe : Recipe
    request : dict
        The words that find the backbone again (model, weights, ...), plain data.
    columns : tuple of Column
        The features that the head takes; several are joined side by side, in this order.
    averaged : int
        So many views, one behind the other among the columns, of whose mean the head takes the
        features, as `featbank.Bank.features` gives them.
    classes : tuple of str
        In the order of the head's ``classes_``.
    head : estimator
        A fitted scikit-learn classifier, or what predicts as it would; see `load`.
    head_name : str
    provenance : dict
        Plain data: versions, scores, when it was made.
    notes : tuple of str
        What was noticed on loading; not saved.

    Examples
    --------
    >>> classifier.save("svm.skops")  # doctest: +SKIP
    >>> Classifier.load("svm.skops").predict(features)  # doctest: +SKIP
    """

    recipe: Recipe
    request: dict[str, Any]
    columns: tuple[Column, ...]
    classes: tuple[str, ...]
    head: Any
    head_name: str
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    averaged: int = 1

    def __post_init__(self) -> None:
        known = tuple(str(c) for c in getattr(self.head, "classes_", ()))
        if known != tuple(self.classes):
            raise ClassifierError(
                f"the head was fitted on {len(known)} classes that are not the {len(self.classes)} "
                "given, in their order; give the classes of its classes_."
            )
        views = self.averaged
        if not isinstance(views, int) or views < 1 or len(self.columns) % views:
            raise ClassifierError(
                f"the head has {len(self.columns)} columns, and averaged is {views!r}; give how "
                "many views of each there are among them."
            )

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels, or none."""
        steps = getattr(self.head, "steps", None)
        return bool(getattr(type(steps[-1][1] if steps else self.head), "multilabel", False))

    @property
    def probabilistic(self) -> bool:
        """Whether the head gives probabilities."""
        return hasattr(self.head, "predict_proba")

    @property
    def score_name(self) -> str:
        """What scores are where there are no probabilities: "votes" of an SVC, else "margin"."""
        return "votes" if gives_votes(self.head) else "margin"

    def predict(self, features: Array) -> list[str]:
        """Return the class of each row of features of shape (n, d).

        Where a row may have several labels this is the one with the highest score; see `labels`.
        """
        return [self.classes[code] for code in self._outputs(features).codes]

    def labels(self, features: Array) -> list[tuple[str, ...]]:
        """Return the labels of each row: several or none if `multilabel`, else its class."""
        told = self._outputs(features)
        if told.labels is None:
            return [(self.classes[code],) for code in told.codes]
        names = np.array(self.classes)
        return [tuple(names[row].tolist()) for row in told.labels]

    def predict_proba(self, features: Array) -> Array | None:
        """Return probabilities of shape (n, K), or None where the head has none."""
        return self._outputs(features).probability

    def scores(self, features: Array) -> Array | None:
        """Return scores of shape (n, K), the higher the likelier; see `Outputs`."""
        return self._outputs(features).scores

    def top(self, features: Array, k: int = 5) -> list[list[Prediction]]:
        """Return for each row its `k` most likely classes, the predicted one first."""
        told = self._outputs(features)
        n = len(told.codes)
        # A head's own choice leads, even where its scores tie or rank another class first.
        ranked = told.scores if told.probability is None else told.probability
        key = np.zeros((n, len(self.classes))) if ranked is None else ranked.copy()
        key[np.arange(n), told.codes] = np.inf
        order = np.argsort(-key, axis=1, kind="stable")[:, : max(1, k)]
        if told.scores is None:  # nothing ranks the others
            order = order[:, :1]
        return [
            [
                Prediction(
                    self.classes[code],
                    None if told.scores is None else float(told.scores[row, code]),
                    None if told.probability is None else float(told.probability[row, code]),
                )
                for code in order[row]
            ]
            for row in range(n)
        ]

    def _outputs(self, features: Array) -> Outputs:
        wanted = getattr(self.head, "n_features_in_", None)
        if features.ndim != 2 or (wanted is not None and features.shape[1] != wanted):
            raise ClassifierError(
                f"features of shape {features.shape} were given, but head {self.head_name!r} "
                f"takes (images, {wanted})."
            )
        if len(features) == 0:
            nothing = np.empty((0, len(self.classes)))
            return Outputs(np.empty(0, dtype=np.intp), nothing, nothing)
        try:
            told = outputs(self.head, features)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ClassifierError(
                f"head {self.head_name!r} can't predict from these features: {error}"
            ) from error
        shape = (len(features), len(self.classes))
        fits = told.labels is None or told.labels.shape == shape
        if len(told.codes) != shape[0] or not (told.codes < shape[1]).all() or not fits:
            raise ClassifierError(f"head {self.head_name!r} predicts what is no class of its own.")
        return told

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier to a file, which appears whole or not at all.

        Raises
        ------
        ClassifierError
            The head holds what can't be saved without pickle.
        """
        import featbank

        described = {
            "format": FORMAT_VERSION,
            "recipe": self.recipe.to_dict(),
            "request": self.request,
            "columns": [column.name for column in self.columns],
            **({"averaged": self.averaged} if self.averaged > 1 else {}),
            "classes": list(self.classes),
            "head_name": self.head_name,
            "provenance": self.provenance,
            "versions": {"featbank": featbank.__version__, **_versions()},
        }
        data = dump_head(canonical_json(described), self.head)
        write_file(os.fspath(path), data)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, trust: Iterable[str] = (), plain: bool = False
    ) -> Classifier:
        """Read a classifier file; nothing in it is run.

        Parameters
        ----------
        path : path-like
        trust : iterable of str
            Further types that may be constructed, as ``package.module.Class``. Their modules are
            imported: name only what you know.
        plain : bool
            For a classifier that is only to predict: where NumPy can do that alone, `head` is an
            object that predicts as the estimator would, and scikit-learn is not imported.

        Raises
        ------
        UntrustedTypeError
            The file holds a type that is neither on the fixed list nor in `trust`.
        ClassifierError
            The file can't be read, is damaged, is no classifier, or was written by a later
            featbank.
        """
        where = os.fspath(path)
        try:
            with open_regular(where) as file:
                check_end(file, where)
                data = file.read() if fits_in_memory(file) else b""
        except OSError as error:
            said = "" if isinstance(error, NotRegular) else "can't be read: "
            raise ClassifierError(f"{where!r} {said}{error.strerror}.") from error
        if not data:
            raise ClassifierError(f"{where!r} is larger than this machine's memory.")
        text, head, notes = load_head(data, where, trust=tuple(trust), plain=plain)
        try:
            described = json.loads(text)
            if described["format"] > FORMAT_VERSION:
                raise ClassifierError(
                    f"{where!r} was written by featbank {described['versions']['featbank']}, in a "
                    f"later format ({described['format']}) than this one reads ({FORMAT_VERSION}); "
                    "install that version or a later one."
                )
            for name in ("columns", "classes"):
                if not isinstance(described[name], list):
                    raise TypeError(f"{name}")
            return cls(
                recipe=Recipe.from_dict(described["recipe"]),
                request=described["request"],
                columns=tuple(Column.parse(name) for name in described["columns"]),
                averaged=described.get("averaged", 1),
                classes=tuple(described["classes"]),
                head=head,
                head_name=described["head_name"],
                provenance=described["provenance"],
                notes=(*_version_notes(described["versions"]), *notes),
            )
        except ClassifierError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError,
                ArithmeticError, FeatbankError) as error:  # fmt: skip
            words = str(error)[:200]
            raise ClassifierError(
                f"{where!r} is no classifier of featbank: its description lacks or garbles {words}."
            ) from error


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scikit-learn", "skops")}


def _version_notes(written: dict[str, str]) -> list[str]:
    """Say where the head was fitted with another scikit-learn, which may read it differently."""
    then, now = written["scikit-learn"], _versions()["scikit-learn"]
    if then == now:
        return []
    return [f"fitted with scikit-learn {then}, read with {now}: predictions may differ."]
