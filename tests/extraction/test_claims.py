from __future__ import annotations

import random

import numpy as np
import pytest

from featbank.bank.rows import Rows
from featbank.extraction.claims import COMPUTED, FAILED, PENDING, REUSED, Claims
from featbank.extraction.messages import Failed, Reading
from tests.bank.builders import COLUMN, key

STAT = (1, 2, 3, 4, 5)


def claims(n, columns=1):
    return Claims([Rows.of(COLUMN, ()) for _ in range(columns)], n)


def reading(item, word):
    return Reading(item, key(word).tobytes(), STAT)


def test_the_same_bytes_are_given_to_one_reader():
    state = claims(3)
    assert state.claim([reading(0, "a"), reading(1, "a"), reading(2, "b")]) == [(0,), (), (0,)]
    assert state.pending == 3
    state.sealed([0])
    assert state.state.tolist() == [COMPUTED, REUSED, PENDING]


def test_later_copies_of_what_is_settled_are_settled_at_once():
    state = claims(4)
    state.claim([reading(0, "a"), reading(1, "b")])
    state.sealed([0])
    state.failed(Failed(1, "broken."))
    assert state.claim([reading(2, "a"), reading(3, "b")]) == [(), ()]
    assert state.state.tolist() == [COMPUTED, FAILED, REUSED, FAILED]
    assert state.failures[3].reason == "broken."


def test_what_a_dead_reader_had_is_given_out_again_once():
    state = claims(4)
    state.claim([reading(0, "a"), reading(1, "a"), reading(2, "b"), reading(3, "a")])
    assert state.released([0, 1, 2]) == [0, 1, 2, 3]
    assert state.claim([reading(3, "a"), reading(0, "a"), reading(1, "a")]) == [(0,), (), ()]
    state.sealed([3])
    assert state.state.tolist() == [REUSED, REUSED, PENDING, COMPUTED]


def test_one_who_waits_for_another_reader_is_not_given_out_again():
    state = claims(2)
    state.claim([reading(0, "a")])
    state.claim([reading(1, "a")])
    assert state.released([1]) == []
    state.sealed([0])
    assert state.state[1] == REUSED


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_every_image_settles_and_no_bytes_are_computed_twice(seed):
    """Readers read, die, seal and fail at random; held against a plain account of what should be.

    A reader here is a worker as `featbank.extraction.run` treats it: it holds what it has not
    read yet and what it is to compute.
    """
    rng = random.Random(seed)
    n = rng.randint(1, 40)
    words = [f"w{rng.randint(0, max(1, n // 2))}" for _ in range(n)]
    broken = {w for w in set(words) if rng.random() < 0.2}
    state = claims(n)
    todo = list(range(n))
    readers: list[dict[str, list[int]]] = [{"unread": [], "owned": []} for _ in range(3)]
    computed: list[str] = []
    deaths = 0
    for _ in range(100_000):
        if not state.pending:
            break
        assert todo or any(r["unread"] or r["owned"] for r in readers), "stuck"
        reader = rng.choice(readers)
        act = rng.random()
        if act < 0.4 and todo and not reader["unread"]:
            reader["unread"] = [todo.pop(0) for _ in range(min(len(todo), rng.randint(1, 4)))]
        elif act < 0.7 and reader["unread"]:
            items, reader["unread"] = reader["unread"], []
            wanted = state.claim([reading(i, words[i]) for i in items])
            reader["owned"] += [i for i, c in zip(items, wanted, strict=True) if c]
        elif act < 0.85 and reader["owned"]:
            item = reader["owned"].pop(rng.randrange(len(reader["owned"])))
            if words[item] in broken:
                settled = state.failed(Failed(item, "broken."))
                assert {words[i] for i in settled} == {words[item]}
            else:
                state.sealed([item])
                computed.append(words[item])
        elif act > 0.95 and deaths < 50:
            deaths += 1
            held = {*reader["unread"], *reader["owned"]}
            reader["unread"], reader["owned"] = [], []
            again = state.released(held)
            assert len(set(again)) == len(again)
            assert held <= set(again)
            todo += again
    assert state.pending == 0
    assert len(computed) == len(set(computed)) == len(set(words) - broken)
    assert state.count(COMPUTED) == len(computed)
    failed = np.flatnonzero(state.state == FAILED)
    assert {words[i] for i in failed} <= broken
    assert len(failed) == sum(word in broken for word in words)
    assert all(state.failures[i].reason == "broken." for i in failed)
