"""Soundness of a head that a stranger may have made, before it is used.

An estimator from a file has whatever attributes the file gives it. scikit-learn believes them: it
indexes arrays in compiled code without a look at their lengths, and calls what an attribute has
put in a method's place. Here they are held against one another. What only raises an exception
when it does not fit is left to the first prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featbank.heads.choice import DECIDING

__all__ = ["complaint", "is_sound_svc"]

_MAX_ESTIMATORS = 1000  # a calibrated head has some tens
_MAX_VISITS = 100_000
_MAX_DEPTH = 50
_PIPELINES = ("Pipeline", "ViewsHead")
_KERNELS = ("linear", "poly", "rbf", "sigmoid")  # "precomputed" indexes rows by `support_`


def complaint(head: Any, trust: tuple[str, ...] = ()) -> str:
    """Return why a head may not be used, in a few words; nothing where it may.

    Parameters
    ----------
    head : estimator
    trust : tuple of str
        Types that the caller vouches for, as ``package.module.Class``: these may be as they like.
    """
    parts = _estimators(head)
    if parts is None:
        return "its head contains itself, or more than a head of ours would"
    for part in parts:
        name = type(part).__name__
        if f"{type(part).__module__}.{name}" in trust:
            continue
        if shadowed := [k for k in vars(part) if callable(getattr(type(part), str(k), None))]:
            return f"its {name} has an attribute in the place of its method {shadowed[0]}"
        if not _is_sound(part):
            return f"it holds a {name} that contradicts itself"
    return ""


def _estimators(head: Any) -> list[Any] | None:
    """List all estimators in a head, each as often as it would be run; None if that has no end."""
    found: list[Any] = []
    waiting, visits = [(head, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        visits += 1
        if visits > _MAX_VISITS or depth > _MAX_DEPTH or len(found) > _MAX_ESTIMATORS:
            return None
        if isinstance(value, dict):
            inner = list(value.values())
        elif isinstance(value, list | tuple):
            inner = list(value)
        else:
            found.append(value)
            inner = list(vars(value).values())
        waiting += [
            (item, depth + 1)
            for item in inner
            if isinstance(item, dict | list | tuple)
            or (hasattr(item, "__dict__") and not isinstance(item, type))
        ]
    return found


def _is_sound(part: Any) -> bool:
    """Tell whether arrays that compiled code indexes without a check agree with one another."""
    try:
        if type(part).__name__ == "OneVsRestHead":
            return _is_sound_one_vs_rest(part)
        # A pipeline's are those of its last step, which is a part itself.
        if hasattr(part, "classes_") and type(part).__name__ not in _PIPELINES:
            classes = part.classes_
            # Sorted and distinct: predictions are found among them by bisection. No NaN is.
            if classes.ndim != 1 or not len(classes) or not (classes[1:] > classes[:-1]).all():
                return False
            if classes.dtype.kind == "f" and not np.isfinite(classes).all():
                return False
        if type(part).__name__ == "ViewsHead":
            return type(part.views) is int and part.views > 0 and part.combine in DECIDING
        if type(part).__name__ == "AdjustedHead":
            return _is_sound_adjustment(part)
        # Without its arrays it is not fitted, as what a calibrated head was cloned from.
        if type(part).__name__ == "SVC" and hasattr(part, "support_vectors_"):
            return is_sound_svc(part)
        if type(part).__name__ == "KNeighborsClassifier" and hasattr(part, "_fit_X"):
            y, rows = part._y, part._fit_X
            return bool(
                part._fit_method == "brute"
                and rows.ndim == 2
                and y.shape == (len(rows),)
                and y.dtype.kind == "i"
                and np.all((y >= 0) & (y < len(part.classes_)))
            )
    except (AttributeError, TypeError, ValueError, IndexError):
        return False
    return True


def is_sound_svc(part: Any) -> bool:
    """Tell whether the arrays of an `SVC`, or of what has its attributes, agree."""
    k, counts, vectors = len(part.classes_), part._n_support, part.support_vectors_
    n, pairs = len(vectors), k * (k - 1) // 2
    return bool(
        k > 1
        and n > 0
        and part.kernel in _KERNELS
        and getattr(part, "_impl", "c_svc") == "c_svc"
        and not part._sparse
        and counts.shape == (k,)
        and np.all(counts >= 0)
        and counts.sum() == n
        and part.support_.shape == (n,)
        and vectors.shape == (n, part.n_features_in_)
        and part._dual_coef_.shape == (k - 1, n)
        and part._intercept_.shape == (pairs,)
        and part._probA.shape in ((0,), (pairs,))
        and part._probA.shape == part._probB.shape
    )


def _is_sound_adjustment(part: Any) -> bool:
    numbers = [v for v in (part.temperature, part.threshold) if v is not None]
    return bool(
        all(isinstance(v, float) and np.isfinite(v) for v in numbers)
        and type(part.votes) is bool
        and (part.temperature is None or part.temperature > 0)
        and (part.threshold is None or len(part.classes_) == 2)
    )


def _is_sound_one_vs_rest(part: Any) -> bool:
    """Tell whether each label has a classifier of 0 and 1; those are looked at by themselves."""
    names, fitted = part.classes_, part.estimators_
    return bool(
        names.ndim == 1
        and len(names) > 0
        and len(np.unique(names)) == len(names)
        and isinstance(fitted, list)
        and len(fitted) == len(names)
        and all(np.array_equal(one.classes_, [0, 1]) for one in fitted)
    )
