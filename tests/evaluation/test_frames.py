"""Results as data frames, and as what a notebook shows of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from featbank import cross_validate
from featbank.errors import MissingDependency

RANDOM = np.random.default_rng(0)
Y = np.repeat(["ant", "bee"], 60)
X = (RANDOM.normal(size=(120, 6)) + (Y == "bee")[:, None]).astype(np.float32)


def test_an_evaluation_is_a_frame_with_a_row_a_head():
    result = cross_validate(X, Y, ["logreg", "ridge"], tune=False, cv=3, calibrate=False)
    frame = result.to_frame()
    assert list(frame["head"]) == ["logreg", "ridge"]
    for name in ("accuracy", "balanced_accuracy", "roc_auc"):
        for row, head in enumerate(result.heads):
            found = head.metrics[name]
            told = frame.loc[row, [name, f"{name}_low", f"{name}_high"]]
            assert tuple(told) == (found.mean, found.low, found.high)
    assert frame["log_loss"].isna().tolist() == [False, True]
    assert list(frame.columns[:4]) == ["head", "accuracy", "accuracy_low", "accuracy_high"]
    assert {"seconds", "best_params", "calibrated", "classifier"} <= set(frame.columns)


def test_a_result_is_shown_as_its_table():
    result = cross_validate(X, Y, "ridge", tune=False, cv=3)
    assert repr(result) == str(result) == result.table()
    sets = [{word} for word in Y]
    labels = cross_validate(X, sets, "ridge", tune=False, cv=3)
    assert repr(labels) == labels.table()
    assert labels.to_frame().loc[0, "map"] == labels.heads[0].metrics["map"].mean


def test_without_pandas_the_message_names_the_extra(monkeypatch):
    result = cross_validate(X, Y, "ridge", tune=False, cv=3)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependency, match=r"featbank\[pandas\]"):
        result.to_frame()
    assert result.records()[0]["head"] == "ridge"
