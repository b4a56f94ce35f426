"""A mark is seen by another process at once, and outlives its writer."""

from __future__ import annotations

import subprocess
import sys

from featbank.extraction.mark import Mark

WRITER = """
import os, sys
from featbank.extraction.mark import Mark
mark = Mark(int(sys.argv[1]))
mark.set(7)
mark.set((1 << 32) - 2)
os._exit(9)
"""


def test_says_what_was_set_last() -> None:
    mark = Mark()
    assert mark.look()[1] is None
    for item in (0, 5, None, 5):
        mark.set(item)
        assert mark.look()[1] == item
    mark.close()


def test_the_same_image_set_again_is_another_state() -> None:
    mark = Mark()
    states = set()
    for _ in range(3):
        mark.set(4)
        states.add(mark.look()[0])
    assert len(states) == 3
    mark.close()


def test_counts_around() -> None:
    mark = Mark()
    mark._cell[0] = ((1 << 32) - 1) << 32
    mark.set(3)
    assert mark.look() == (4, 3)
    mark.close()


def test_another_process_sees_it_and_a_dead_one_has_left_it() -> None:
    mark = Mark()
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(mark.handle)], pass_fds=[mark.handle], check=False
    )
    assert done.returncode == 9
    assert mark.look()[1] == (1 << 32) - 2
    mark.close()
