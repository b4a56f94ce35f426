"""Schedules: what the learning rates are multiplied by at each step."""

from __future__ import annotations

import math

from featbank.finetuning.settings import FineTuneSettings

__all__ = ["factor"]

_FIRST, _LAST = 1 / 25, 1 / 25e4
"""Of one-cycle: torch's, a 25th of the highest rate at first and a 250,000th at last."""


def factor(settings: FineTuneSettings, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return what every group's learning rate is multiplied by at a step.

    It follows from the step alone, so a training that goes on needs to remember nothing else.

    constant
        1.
    step
        `gamma` once for every `step_epochs` epochs that are over.
    cosine
        Up in a straight line over the share `warmup` of the steps, then down to 0 along half a
        cosine (Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts).
    one-cycle
        From 1/25 up in a straight line over the share `warmup`, down in a straight line to
        1/250,000 at the last step (Smith & Topin 2017, arXiv:1708.07120, who rise over nearly half
        of the steps and also turn momentum down and up; here it stays as it is).

    Parameters
    ----------
    settings : FineTuneSettings
    step : int
        From 0 to below ``steps_per_epoch * epochs``; later ones count as the last.
    steps_per_epoch, epochs : int
        Of this phase of the training.

    Returns
    -------
    float
        Above 0; at most 1 unless `gamma` is more.

    Examples
    --------
    >>> settings = FineTuneSettings(schedule="step", step_epochs=7, gamma=0.1)
    >>> [round(factor(settings, epoch * 10, 10, 25), 6) for epoch in (0, 6, 7, 24)]
    [1.0, 1.0, 0.1, 0.001]
    """
    total = steps_per_epoch * epochs
    step = min(step, total - 1)
    if settings.schedule == "step":
        return float(settings.gamma ** (step // steps_per_epoch // settings.step_epochs))
    if settings.schedule == "cosine":
        rise = round(settings.warmup * total)
        if step < rise:
            return (step + 1) / (rise + 1)
        return (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
    if settings.schedule == "one-cycle":
        top = max(0.0, settings.warmup * total - 1)
        if step < top:
            return _FIRST + (1 - _FIRST) * step / top
        # The top may lie between two steps; where there is one step in all, that is the top.
        return 1 - (1 - _LAST) * (step - top) / ((total - 1 - top) or 1)
    return 1.0
