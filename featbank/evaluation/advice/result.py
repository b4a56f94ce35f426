"""The result of advice: figures by layer and by labels, the recommendation, and commands."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any

from featbank.evaluation.advice.decision import Decision
from featbank.evaluation.baselines import baseline_line, baselines
from featbank.evaluation.curves.result import METRICS
from featbank.evaluation.intervals import Estimate
from featbank.evaluation.text import CONFIDENCE, aligned, interval, points

__all__ = ["Advice", "Command", "LayerChosen", "LayerScore", "SharePoint"]

WIDTH = 100
"""Of lines of words."""


@dataclass(frozen=True)
class LayerScore:
    """How separable the classes are in one layer's features.

    Attributes
    ----------
    name : str
    width : int
        Columns.
    score : Estimate
        Of the head.
    balanced : Estimate
        Balanced accuracy of the head.
    difference : Estimate or None
        Its score less that of the last layer, paired; None for the last itself, and where that is
        not there.
    quick : dict of str to Estimate
        Scores of ridge regression and of the nearest and the five nearest neighbours.
    logme : float
        `featbank.evaluation.transferability.logme` of the training parts, their mean.
    """

    name: str
    width: int
    score: Estimate
    balanced: Estimate
    difference: Estimate | None
    quick: dict[str, Estimate]
    logme: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "layer": self.name,
            "columns": self.width,
            "score": self.score.to_dict(),
            "balanced_accuracy": self.balanced.to_dict(),
            "difference": self.difference and self.difference.to_dict(),
            "quick": {name: estimate.to_dict() for name, estimate in self.quick.items()},
            "logme": self.logme,
        }


@dataclass(frozen=True)
class LayerChosen:
    """A layer chosen inside each training part, and scored outside.

    Attributes
    ----------
    score : Estimate
    gain : Estimate
        Over the last layer, paired.
    times : dict of str to int
        In how many training parts each layer was chosen.
    """

    score: Estimate
    gain: Estimate
    times: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"score": self.score.to_dict(), "gain": self.gain.to_dict(), "times": self.times}


@dataclass(frozen=True)
class SharePoint:
    """A score at a share of the labels.

    Attributes
    ----------
    share : float
        Of each class's images in a training part.
    images : int
        Rows that were learned from.
    score : Estimate
    """

    share: float
    images: int
    score: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"share": self.share, "images": self.images, "score": self.score.to_dict()}


@dataclass(frozen=True)
class Command:
    """A command to try, and what it is good for."""

    line: str
    why: str


@dataclass(frozen=True, repr=False)
class Advice:
    """What to do with images, by how their features do.

    Attributes
    ----------
    decision : Decision
        The recommendation, and what it rests on.
    commands : tuple of Command
        To try it; of a measurement without a bank none.
    layers : tuple of LayerScore
        The last layer behind the earlier ones.
    last : str or None
        The name of the last layer, None where it is not there.
    chosen : LayerChosen or None
        None where there is nothing to choose from, or a class is too small to choose.
    labels : tuple of SharePoint
        Scores at 1/8, 1/4, 1/2 and all of the labels, on the layer `labels_of`.
    labels_of : str
    gain : Estimate
        Of all labels over half of them.
    head : str
    metric : {"accuracy", "balanced_accuracy"}
        What scores are: balanced where the largest class has ten times the images of the smallest.
    protocol : str
    images : int
    class_sizes : dict of str to int
    notes : tuple of str

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featbank.evaluation.advice import measure
    >>> X, y = load_iris(return_X_y=True)
    >>> advice = measure({"sepal": X[:, :2], "petal": X[:, 2:]}, y, "lda", last="petal")
    >>> advice.recommendation
    'Few images, and the last layer suits them: fit a linear head on its features.'
    >>> advice["sepal"].difference.high < 0
    True
    """

    decision: Decision
    layers: tuple[LayerScore, ...]
    last: str | None
    chosen: LayerChosen | None
    labels: tuple[SharePoint, ...]
    labels_of: str
    gain: Estimate
    head: str
    metric: str
    protocol: str
    images: int
    class_sizes: dict[str, int]
    notes: tuple[str, ...] = field(default=())
    commands: tuple[Command, ...] = ()

    @property
    def recommendation(self) -> str:
        """The one recommendation, in a sentence or two."""
        return self.decision.words

    def __getitem__(self, layer: str) -> LayerScore:
        """Return the figures of the layer of this name."""
        for found in self.layers:
            if found.name == layer:
                return found
        raise KeyError(f"{layer!r} is none of {', '.join(one.name for one in self.layers)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, as ``featbank advise --json`` prints it."""
        return {
            "recommendation": self.decision.words,
            "action": self.decision.action,
            "size": self.decision.size,
            "likeness": self.decision.likeness,
            "reasons": list(self.decision.reasons),
            "commands": [dataclasses.asdict(command) for command in self.commands],
            "layers": [one.to_dict() for one in self.layers],
            "last": self.last,
            "chosen": self.chosen and self.chosen.to_dict(),
            "labels": [point.to_dict() for point in self.labels],
            "labels_of": self.labels_of,
            "gain": self.gain.to_dict(),
            "head": self.head,
            "metric": self.metric,
            "protocol": self.protocol,
            "images": self.images,
            "class_sizes": self.class_sizes,
            "baselines": self.baselines,
            "notes": list(self.notes),
        }

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """What the majority class and chance score."""
        return baselines(list(self.class_sizes.values()))

    def table(self) -> str:
        """Return the figures, the recommendation and the commands as plain text."""
        what = f"{METRICS[self.metric]} {CONFIDENCE}; to the last: points, paired"
        head = f"{self.protocol}: {self.images} images, {len(self.class_sizes)} classes"
        known = baseline_line(self.baselines, [self.metric])
        reasons = (
            fill(one, WIDTH, initial_indent="- ", subsequent_indent="  ")
            for one in self.decision.reasons
        )
        blocks = [
            "\n".join([head, what, "", *aligned(self._layer_rows()), "", known]),
            "\n".join(aligned(self._label_rows())),
            "\n".join([fill(self.decision.words, WIDTH), *reasons]),
        ]
        blocks += [f"# {command.why}\n{command.line}" for command in self.commands]
        if self.notes:
            blocks.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(blocks)

    def _layer_rows(self) -> list[list[str]]:
        rows = [["layer", "columns", self.head, "to the last", *self.layers[0].quick, "LogME"]]
        for one in self.layers:
            gap = one.difference
            rows.append(
                [
                    one.name,
                    str(one.width),
                    interval(one.score),
                    "last" if one.name == self.last else "-" if gap is None else points(gap),
                    *(f"{estimate.mean:.3f}" for estimate in one.quick.values()),
                    f"{one.logme:.3f}",
                ]
            )
        if self.chosen is not None:
            score, quick = self.chosen.score, len(self.layers[0].quick)
            cells = [interval(score), points(self.chosen.gain)]
            rows.append(["chosen inside", "", *cells, *[""] * quick, ""])
        return rows

    def _label_rows(self) -> list[list[str]]:
        rows = [["labels", "images", f"{self.head} on {self.labels_of}"]]
        for p in self.labels:
            share = "all" if p.share == 1 else f"1/{round(1 / p.share)}"
            rows.append([share, str(p.images), interval(p.score)])
        return rows

    def __repr__(self) -> str:
        return self.table()
