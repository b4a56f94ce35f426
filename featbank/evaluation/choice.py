"""The choice among heads: what the best of several scores once it has been chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featbank.evaluation.comparison import judged_parts
from featbank.evaluation.intervals import Effects, Estimate, Judged
from featbank.evaluation.metrics import METRICS
from featbank.evaluation.multilabel.meter import LabelMeter
from featbank.evaluation.text import interval

if TYPE_CHECKING:
    from featbank.evaluation.result import HeadResult

__all__ = ["Choice", "choose"]

Array = npt.NDArray[Any]

DRAWS = 500
LABEL_DRAWS = 100
"""Draws where heads are compared by mAP, which takes longer."""


@dataclass(frozen=True)
class Choice:
    """The best of several heads, without the optimism of having been chosen.

    Attributes
    ----------
    metric : str
        What heads are chosen by.
    best : str
    naive : float
        The best head's own score.
    score : Estimate
        Corrected for the choice.
    times : dict of str to float
        Share of the resamples in which each head is the best, the largest first.
    """

    metric: str
    best: str
    naive: float
    score: Estimate
    times: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        corrected = self.score.to_dict()
        return {
            "metric": self.metric,
            "best": self.best,
            "mean": corrected["mean"],
            "ci95": corrected["ci95"],
            "times": self.times,
        }

    def __str__(self) -> str:
        shares = [f"{name} in {share:.0%}" for name, share in self.times.items()]
        most = ", ".join(shares[:3]) + ", ..." * (len(shares) > 3)
        title = METRICS[self.metric]
        return (
            f"The best score is optimistic: the images that show it also chose it. Corrected for "
            f"this choice:\n{title} {interval(self.score)} (best: {most} of resamples)."
        )


def choose(heads: Sequence[HeadResult], metric: str, *, seed: int) -> Choice | None:
    """Correct the best head's score for having been chosen, by a bootstrap of held-out predictions.

    In each of 500 resamples of the images (or groups) the head that is best on the images drawn is
    scored on those not drawn; nothing is fitted again. By as much as it falls behind the head that
    is best on all images, on the same ones, that head's score is lowered. The interval has the
    standard error of the best head. Of six equal heads on 100 to 200 images the best one's own
    score is 3 to 6 points too high, this one less than 1; see ``benchmarks/coverage.py``.

    Parameters
    ----------
    heads : sequence of HeadResult
        On the same parts.
    metric : {"accuracy", "balanced_accuracy", "map"}
    seed : int

    Returns
    -------
    Choice or None
        None for a single head, or where all images are one group.

    References
    ----------
    I. Tsamardinos, E. Greasidou and G. Borboudakis, "Bootstrapping the out-of-sample predictions
    for efficient and accurate cross-validation", Machine Learning 107 (2018).
    """
    if len(heads) < 2:
        return None
    meters, tested = zip(*(judged_parts(head) for head in heads), strict=True)
    unit = np.unique(np.concatenate(tested[0]), return_inverse=True)[1]
    n = int(unit.max()) + 1
    labels = isinstance(meters[0][0], LabelMeter)
    score = _labels_score(meters) if labels else _hits_score(meters, metric)
    random = np.random.default_rng(seed)
    best = int(np.argmax([head.metrics[metric].mean for head in heads]))
    behind, winners = [], []
    for _ in range(LABEL_DRAWS if labels else DRAWS):
        drawn = np.bincount(random.integers(n, size=n), minlength=n)
        inside = score(drawn[unit].astype(np.float64))
        rest = score((drawn == 0)[unit].astype(np.float64))
        if inside is None or rest is None:
            continue
        winner = int(np.argmax(inside))
        winners.append(winner)
        behind.append(rest[winner] - rest[best])
    if not behind:
        return None
    naive = heads[best].metrics[metric].mean
    mean = float(np.clip(naive + np.mean(behind), 0.0, naive))
    low, high = Effects.of(meters[best], tested[best]).interval(metric, mean)
    return Choice(
        metric=metric,
        best=heads[best].head,
        naive=naive,
        score=Estimate(mean, low, high, ()),
        times={heads[i].head: count / len(winners) for i, count in Counter(winners).most_common()},
    )


def _hits_score(meters: Sequence[Sequence[Judged]], metric: str) -> Callable[[Array], Array | None]:
    """Return what scores every head on weighted rows by accuracy, or by balanced accuracy."""
    y = np.concatenate([part.y for part in meters[0]])
    hits = np.array([np.concatenate([p.y == p.predicted for p in own]) for own in meters], float)
    own = np.concatenate([np.ones(len(p.y)) if p.weight is None else p.weight for p in meters[0]])

    def score(weights: Array) -> Array | None:
        w = weights * own
        if metric == "balanced_accuracy":
            support = np.bincount(y, w)
            w = w / np.where(support > 0, support, 1)[y]
        return hits @ w / w.sum() if w.sum() > 0 else None

    return score


def _labels_score(meters: Sequence[Sequence[Judged]]) -> Callable[[Array], Array | None]:
    """Return what scores every head on weighted rows by mAP, ranked within folds."""
    joined = [LabelMeter.joined([m for m in own if isinstance(m, LabelMeter)]) for own in meters]

    def score(weights: Array) -> Array | None:
        if not weights.sum() > 0:
            return None
        found = [meter(weights).get("map", np.nan) for meter in joined]
        return None if np.isnan(found).any() else np.array(found)

    return score
