"""Who may hold a bank together: those who add rows, and those who take some away."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal

import pytest

from featbank import durable
from featbank.bank.bank import Bank
from featbank.bank.maintenance import compact
from featbank.errors import BankError
from tests.bank.builders import filled


def test_many_may_use_a_bank_and_none_of_them_while_somebody_has_it_alone(tmp_path):
    bank = filled(tmp_path / "bank")
    said = r"in use by another command.*run again"
    with bank.using(), Bank(bank.path).using(), pytest.raises(BankError, match=said), bank.alone():
        pass
    with bank.alone():
        with pytest.raises(BankError, match="in use"), Bank(bank.path).alone():
            pass
        with (
            pytest.raises(BlockingIOError),
            durable.lock(tmp_path / "bank" / ".use", shared=True, wait=False),
        ):
            pass
    with bank.using():
        assert len(bank.features(layer="stage")) == 6


def test_a_dead_process_keeps_nothing(tmp_path):
    bank = filled(tmp_path / "bank")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with bank.using():
            os.write(write, b"!")
            signal.pause()
    os.read(read, 1)
    with pytest.raises(BankError), bank.alone():
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read), os.close(write)
    with bank.alone():
        pass


def no_locks(fd, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_without_locks_a_bank_is_written_with_a_warning_and_nobody_has_it_alone(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING):
        bank = filled(tmp_path / "bank")
    assert "one process at a time" in caplog.text
    with bank.using():
        assert len(bank.features(layer="stage")) == 6
    with pytest.raises(BankError, match="without locks"), bank.alone():
        pass


def test_a_bank_that_can_not_be_written_is_read(tmp_path, monkeypatch):
    bank = filled(tmp_path / "bank")
    opened = os.open

    def read_only(path, flags, *rest, **more):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    with bank.using():
        assert len(bank.features(layer="stage")) == 6
    with pytest.raises(OSError, match="Read-only"), bank.alone():
        pass


def test_a_lock_file_of_another_user_is_held_all_the_same(tmp_path, monkeypatch):
    bank = filled(tmp_path / "bank")
    with bank.using():
        pass
    opened = os.open

    def others(path, flags, *rest, **more):
        if str(path).endswith(".use") and flags & os.O_RDWR:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", others)
    with bank.using():
        monkeypatch.undo()
        with pytest.raises(BankError, match="in use"), bank.alone():
            pass


def test_a_packed_bank_needs_no_lock(tmp_path):
    bank = Bank(compact(filled(tmp_path / "bank")))
    with bank.using():
        assert len(bank.features(layer="stage")) == 6
