"""The judge of a protocol: metrics of what trials say of the test rows, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featbank.evaluation.intervals import Estimate, Metrics, seed_estimates
from featbank.evaluation.metrics import Meter
from featbank.evaluation.protocols.task import Task, Trial
from featbank.evaluation.protocols.voc import PrecisionMeter
from featbank.heads.outputs import Outputs

__all__ = ["Judge"]


@dataclass(frozen=True)
class Judge:
    """Judges what trials say of the test rows.

    Attributes
    ----------
    task : Task
    single : bool
        Whether a row has one class.
    precision : bool
        Whether mAP is the protocol's metric.
    """

    task: Task
    single: bool
    precision: bool

    def meter(self, told: Outputs) -> Metrics:
        """Return what computes metrics of these outputs."""
        y = self.task.y[self.task.test]
        found: list[Metrics] = []
        if self.single:
            K = len(self.task.classes)
            found.append(Meter(y, told.codes, told.scores, told.probability, K))
        if self.precision:
            found.append(self._precision(told))
        return lambda weights=None: {
            name: value for meter in found for name, value in meter(weights).items()
        }

    def per_class(self, told: Outputs) -> dict[str, float]:
        """Return the average precision of each class, where it is asked for."""
        if not self.precision:
            return {}
        return dict(zip(self.task.classes, self._precision(told).per_class().tolist(), strict=True))

    def _precision(self, told: Outputs) -> PrecisionMeter:
        assert told.scores is not None
        return PrecisionMeter(self.task.targets[self.task.test], told.scores)

    def estimates(self, trials: Sequence[Trial]) -> dict[str, Estimate]:
        """Return the metrics that every trial has, with their intervals."""
        units = self.task.units[self.task.test]
        meters = [self.meter(trial.told) for trial in trials]
        return seed_estimates(meters, [units] * len(meters), seed=self.task.seed)
