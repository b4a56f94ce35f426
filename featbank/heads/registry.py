"""The registry of heads: a name gives a seeded estimator, its scaling inside, and a grid.

Defaults and grids are made for features of a frozen network: some hundred to some thousand
columns. There, weak regularisation overfits and is slow to reach, so `logreg`, `linear-svm` and
`ridge` start from more of it than scikit-learn does.

`svm` scales rows to unit length, so that a width `gamma` means the same for every network.
Standardised columns come first only where tuning finds that better: from few images the spread of a
column is mostly noise, which standardising makes as large as all else. Distances feel that most.
``benchmarks/defaults.py`` measures both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from featbank.errors import HeadError, MissingDependency, UnknownHead, nearest
from featbank.heads.choice import LAYER, LayerChoice, ViewChoice

__all__ = ["defaults_for", "grid", "head_name", "list_heads", "make_head"]

Grid = dict[str, list[Any]]


@dataclass(frozen=True)
class Head:
    """One entry of the registry.

    Attributes
    ----------
    description : str
        One line for a listing.
    estimator : str
        Import path of the last step.
    scaler : str
        Import path of the step before it.
    unit_rows : bool
        Whether rows are scaled to unit length after the scaler. The scaler then does nothing by
        default, and the grid tries it.
    defaults : dict
        Parameters of the last step where they differ from the class's own.
    grid : dict of str to list
        Values to choose from, by the last step's parameters; empty where there is nothing to tune.
    few : int
        Images of the smallest class below which `few_defaults` replace defaults.
    few_defaults : dict
    """

    description: str
    estimator: str
    scaler: str = "sklearn.preprocessing.StandardScaler"
    unit_rows: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    grid: Grid = field(default_factory=dict)
    few: int = 0
    few_defaults: dict[str, Any] = field(default_factory=dict)


_HEADS = {
    "logreg": Head(
        "multinomial logistic regression, L2 penalty, L-BFGS",
        "sklearn.linear_model.LogisticRegression",
        defaults={"C": 0.01, "max_iter": 2000},
        grid={"C": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]},
    ),
    "svm": Head(
        "support vector machine with an RBF kernel",
        "sklearn.svm.SVC",
        unit_rows=True,
        defaults={"C": 10.0, "gamma": 1.0, "cache_size": 500},
        grid={"C": [1.0, 10.0, 100.0], "gamma": [0.1, 1.0]},
    ),
    "linear-svm": Head(
        "linear support vector machine, squared hinge, one class against the rest",
        "sklearn.svm.LinearSVC",
        # The dual problem is the faster one at every C of the grid, though rows outnumber columns.
        defaults={"C": 1e-3, "dual": True, "max_iter": 5000},
        grid={"C": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]},
    ),
    "mlp": Head(
        "one hidden layer of 256 with dropout, Adam, early stopping",
        "featbank.heads.mlp.MLPHead",
    ),
    "ridge": Head(
        "ridge regression on targets of -1 and 1",
        "sklearn.linear_model.RidgeClassifier",
        defaults={"alpha": 100.0},
        grid={"alpha": [0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5]},
    ),
    "knn": Head(
        "nearest neighbours by cosine similarity",
        "sklearn.neighbors.KNeighborsClassifier",
        scaler="sklearn.preprocessing.Normalizer",
        # A tree doesn't help beyond a few dimensions, and couldn't be saved without pickle.
        defaults={"algorithm": "brute"},
        grid={"n_neighbors": [1, 3, 5, 10, 20, 50]},
        few=5,
        few_defaults={"n_neighbors": 1},
    ),
    "centroid": Head(
        "nearest class mean, optionally shrunk",
        "featbank.heads.centroid.NearestCentroid",
        grid={"shrink_threshold": [None, 0.1, 0.3, 1.0, 3.0]},
    ),
    "lda": Head(
        "linear discriminant analysis with a shrunk covariance",
        "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
        defaults={"solver": "lsqr", "shrinkage": "auto"},
        grid={"shrinkage": ["auto", 0.01, 0.1, 0.5, 0.9]},
        # From two images of a class "auto" finds nothing to shrink, and a covariance of rank 1.
        few=3,
        few_defaults={"shrinkage": 0.9},
    ),
}


def list_heads() -> dict[str, str]:
    """Return the names of all heads, sorted, each with one line about it.

    Examples
    --------
    >>> list_heads()["ridge"]
    'ridge regression on targets of -1 and 1'
    """
    return {name: _HEADS[name].description for name in sorted(_HEADS)}


def head_name(head: object) -> str:
    """Return the word for a head in tables: its name as given, else its class's name.

    A pipeline bears the name of its last step's class.
    """
    while isinstance(head, LayerChoice | ViewChoice):
        head = head.head
    if isinstance(head, str):
        return head
    steps = getattr(head, "steps", None)
    last = steps[-1][1] if steps else head
    return type(last).__name__


def make_head(head: Any, *, random_state: int | None = None, **params: Any) -> Any:
    """Build an unfitted classifier.

    Parameters
    ----------
    head : str or estimator
        A name that `list_heads` lists; the import path of a scikit-learn classifier
        (``"sklearn.ensemble.RandomForestClassifier"``), used without scaling, as it is; or an
        estimator, which is cloned.
    random_state : int, optional
        Seed of every step that takes one and has none yet.
    **params
        Parameters of the last step (``C=1.0``, ``class_weight="balanced"``), of any step with its
        prefix (``svc__C=1.0``), or a step (``standardscaler=StandardScaler()``).

    Returns
    -------
    estimator
        For a name, a `sklearn.pipeline.Pipeline` of the scaling and the classifier, with the step
        names of `sklearn.pipeline.make_pipeline`: ``make_head("svm")`` has a parameter
        ``svc__C``.

    Raises
    ------
    UnknownHead
        No head bears this name, or the import path leads nowhere.
    HeadError
        A parameter that the head doesn't take, or something that is no classifier.

    Notes
    -----
    An import path runs the named module's code: pass none that comes from a stranger. A classifier
    file made with one loads only when its types are trusted by name.

    Examples
    --------
    >>> make_head("svm", C=3.0).get_params()["svc__C"]
    3.0
    """
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    if isinstance(head, ViewChoice):
        from featbank.heads.views import with_views

        made = make_head(head.head, random_state=random_state, **params)
        return with_views(made, head.views, head.combine)
    if isinstance(head, LayerChoice):
        from featbank.heads.columns import with_choice

        return with_choice(make_head(head.head, random_state=random_state, **params), head.blocks)
    if not isinstance(head, str):
        estimator = clone(_checked(head, head_name(head)))
    elif head in _HEADS:
        entry = _HEADS[head]
        last = _load(entry.estimator)(**entry.defaults)
        estimator = make_pipeline(*_scaling(entry), last)
    elif "." in head:
        estimator = _from_path(head)
    else:
        raise UnknownHead(f"there is no head {head!r}: {nearest(head, _HEADS)}")
    _set_params(estimator, head_name(head), params)
    if random_state is not None:
        seeds = {
            key: random_state
            for key, value in estimator.get_params().items()
            if value is None and (key == "random_state" or key.endswith("__random_state"))
        }
        estimator.set_params(**seeds)
    return estimator


def grid(head: Any, *, n_samples: int | None = None) -> Grid:
    """Return the values that a head's parameters are chosen from, by their full names.

    Parameters
    ----------
    head : str or estimator
        An import path or an estimator has an empty grid, as has ``"mlp"``.
    n_samples : int, optional
        Rows in the smallest training part; values that need more are left out.

    Examples
    --------
    >>> grid("svm")["svc__C"]
    [1.0, 10.0, 100.0]
    >>> grid("knn", n_samples=7)
    {'kneighborsclassifier__n_neighbors': [1, 3, 5]}
    """
    if isinstance(head, ViewChoice):
        return grid(head.head, n_samples=n_samples)
    if isinstance(head, LayerChoice):
        own = grid(head.head, n_samples=n_samples) if head.tune else {}
        return {LAYER: list(head.blocks), **own}
    if not isinstance(head, str) or ("." in head and head not in _HEADS):
        return {}
    if head not in _HEADS:
        raise UnknownHead(f"there is no head {head!r}: {nearest(head, _HEADS)}")
    entry = _HEADS[head]
    step = entry.estimator.rpartition(".")[2].lower()
    values = dict(entry.grid)
    if n_samples is not None and "n_neighbors" in values:
        values["n_neighbors"] = [k for k in values["n_neighbors"] if k <= n_samples]
    found = {f"{step}__{key}": list(choices) for key, choices in values.items()}
    if entry.unit_rows:
        found["standardscaler"] = [_scaling(entry)[0], _load(entry.scaler)()]
    return found


def _scaling(entry: Head) -> list[Any]:
    """Return the steps before the classifier, new ones."""
    scaler = _load(entry.scaler)
    if not entry.unit_rows:
        return [scaler()]
    from sklearn.preprocessing import Normalizer

    return [scaler(with_mean=False, with_std=False), Normalizer()]


def defaults_for(head: Any, y: Any) -> dict[str, Any]:
    """Return defaults, by their full names, that replace a head's own on labels as few as `y`.

    Examples
    --------
    >>> defaults_for("knn", ["a", "a", "b", "b"]), defaults_for("knn", ["a", "b"] * 5)
    ({'kneighborsclassifier__n_neighbors': 1}, {})
    """
    import numpy as np

    entry = _HEADS.get(head_name(head))
    if entry is None or np.unique(y, return_counts=True)[1].min() >= entry.few:
        return {}
    step = entry.estimator.rpartition(".")[2].lower()
    return {f"{step}__{key}": value for key, value in entry.few_defaults.items()}


def full_name(estimator: Any, key: str) -> str:
    """Return a parameter's name with the last step's prefix, where it was given without."""
    steps = dict(getattr(estimator, "steps", None) or ())
    return f"{[*steps][-1]}__{key}" if steps and "__" not in key and key not in steps else key


def _set_params(estimator: Any, name: str, params: dict[str, Any]) -> None:
    valid = estimator.get_params()
    for key, value in params.items():
        full = full_name(estimator, key)
        if full not in valid:
            prefix = full_name(estimator, "")
            own = [k.removeprefix(prefix) for k in valid if k.startswith(prefix)]
            raise HeadError(f"head {name!r} takes no {key!r}: {nearest(key, own, limit=12)}")
        estimator.set_params(**{full: value})


def _load(path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _from_path(path: str) -> Any:
    try:
        factory = _load(path)
    except ModuleNotFoundError as error:
        raise UnknownHead(
            f"head {path!r} can't be imported ({error}); give package.module.Class of an installed "
            f"package, or a name: {nearest(path, _HEADS)}"
        ) from error
    except AttributeError as error:
        raise UnknownHead(f"head {path!r} can't be imported: {error}.") from error
    except ImportError as error:
        raise MissingDependency(f"head {path!r} can't be imported: {error}.") from error
    if not isinstance(factory, type):
        raise HeadError(f"head {path!r} is no class; give package.module.Class of a classifier.")
    try:
        return _checked(factory(), path)
    except TypeError as error:
        raise HeadError(
            f"head {path!r} needs arguments ({error}); build it in Python and pass the estimator."
        ) from error


def _checked(estimator: Any, name: str) -> Any:
    from sklearn.base import is_classifier

    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        raise HeadError(
            f"head {name!r} is no scikit-learn estimator; give a name, an import path or an "
            "instance such as make_head('svm')."
        )
    if not is_classifier(estimator):
        raise HeadError(f"head {name!r} is no classifier, and only classifiers can be heads.")
    return estimator
