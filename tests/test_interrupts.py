from __future__ import annotations

import os
import signal
import threading

import pytest

from featbank.extraction.sealing import MemoryStore, Sealer
from featbank.interrupts import held_back
from tests.bank.builders import COLUMN, features, key, keys


@pytest.fixture
def handled(monkeypatch):
    """Numbers of the signals whose handler was called; SIGINT's raises, as ever."""
    seen = []

    def handle(number, frame):
        seen.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_an_interrupt_waits_until_the_block_is_over(handled):
    done = []

    def block():
        with held_back():
            send(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done
    assert handled == [signal.SIGINT]


def test_the_first_of_two_that_waited_counts(handled):
    with held_back():
        send(signal.SIGTERM, signal.SIGINT)
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_a_third_one_is_obeyed_at_once(handled):
    done = []

    def block():
        with held_back():
            send(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert not done


def test_a_long_block_says_where_an_interrupt_may_be_heeded(handled):
    done = []

    def block():
        with held_back() as give_way:
            give_way()
            send(signal.SIGINT)
            done.append("one step")
            give_way()
            done.append("another")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["one step"]
    assert handled == [signal.SIGINT]


def test_a_block_within_a_block_waits_for_the_outer_one(handled):
    with held_back():
        with held_back():
            send(signal.SIGTERM)
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_handlers_are_as_before_after_an_error_too(handled):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(LookupError), held_back():
        raise LookupError
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_holds_nothing_back(handled):
    during = []

    def work():
        with held_back():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [signal.getsignal(signal.SIGINT)]


def test_an_interrupt_while_a_shard_is_sealed_loses_no_row(handled):
    class Interrupted(MemoryStore):
        def seal(self, keys, columns):
            send(signal.SIGINT)
            super().seal(keys, columns)

    store = Interrupted()
    sealer = Sealer(store, rows=2, seconds=1000)
    words = ["a", "b"]
    with pytest.raises(KeyboardInterrupt):
        sealer.add([0, 1], [key(w).tobytes() for w in words], {COLUMN: features(words, COLUMN)})
    assert (store.rows(COLUMN).find(keys(words)) >= 0).all()
    assert sealer.rest() == []
