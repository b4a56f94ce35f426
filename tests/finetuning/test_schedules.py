import math

import pytest
import torch
from torch.optim import lr_scheduler

from featbank.finetuning.schedules import factor
from featbank.finetuning.settings import FineTuneSettings


def rates_of_torch(make, steps):
    """Return the learning rates that a scheduler of torch's gives, for a base rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def factors(settings, steps_per_epoch, epochs):
    total = steps_per_epoch * epochs
    return [factor(settings, step, steps_per_epoch, epochs) for step in range(total)]


def test_constant_is_one():
    assert set(factors(FineTuneSettings(schedule="constant"), 3, 4)) == {1.0}


def test_step_is_torchs_by_epoch():
    settings = FineTuneSettings(schedule="step", step_epochs=7, gamma=0.1)
    by_epoch = rates_of_torch(lambda o: lr_scheduler.StepLR(o, 7, 0.1), 25)

    expected = [rate for rate in by_epoch for _ in range(4)]
    assert factors(settings, 4, 25) == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "rise"), [(0.0, 0), (0.1, 4), (0.5, 20)])
def test_cosine_is_torchs_after_a_warm_up(warmup, rise):
    settings = FineTuneSettings(schedule="cosine", warmup=warmup)

    def make(optimizer):
        down = lr_scheduler.CosineAnnealingLR(optimizer, T_max=40 - rise)
        if not rise:
            return down
        up = lr_scheduler.LinearLR(optimizer, 1 / (rise + 1), total_iters=rise)
        return lr_scheduler.SequentialLR(optimizer, [up, down], milestones=[rise])

    assert factors(settings, 8, 5) == pytest.approx(rates_of_torch(make, 40))


@pytest.mark.parametrize("warmup", [0.05, 0.1, 0.33, 0.45, 0.99])
def test_one_cycle_is_torchs(warmup):
    settings = FineTuneSettings(schedule="one-cycle", warmup=warmup)

    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, 1.0, total_steps=40, pct_start=warmup, anneal_strategy="linear"
        )

    assert factors(settings, 8, 5) == pytest.approx(rates_of_torch(make, 40), abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one-cycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (1, 2), (2, 1), (10, 1), (7, 30)])
def test_a_factor_is_above_zero_and_at_most_one(schedule, warmup, steps, epochs):
    found = factors(FineTuneSettings(schedule=schedule, warmup=warmup), steps, epochs)

    assert all(math.isfinite(f) and 0 < f <= 1 for f in found)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_a_training_of_one_step_takes_the_whole_rate(schedule):
    assert factor(FineTuneSettings(schedule=schedule), 0, 1, 1) == 1.0
