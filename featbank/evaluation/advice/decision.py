"""The decision: from measured figures to one recommendation, by stated thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from featbank.evaluation.intervals import ROUNDING, Estimate
from featbank.evaluation.text import counted, points

__all__ = ["FEW", "MANY", "WORTH", "Decision", "Figures", "decide"]

MANY = 1000
"""Images of a class from which a network can be trained on them; ImageNet has about 1,300."""

FEW = 100
"""Images of a class below which frozen features are the way, whatever the scores."""

WORTH = 0.01
"""A gain that would be worth the effort."""

_SAID = {
    ("small", "similar"): (
        "head",
        "Few images, and the last layer suits them: fit a linear head on its features.",
    ),
    ("small", "different"): (
        "layers",
        (
            "Few images, and earlier layers suit them better than the last: fit a head on frozen "
            "features, the layer chosen inside the folds."
        ),
    ),
    ("small", "open"): (
        "layers",
        (
            "Few images, and no difference between the last layer and earlier ones can be told: "
            "fit a head on frozen features, and let it choose the layer or take several."
        ),
    ),
    ("small", "unknown"): (
        "head",
        "Few images: fit a head on frozen features. Which layer suits them best is not known yet.",
    ),
    ("large", "similar"): (
        "finetune",
        (
            "Many images, and the last layer suits them: fine-tune, from a fitted head on, with a "
            "low rate for the network."
        ),
    ),
    ("large", "different"): (
        "train",
        (
            "Many images, and earlier layers suit them better than the last: train the whole "
            "network further, at the head's rate and for longer."
        ),
    ),
    ("large", "open"): (
        "finetune",
        (
            "Many images: fine-tune the whole network. No difference between the last layer and "
            "earlier ones can be told."
        ),
    ),
    ("large", "unknown"): (
        "finetune",
        "Many images: fine-tune the whole network. How earlier layers do is not known yet.",
    ),
}


@dataclass(frozen=True)
class Figures:
    """What was measured, as far as it decides.

    Attributes
    ----------
    class_sizes : tuple of int
        Images of each class.
    score : Estimate
        Of the head on the last layer, or on the best one where the last is not there.
    balanced : tuple of Estimate
        Balanced accuracy of the head on each layer.
    gain : Estimate
        What all labels bring over half of them, on the layer of `score`.
    earlier : mapping of str to Estimate
        By how much each earlier layer is above the last; empty where either is not there.
    choice : Estimate or None
        By how much choosing a layer inside each training part is above the last layer; None where
        there is nothing to choose from, or a class is too small to choose.
    """

    class_sizes: tuple[int, ...]
    score: Estimate
    balanced: tuple[Estimate, ...]
    gain: Estimate
    earlier: Mapping[str, Estimate]
    choice: Estimate | None


@dataclass(frozen=True)
class Decision:
    """One recommendation.

    Attributes
    ----------
    action : {"head", "layers", "finetune", "train", "check"}
    size : {"small", "large"}
    likeness : {"similar", "different", "open", "unknown"}
        Of the images to what the network was trained on, by which layers suit them; "open" where no
        difference can be told, "unknown" where there is nothing to compare.
    words : str
        The recommendation.
    reasons : tuple of str
        The figures that it rests on, a sentence each.
    """

    action: str
    size: str
    likeness: str
    words: str
    reasons: tuple[str, ...]


def decide(figures: Figures) -> Decision:
    """Choose among the four cases of the classic rule by what was measured.

    ======  ============================  =======================================
    images  the last layer                recommendation
    ======  ============================  =======================================
    small   ahead of the earlier ones     "head": a linear head on the last layer
    small   behind, or no difference      "layers": a head on earlier layers too
    large   ahead, or no difference       "finetune": the network, at a low rate
    large   behind the earlier ones       "train": the network, at a full rate
    ======  ============================  =======================================

    - *Large*: half of the classes or more have `MANY` images each; or `FEW`, and all labels bring
      surely less than `WORTH` over half of them: then a frozen head has what labels can give it,
      and only better features are left. Else *small*. Both numbers are rules of thumb.
    - *Behind*: choosing a layer inside each training part beats the last layer by an interval
      above 0. Not the best earlier layer as such, for the first of many is ahead by chance.
    - *Ahead*: every earlier layer's difference to the last has an interval below 0.
    - Before all that, "check": no layer's balanced accuracy has an interval above chance, one over
      the number of classes; a score without an interval is itself compared with chance. And "head",
      whatever the case: the score's interval is above 1 - `WORTH`, which leaves nothing to gain.

    Differences are paired and intervals are of 95 %; one that holds 0 decides nothing, and nor does
    one that could not be had.

    References
    ----------
    "Transfer learning", notes of Stanford's course CS231n, cs231n.github.io/transfer-learning.
    """
    size, likeness = _size(figures), _likeness(figures)
    action, words = _SAID[size, likeness]
    reasons = (
        _size_words(figures, size),
        _gain_words(figures.gain),
        *_layer_words(figures, likeness),
    )
    chance = 1 / len(figures.class_sizes)
    if not any(_above(one, chance) for one in figures.balanced):
        action = "check"
        words = (
            "No layer is known to tell these classes apart better than chance: look at the labels "
            "and the images first."
        )
        reasons = (*reasons[:1], _chance_words(figures, chance))
    elif figures.score.low >= 1 - WORTH:
        action = "head"
        words = (
            f"The frozen features leave less than {100 * WORTH:g} point to gain: fit a head on "
            "them."
        )
    return Decision(action, size, likeness, words, reasons)


def _above(score: Estimate, chance: float) -> bool:
    """Tell whether a score, surely where it has an interval, is above chance."""
    least = score.mean if isnan(score.low) else score.low
    return least > chance + ROUNDING


def _size(figures: Figures) -> str:
    half = _half(figures)
    enough = half >= MANY or (half >= FEW and figures.gain.high < WORTH)
    return "large" if enough else "small"


def _half(figures: Figures) -> int:
    """Return the number of images that half of the classes or more have."""
    return sorted(figures.class_sizes)[(len(figures.class_sizes) - 1) // 2]


def _likeness(figures: Figures) -> str:
    if not figures.earlier:
        return "unknown"
    if figures.choice is not None and figures.choice.low > 0:
        return "different"
    behind = all(difference.high < 0 for difference in figures.earlier.values())
    return "similar" if behind else "open"


def _size_words(figures: Figures, size: str) -> str:
    least, most = min(figures.class_sizes), max(figures.class_sizes)
    counts = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    said = f"{counted(len(figures.class_sizes), 'class')} of {counts} images"
    half = _half(figures)
    if half > least:
        said += f", half of them with {half:,} or more"
    if size == "small":
        return f"{said}: few. Many are {MANY:,}, or {FEW} if more labels hardly help."
    if half >= MANY:
        return f"{said}: many, from {MANY:,} on."
    return f"{said}: many, from {FEW} on where more labels hardly help."


def _gain_words(gain: Estimate) -> str:
    said = f"All labels bring {points(gain)} points over half of them"
    if gain.low > 0:
        return f"{said}: more labels should help."
    if gain.high < WORTH:
        return f"{said}: more labels hardly help."
    return f"{said}: whether more labels help can't be told."


def _layer_words(figures: Figures, likeness: str) -> list[str]:
    """Tell the best earlier layer's difference to the last, what is behind, and the choice's."""
    if not figures.earlier:
        return []
    name, gap = max(figures.earlier.items(), key=lambda item: item[1].mean)
    told = points(gap)
    behind = [one for one, gap in figures.earlier.items() if gap.high < 0]
    if gap.high < 0:
        what = "The earlier layer" if len(figures.earlier) == 1 else "The best earlier layer"
        said = f"{what}, {name}, is {told} points from the last: behind it."
    elif gap.low > 0 and likeness == "different":
        said = f"{name} is {told} points from the last layer: ahead of it."
    elif gap.low > 0:
        said = (
            f"{name} is {told} points from the last layer; it was picked as the best, and choosing "
            "inside training parts does not confirm it."
        )
    else:
        said = f"{name} is {told} points from the last layer: no difference can be told."
    if behind and name not in behind:
        said += f" {', '.join(behind)} {'is' if len(behind) == 1 else 'are'} behind it."
    choice = figures.choice
    if choice is None or (choice.mean == 0 and not choice.low > 0):
        return [said]
    chosen = points(choice)
    what = f"A layer chosen inside each training part brings {chosen} points over the last"
    return [said, f"{what}." if choice.low > 0 else f"{what}: no difference can be told."]


def _chance_words(figures: Figures, chance: float) -> str:
    best = max(figures.balanced, key=lambda one: one.mean)
    ends = "" if isnan(best.low) else f" ({best.low:.3f} to {best.high:.3f})"
    return (
        f"The best balanced accuracy of a layer is {best.mean:.3f}{ends}, and chance is "
        f"{chance:.3f}."
    )
