"""Training: what is learned, when it ends, and what is said of data that can't be learned from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank.errors import FineTuneError, ImageError
from featbank.finetuning.images import Images
from featbank.finetuning.trainer import EpochProgress, hold_out_valid, predict_proba
from tests.finetuning.small import TRAIN, VALID, Y, backbone, fit, images, images_in, state_bytes


def test_it_learns_and_predicts_what_it_has_learned() -> None:
    done = fit({"epochs": 12, "backbone_lr": 1.0})
    probability = predict_proba(done.network, images(), np.arange(24))
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-6)
    assert (probability.argmax(1) == Y).mean() > 0.9
    assert done.history[-1]["train_loss"] < done.history[0]["train_loss"] / 2


def test_the_weights_are_those_of_the_best_watched_epoch() -> None:
    done = fit({"epochs": 6, "lr": 0.2, "schedule": "constant"})
    losses = [epoch["valid_loss"] for epoch in done.history]
    assert done.best_epoch == 1 + int(np.argmin(losses))
    probability = predict_proba(done.network, images(), VALID)
    loss = -np.log(probability[np.arange(len(VALID)), Y[VALID]]).mean()
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_without_watched_rows_the_last_weights_are_kept() -> None:
    done = fit({"epochs": 2}, valid=[])
    assert done.best_epoch == 2
    assert done.history[0]["valid_loss"] is None


def test_patience_ends_it() -> None:
    done = fit({"epochs": 30, "lr": 1e-9, "patience": 2, "monitor": "accuracy"})
    assert done.stopped == "patience"
    assert len(done.history) == done.best_epoch + 2


def test_patience_lets_each_phase_have_its_turn() -> None:
    words = {"lr": 1e-9, "head_epochs": 3, "epochs": 30, "patience": 2, "monitor": "accuracy"}
    done = fit(words)
    assert done.best_epoch == 1
    assert [epoch["phase"] for epoch in done.history] == ["head"] * 3 + ["all"] * 2
    assert done.stopped == "patience"
    alone = fit({**words, "head_epochs": 30, "epochs": 0})
    assert len(alone.history) == 3


def test_phases_train_the_head_and_then_the_rest() -> None:
    done = fit({"head_epochs": 1, "epochs": 1, "head_lr": 0.01, "schedule": "constant"})
    assert [epoch["phase"] for epoch in done.history] == ["head", "all"]
    assert done.history[0]["rates"] == {"head": 0.01}
    assert done.history[1]["rates"] == {"stage 1": 0.01, "stage 2": 0.01, "head": 0.02}
    assert done.trainable == done.parameters


@pytest.mark.parametrize("unfreeze", ["head", "stage2"])
def test_frozen_parts_stay_as_they_were_to_the_byte(unfreeze: str) -> None:
    before = {k: v.numpy().tobytes() for k, v in backbone().network.state_dict().items()}
    after = state_bytes(fit({"unfreeze": unfreeze, "epochs": 1}))
    changed = {name.partition(".")[0] for name in before if after[name] != before[name]}
    assert changed == ({"fc"} if unfreeze == "head" else {"fc", "stage2"})


def test_the_same_seed_gives_the_same_bytes_and_leaves_generators_alone() -> None:
    state = torch.get_rng_state()
    one = fit({"epochs": 1, "dropout": 0.5, "augment": "strong"})
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert state_bytes(fit({"epochs": 1, "dropout": 0.5, "augment": "strong"})) == state_bytes(one)
    other = fit({"epochs": 1, "dropout": 0.5, "augment": "strong", "random_state": 1})
    assert state_bytes(other) != state_bytes(one)


def test_the_number_of_workers_changes_nothing() -> None:
    alone = fit({"epochs": 2})
    helped = fit({"epochs": 2}, workers=2)
    assert state_bytes(helped) == state_bytes(alone)
    rows = np.arange(24)
    assert np.array_equal(
        predict_proba(helped.network, images(), rows, workers=2),
        predict_proba(alone.network, images(), rows),
    )


def test_the_time_ends_it_within_an_epoch_and_that_is_said() -> None:
    steps: list[EpochProgress] = []
    done = fit({"epochs": 50, "batch_size": 2}, max_seconds=1e-3, progress=steps.append)
    assert done.stopped == "time"
    assert (len(steps), done.history[0]["complete"], done.best_epoch) == (1, False, 0)


def test_a_short_budget_is_foreseen() -> None:
    done = fit({"epochs": 5000, "batch_size": 4}, max_seconds=1.5)
    assert done.stopped == "time"
    assert "too short for all 5000 epochs" in done.notes[0]


def test_a_budget_that_is_gone_already_is_enough_for_nothing() -> None:
    done = fit({"epochs": 1, "batch_size": 18}, max_seconds=1e-6)
    assert done.notes[0].startswith("the time is too short for all 1 epochs")


def test_class_weights_count() -> None:
    y = np.where(np.arange(24) < 15, 0, 1)
    rows = {"y": y, "train": np.arange(24), "valid": [], "n_classes": 2}
    losses = [
        fit({"class_weight": given, "lr": 1e-9, "epochs": 1}, class_names=["a", "b"], **rows)
        for given in (None, "balanced", {"b": 15 / 9})
    ]
    plain, balanced, named = (done.history[0]["train_loss"] for done in losses)
    assert plain != pytest.approx(balanced)
    assert balanced == pytest.approx(named, rel=1e-6)


def test_label_smoothing_clipping_and_mixed_precision_train() -> None:
    done = fit({"label_smoothing": 0.1, "clip_norm": 0.5, "mixed_precision": True, "epochs": 2})
    assert all(math.isfinite(epoch["train_loss"]) for epoch in done.history)


def test_the_probe_starts_from_the_logreg_of_the_training_rows() -> None:
    start = {"unfreeze": "head", "epochs": 1, "lr": 1e-12, "augment": "none"}
    done = fit({**start, "init": "probe"})
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    network, plain = done.network, fit(start).network
    from featbank.finetuning.prediction import evaluate

    X = torch.cat(list(evaluate(network, images(), np.arange(24), network.features, 8, 0))).numpy()
    grid = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
    fits = [
        Pipeline([("s", StandardScaler()), ("l", LogisticRegression(C=c, max_iter=2000))]).fit(
            X[TRAIN], Y[TRAIN]
        )
        for c in grid
    ]
    probability = predict_proba(network, images(), np.arange(24))
    apart = [np.abs(one.predict_proba(X) - probability).max() for one in fits]
    assert min(apart) < 1e-3
    assert np.abs(predict_proba(plain, images(), np.arange(24)) - probability).max() > 0.1


def test_the_probe_of_two_classes_and_of_one_that_is_missing() -> None:
    for n_classes in (2, 3):
        y = Y % 2
        done = fit(
            {"init": "probe", "unfreeze": "head", "epochs": 1, "lr": 1e-12, "augment": "none"},
            y=y,
            n_classes=n_classes,
        )
        assert done.history[0]["train_accuracy"] >= (y[TRAIN] == 0).mean()
        assert predict_proba(done.network, images(), TRAIN)[:, 2:].max(initial=0) < 1e-3


def test_progress_tells_each_step_and_each_watched_epoch() -> None:
    told: list[EpochProgress] = []
    fit({"epochs": 2}, progress=told.append)
    assert [(at.epoch, at.step) for at in told] == [
        *[(1, 1), (1, 2), (1, 3), (1, 3)],
        *[(2, 1), (2, 2), (2, 3), (2, 3)],
    ]
    assert [at.valid_loss is None for at in told[:4]] == [True, True, True, False]
    assert (told[0].epochs, told[0].steps) == (2, 3)
    assert told[0].images_per_second > 0


def test_a_loss_that_is_not_finite_ends_it_in_one_sentence() -> None:
    with pytest.raises(FineTuneError, match=r"no longer finite in epoch .* lower lr, or clip_norm"):
        fit({"optimizer": "sgd", "lr": 1e30, "schedule": "constant"})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_named(tmp_path: Path, workers: int) -> None:
    own = images_in(tmp_path)
    gone = next(tmp_path.rglob("000.*"))
    gone.unlink()
    with pytest.raises(ImageError, match=f"{gone}: there is no such file"):
        fit(images=own, workers=workers)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"train": []}, "there are no images to train on"),
        ({"train": [0, 3]}, "all 2 images to train on are of one class, 'a'"),
        ({"valid": [0]}, "row 0 is to be learned from and watched"),
        ({"y": Y[:3]}, r"there are 24 images and y has shape \(3,\)"),
        ({"n_classes": 2, "class_names": ["a", "b"]}, "codes from 0 to 1 for 2 classes"),
        ({"max_seconds": 0}, "max_seconds is a number above 0"),
        ({"workers": -1}, "workers is a number from 0 up"),
    ],
)
def test_what_can_not_be_trained_is_one_sentence(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FineTuneError, match=said):
        fit(**{"class_names": ["a", "b", "c"], **words})


def test_a_weight_of_no_class_names_the_nearest() -> None:
    with pytest.raises(FineTuneError, match="did you mean cat"):
        fit({"class_weight": {"cta": 2.0}}, class_names=["cat", "dog", "owl"])


def test_units_are_never_parted_by_what_is_watched() -> None:
    y, units = np.repeat([0, 1], 20), np.arange(40) // 4
    train, valid = hold_out_valid(y, units, np.arange(40), 0.25, seed=0)
    assert not set(units[train]) & set(units[valid])
    assert sorted([*train, *valid]) == list(range(40))
    assert set(y[valid]) == {0, 1}


def test_a_class_of_one_image_is_learned_from() -> None:
    y = np.array([0] * 10 + [1] * 10 + [2])
    train, valid = hold_out_valid(y, np.arange(21), np.arange(21), 0.2, seed=0)
    assert 20 in train
    assert set(y[valid]) == {0, 1}


def test_pictures_in_memory_train_as_files_do() -> None:
    pictures = Images.of_arrays([images().read(row) for row in range(24)])
    assert state_bytes(fit({"epochs": 1}, images=pictures)) == state_bytes(fit({"epochs": 1}))
