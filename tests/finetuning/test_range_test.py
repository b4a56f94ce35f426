import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from featbank.backbones import from_module
from featbank.errors import FineTuneError
from featbank.finetuning.images import Images
from featbank.finetuning.optimizers import make_optimizer, parameter_groups
from featbank.finetuning.range_test import find_rate, range_test
from featbank.finetuning.settings import FineTuneSettings
from tests.tiny import PREPROCESS, TinyNet


def problem(seed=0, **settings):
    """Return a small network, its loss on a batch, batches that it can learn, an optimizer."""
    settings = FineTuneSettings(**{"optimizer": "sgd", "lr": 0.1, "backbone_lr": 0.5} | settings)
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(24) % 3
    x = y[:, None, None, None] - 1 + 0.3 * torch.randn(24, 3, 16, 16, generator=generator)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)]
    net = TinyNet(seed, classes=3).train()
    groups = parameter_groups(net.fc, [net.stage1.parameters(), net.stage2.parameters()], settings)

    def loss(batch):
        noise = torch.randn(1) * np.random.random() * random.random()  # noqa: NPY002
        return nn.functional.cross_entropy(net(batch[0] + 1e-3 * noise), batch[1])

    return net, loss, batches, make_optimizer(groups, settings)


def everything(net, optimizer):
    """Return, as comparable bytes, all that a range test must leave alone."""
    tensors = [*net.state_dict().values(), *(p.grad for p in net.parameters())]
    state = optimizer.state_dict()
    return (
        [None if t is None else t.numpy().tobytes() for t in tensors],
        [module.training for module in net.modules()],
        repr(state["param_groups"]),
        {
            i: {k: v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for k, v in s.items()}
            for i, s in state["state"].items()
        },
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
    )


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("steps_before", [0, 7])
def test_everything_is_as_it_was_to_the_byte(optimizer, lookahead, steps_before):
    net, loss, batches, optimizer = problem(optimizer=optimizer, lookahead=lookahead)
    net.stage1.eval()
    for _ in range(steps_before):
        optimizer.zero_grad()
        loss(batches[0]).backward()
        optimizer.step()
    before = everything(net, optimizer)

    range_test(net, loss, batches, optimizer, high=100.0, steps=40)

    assert everything(net, optimizer) == before


def test_it_is_as_it_was_after_an_error_too():
    net, loss, batches, optimizer = problem()
    before = everything(net, optimizer)
    calls = []

    def broken(batch):
        calls.append(batch)
        if len(calls) == 5:
            net.eval()
            raise KeyboardInterrupt
        return loss(batch)

    with pytest.raises(KeyboardInterrupt):
        range_test(net, broken, batches, optimizer)
    assert everything(net, optimizer) == before


def test_a_training_after_it_is_the_training_without_it():
    def trained(test):
        torch.manual_seed(3)
        net, loss, batches, optimizer = problem(lookahead=True)
        for step in range(9):
            if test and step == 4:
                range_test(net, loss, batches, optimizer, steps=20)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(batches[0][0]), batches[0][1]).backward()
            optimizer.step()
        return [p.detach().numpy().tobytes() for p in net.parameters()]

    assert trained(test=True) == trained(test=False)


def test_rates_rise_exponentially_and_keep_the_groups_proportion():
    net, loss, batches, optimizer = problem()
    seen = []

    def watched(batch):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return loss(batch)

    found = range_test(net, watched, batches, optimizer, low=1e-5, high=1e-3, steps=21)

    assert found.rates == pytest.approx(np.geomspace(1e-5, 1e-3, 21).tolist())
    # The head's, at 0.1, is the highest; the stages' are half of it.
    applied = np.array(seen)
    assert applied.max(axis=1)[1:] == pytest.approx(found.rates[1:])
    assert (applied.min(axis=1) / applied.max(axis=1))[1:] == pytest.approx([0.5] * 20)


def test_the_loss_is_averaged_as_it_says():
    net, loss, batches, optimizer = problem()
    found = range_test(net, loss, batches, optimizer, steps=12, high=1e-2, smoothing=0.8)

    for k, smoothed in enumerate(found.smoothed):
        weights = 0.8 ** np.arange(k, -1, -1)
        assert smoothed == pytest.approx(np.average(found.losses[: k + 1], weights=weights))


def test_it_stops_where_the_loss_takes_off():
    net, loss, batches, optimizer = problem()
    found = range_test(net, loss, batches, optimizer, high=1e4, steps=60)

    assert len(found.rates) < 60
    assert found.diverged_at == found.rates[-1]
    least = np.minimum.accumulate(found.smoothed)
    assert [s <= 4 * low for s, low in zip(found.smoothed, least, strict=True)] == [
        *[True] * (len(found.rates) - 1),
        False,
    ]


def scripted(losses, sizes=None, **words):
    """Return what a range test finds where the losses are these, whatever the rates."""
    weight = nn.Parameter(torch.tensor([0.0]))
    sizes = [1] * len(losses) if sizes is None else sizes
    return range_test(
        nn.ParameterList([weight]),
        lambda batch: batch[0] + 0 * weight.sum(),
        list(zip(map(float, losses), sizes, strict=True)),
        torch.optim.SGD([weight], lr=1.0),
        steps=len(losses),
        size=lambda batch: batch[1],
        **words,
    )


@pytest.mark.parametrize("end", [[5.0, 5.0], [math.inf], [math.nan]])
def test_two_high_losses_in_a_row_or_one_that_is_no_number_are_a_take_off(end):
    found = scripted([1.0] * 30 + [5.0] + [1.0] * 9 + end + [1.0] * 10)

    assert len(found.losses) == 40 + len(end)
    assert found.diverged_at == found.rates[-1]


def test_high_losses_below_the_first_are_no_take_off():
    found = scripted([1.0] * 10 + [0.01] * 80 + [0.1, 0.1] + [0.01] * 8)

    assert found.diverged_at is None
    assert found.suggestion is not None


def test_a_batch_counts_by_its_size():
    sizes = np.tile([32, 11], 10)
    losses = np.random.default_rng(0).normal(1, 0.1, 20)
    found = scripted(losses, sizes.tolist(), smoothing=0.8)

    for k, smoothed in enumerate(found.smoothed):
        weights = 0.8 ** np.arange(k, -1, -1) * sizes[: k + 1]
        assert smoothed == pytest.approx(np.average(losses[: k + 1], weights=weights))


def noisy(seed, fall):
    """Return losses that fall at a hundredth, seen through large batches and small in turn."""
    sizes = np.tile([32, 11], 50)
    rates = np.linspace(-6, 0, 100)
    noise = np.random.default_rng(seed).normal(0, 0.3, 100) / np.sqrt(sizes)
    return (1.1 - fall / (1 + np.exp(-4 * (rates + 2))) + noise).tolist(), sizes.tolist()


def test_noise_is_no_fall():
    found = [scripted(*noisy(seed, fall=0)) for seed in range(40)]

    assert sum(one.suggestion is not None for one in found) <= 1
    refused = next(one for one in found if one.suggestion is None)
    assert refused.to_dict()["tenth_of_lowest"] is None
    assert refused.summary() == (
        "The loss did not fall clearly, so no learning rate can be suggested; more --steps or a "
        "larger --batch-size would tell."
    )


def test_a_fall_is_found_in_noise_where_it_is():
    for seed in range(40):
        found = scripted(*noisy(seed, fall=0.5))
        assert 3e-3 < found.suggestion < 0.3, seed
        assert found.suggestion < found.lowest


def test_a_range_without_harm_is_gone_through():
    net, loss, batches, optimizer = problem()
    found = range_test(net, loss, batches, optimizer, high=1e-2, steps=30)

    assert len(found.rates) == len(found.losses) == len(found.smoothed) == 30
    assert found.diverged_at is None


def test_the_suggestion_lies_between_too_low_and_too_high():
    # f(w) = w**2 / 2 diverges under gradient descent exactly from a rate of 2 on.
    weight = nn.Parameter(torch.tensor([10.0]))
    net = nn.ParameterList([weight])
    optimizer = torch.optim.SGD([weight], lr=1.0)

    found = range_test(
        net, lambda _: weight.square().sum() / 2, [None], optimizer, low=1e-4, high=100, steps=120
    )

    assert 1e-3 < found.suggestion < found.lowest < found.diverged_at
    assert found.suggestion < 2
    assert 2 < found.diverged_at < 20


def test_nothing_is_suggested_where_the_loss_never_fell():
    weight = nn.Parameter(torch.tensor([0.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    found = range_test(
        nn.ParameterList([weight]), lambda _: 1 - weight.sum() * 0, [None], optimizer, steps=20
    )

    assert found.suggestion is None
    assert "no learning rate can be suggested" in found.summary()


def test_a_loss_that_is_no_number_ends_it_and_is_none_in_json():
    net, loss, batches, optimizer = problem()
    calls = iter(range(99))
    found = range_test(
        net, lambda b: loss(b) * (math.nan if next(calls) == 75 else 1), batches, optimizer
    )

    assert len(found.losses) == 76
    assert found.diverged_at == found.rates[75]
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["losses"][75] is None
    assert told["suggestion"] is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"low": 1.0, "high": 0.1}, "up to a higher one"),
        ({"low": 0.0}, "up to a higher one"),
        ({"steps": 1}, "2 steps"),
        ({"smoothing": 1.0}, "below 1"),
        ({"batches": []}, "no batch"),
    ],
)
def test_what_can_not_be_tested_is_refused(words, said):
    net, loss, batches, optimizer = problem()
    batches = words.pop("batches", batches)

    with pytest.raises(FineTuneError, match=said):
        range_test(net, loss, batches, optimizer, **words)


def test_a_first_loss_that_is_no_number_is_refused():
    net, loss, batches, optimizer = problem()
    with torch.no_grad():
        copy.copy(net.fc.weight).fill_(math.nan)

    with pytest.raises(FineTuneError, match="loss of the first batch is nan"):
        range_test(net, loss, batches, optimizer)


def found_by(**words):
    rng = np.random.default_rng(0)
    pixels = rng.normal(128, 20, (18, 40, 40, 3))
    y = np.arange(18) % 2
    pixels[y == 1, :, :20] += 30
    settings = FineTuneSettings(
        **{"optimizer": "sgd", "batch_size": 6, "unfreeze": "head", "augment": "light"} | words
    )
    return find_rate(
        from_module(TinyNet(), transform=PREPROCESS, version="1", classifier="fc"),
        Images.of_arrays(np.clip(pixels, 0, 255).astype(np.uint8)),
        y,
        np.arange(16),
        n_classes=2,
        settings=settings,
        steps=30,
        high=100.0,
    )


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"unfreeze": "all", "hidden": (8,), "dropout": 0.5, "class_weight": "balanced"},
        {"augment": "strong", "lookahead": True, "label_smoothing": 0.1},
        {"init": "probe"},
    ],
)
def test_the_rate_of_a_training_is_found_and_follows_from_its_seed(words):
    before = torch.get_rng_state()
    found = found_by(**words)

    assert len(found.losses) > 3
    assert found_by(**words) == found
    assert found_by(**words, random_state=1) != found
    assert torch.equal(torch.get_rng_state(), before)


def test_a_probe_starts_the_range_test_where_it_starts_a_training():
    assert found_by(init="probe").losses[0] < found_by().losses[0]


def test_no_images_are_refused():
    backbone = from_module(TinyNet(), transform=PREPROCESS, version="1", classifier="fc")
    images = Images.of_arrays(np.zeros((2, 40, 40, 3), np.uint8))

    with pytest.raises(FineTuneError, match="no images to train on"):
        find_rate(backbone, images, np.arange(2), [], n_classes=2, settings=FineTuneSettings())
