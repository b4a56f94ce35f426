"""Weights: how much a sample or a class counts when a head is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featbank.errors import EvaluationError, FeatbankError, HeadError, nearest
from featbank.heads.registry import full_name, list_heads, make_head

__all__ = ["by_step", "checked_weights", "of_classes", "takes_weights", "weigh_classes"]

Array = npt.NDArray[Any]


def takes_weights(head: Any) -> bool:
    """Tell whether a head, by name or as an estimator, can be fitted with weights of samples.

    True for what is no head: building it says what is wrong.
    """
    from sklearn.utils.validation import has_fit_parameter

    try:
        estimator = make_head(head)
    except FeatbankError:
        return True
    steps = getattr(estimator, "steps", None) or [("", estimator)]
    return bool(has_fit_parameter(steps[-1][1], "sample_weight"))


def by_step(head: Any, name: str, sample_weight: Any) -> dict[str, Any]:
    """Return weights as fit parameters of all steps that take them; the last one must.

    Scaling without the weights that the classifier has would not be what repeated rows give.

    Raises
    ------
    HeadError
        The last step takes none.
    """
    from sklearn.utils.validation import has_fit_parameter

    steps = getattr(head, "steps", None) or [("", head)]
    if not has_fit_parameter(steps[-1][1], "sample_weight"):
        taking = [known for known in list_heads() if takes_weights(known)]
        raise HeadError(
            f"head {name!r} takes no sample_weight; fit without it, or choose a head that does: "
            f"{', '.join(taking)}."
        )
    return {
        f"{step}__sample_weight" if step else "sample_weight": sample_weight
        for step, estimator in steps
        if has_fit_parameter(estimator, "sample_weight")
    }


def checked_weights(
    given: Any, n: int, *, name: str = "sample_weight", use: str = "learn from"
) -> Array | None:
    """Return the weights of `n` samples as float64; None for None.

    `name` and `use` are for messages: what was given, and what rows of weight 0 are not used for.

    Raises
    ------
    EvaluationError
        They are not `n` finite numbers from 0 up, or all 0.
    """
    if given is None:
        return None
    title = name.replace("_", " ")
    try:
        weights = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{name} holds something else than numbers: {error}.") from None
    if weights.shape != (n,):
        raise EvaluationError(
            f"{name} has the shape {weights.shape}; give one number for each of the {n} "
            "rows of features."
        )
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise EvaluationError(
            f"the {title} of row {bad[0]} is {weights[bad[0]]:g}; weights are finite numbers "
            "from 0 up."
        )
    if not weights.any():
        raise EvaluationError(f"all {title}s are 0, so that nothing is left to {use}.")
    return weights


def of_classes(class_weight: Any, classes: Array) -> Any:
    """Return class weights with one entry for each class, 1 where none was given.

    Parameters
    ----------
    class_weight : {"balanced"}, mapping or None
        A mapping's keys are classes, or text that reads as one.
    classes : ndarray of shape (K,)

    Raises
    ------
    EvaluationError
        A weight is for no class, or is no finite number from 0 up, or two classes that differ in
        weight read as one number.
    """
    if class_weight is None or class_weight == "balanced":
        return class_weight
    if not isinstance(class_weight, Mapping):
        raise EvaluationError(
            f"class_weight is 'balanced' or a number for each class, not {class_weight!r}."
        )
    known = {str(c): c.item() for c in classes}
    found = dict.fromkeys(known.values(), 1.0)
    for key, value in class_weight.items():
        if str(key) not in known:
            raise EvaluationError(
                f"class_weight names {str(key)!r}, which is no class; {nearest(str(key), known)}"
            )
        number = isinstance(value, int | float | np.number) and np.isfinite(value) and value >= 0
        if not number:
            raise EvaluationError(
                f"the weight of class {str(key)!r} is {value!r}; weights are finite numbers from 0 "
                "up."
            )
        found[known[str(key)]] = float(value)
    return _with_numbers(found)


def _with_numbers(weights: dict[Any, float]) -> dict[Any, float]:
    """Return the weights with a further key for each class whose text reads as a whole number.

    scikit-learn 1.9 looks such a class up by the number alone, versions before it by the text.
    """
    found = dict(weights)
    for name, weight in weights.items():
        try:
            number = int(name)
        except ValueError:
            continue
        if found.setdefault(number, weight) != weight:
            raise EvaluationError(
                f"two classes read as the number {number}, for instance {str(name)!r}, and "
                "scikit-learn gives them one weight; rename one of them."
            )
    return found


def weigh_classes(estimator: Any, name: str, class_weight: Any) -> None:
    """Set the class weights of an unfitted head, where there are any.

    Raises
    ------
    HeadError
        The head takes none.
    """
    if class_weight is None:
        return
    full = full_name(estimator, "class_weight")
    if full not in estimator.get_params():
        taking = [
            k for k in list_heads() if "class_weight" in make_head(k).steps[-1][1].get_params()
        ]
        raise HeadError(
            f"head {name!r} takes no class_weight; fit without it, or choose a head that does: "
            f"{', '.join(taking)}."
        )
    estimator.set_params(**{full: class_weight})
