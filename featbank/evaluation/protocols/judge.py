"""The judge of a protocol: metrics of what trials say of the test rows, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featbank.evaluation.metrics import Estimate, Meter, bootstrap, corrected_t, wilson
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

    def meters(self, told: Outputs) -> list[Any]:
        """Return what computes metrics of these outputs."""
        y = self.task.y[self.task.test]
        found: list[Any] = []
        if self.single:
            K = len(self.task.classes)
            found.append(Meter(y, told.codes, told.scores, told.probability, K))
        if self.precision:
            found.append(self._precision(told))
        return found

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
        meters = [self.meters(trial.told) for trial in trials]
        by_trial = [
            {name: value for meter in own for name, value in meter().items()} for own in meters
        ]
        names = [name for name in by_trial[0] if all(name in found for found in by_trial)]
        values = {name: tuple(found[name] for found in by_trial) for name in names}
        units = self.task.units[self.task.test]
        ends: dict[str, tuple[float, float]] = {}
        if len(trials) > 1:
            ends = {name: corrected_t(values[name], 0.0) for name in names}
        else:
            for meter in meters[0]:
                ends.update(bootstrap(meter, units, seed=self.task.seed))
        low, high = ends.get("accuracy", (0.0, 1.0))
        if low == high:  # every seed, or every resample, scored the same
            ends["accuracy"] = wilson(values["accuracy"][0], len(np.unique(units)))
        found = {}
        for name in names:
            low, high = ends.get(name, (float("nan"), float("nan")))
            top = np.inf if name == "log_loss" else 2.0 if name == "brier" else 1.0
            low, high = (float(np.clip(end, 0.0, top)) for end in (low, high))
            found[name] = Estimate(float(np.mean(values[name])), low, high, values[name])
        return found
