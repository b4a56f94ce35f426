from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np
import pytest

from featbank.errors import EvaluationError, HeadError
from featbank.workflows.comparison.process import peak_bytes, run_apart

LARGE = 160 << 20


def grow(tell: Any) -> tuple[int, int | None]:
    tell("growing")
    held = np.ones(LARGE, np.uint8)
    return int(held[-1]), peak_bytes()


def look(tell: Any) -> int | None:
    return peak_bytes()


def refuse(tell: Any) -> None:
    raise HeadError("this head can't be fitted.")


def die(tell: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_is_that_of_the_row_and_not_of_who_asked_for_it() -> None:
    told: list[str] = []
    held = np.ones(2 * LARGE, np.uint8)
    large, small = run_apart("row", grow, told.append)[1], run_apart("row", look, told.append)

    assert told == ["growing"]
    assert large is not None
    assert small is not None
    assert held[-1] == 1
    assert small < LARGE < large < small + 2 * LARGE


def test_errors_come_back_as_they_are() -> None:
    with pytest.raises(HeadError, match=r"^this head can't be fitted\.$"):
        run_apart("row", refuse, print)


def test_a_process_that_dies_is_named_with_its_cause() -> None:
    with pytest.raises(EvaluationError, match=r"the process of svm died \(signal SIGKILL\)"):
        run_apart("svm", die, print)
