"""Settings: values that mean something, as plain data, and one sentence for others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from featbank.errors import FineTuneError
from featbank.finetuning.presets import parse_preset
from featbank.finetuning.settings import FineTuneSettings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"lookahead": "no"}, "lookahead is True or False, not 'no'"),
        ({"mixed_precision": 1}, "mixed_precision is True or False, not 1"),
        ({"lr": "abc"}, "lr is a number above 0, not 'abc'"),
        ({"dropout": "half"}, "dropout is a share from 0 to below 1, not 'half'"),
        ({"momentum": None}, "momentum is a number from 0 up, not None"),
        ({"hidden": 256}, r"hidden is a sequence of sizes such as \(256,\), not 256"),
        ({"unfreeze": None}, "unfreeze is 'all', 'head', a number of stages or names"),
        ({"unfreeze": True}, "not True"),
        ({"class_weight": 3}, "class_weight is 'balanced' or a weight for each class, not 3"),
        ({"class_weight": {"a": "much"}}, "a weight for each class"),
    ],
)
def test_a_value_of_another_kind_is_one_sentence(words: dict[str, Any], said: str) -> None:
    with pytest.raises(FineTuneError, match=said):
        FineTuneSettings(**words)


def test_numbers_of_numpy_are_plain_data() -> None:
    settings = FineTuneSettings(
        batch_size=np.int64(8),
        lr=np.float32(0.5),
        hidden=[np.int64(4)],
        class_weight=dict(zip(np.array([0, 1]), np.array([0.5, 2.0]), strict=True)),
    )

    told = json.loads(json.dumps(settings.to_dict()))

    assert (told["batch_size"], told["lr"], told["hidden"]) == (8, 0.5, [4])
    assert told["class_weight"] == {"0": 0.5, "1": 2.0}
    assert FineTuneSettings.from_dict(told) == settings


def test_true_and_false_are_read_from_a_text() -> None:
    assert parse_preset("full:lookahead=false").words["lookahead"] is False
    assert parse_preset("full:lookahead=true").words["lookahead"] is True
