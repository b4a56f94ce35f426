from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from featbank import durable
from tests.faults import FaultyFileSystem, error_of, faulty

OLD, NEW = b"old" * 1000, b"new!" * 5000


def write(path):
    durable.write_file(path, NEW)


def publish(path):
    os.path.exists(path) and os.unlink(path)
    durable.publish_file(path, NEW)


def spool(path):
    with durable.replacing(path) as file:
        file.write(NEW[:7])
        file.write(NEW[7:])


@pytest.mark.parametrize("operation", [write, publish, spool])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path, operation, number):
    failures = []
    for step in range(20):
        path = tmp_path / f"{step}" / "file"
        path.parent.mkdir()
        path.write_bytes(OLD)
        with faulty(step, number=number) as fs:
            error = error_of(operation, path)
        if error is not None:
            assert error.errno == number
            failures.append(fs.failed)
        found = path.read_bytes() if path.exists() else None
        if fs.failed in ("create", "write", "sync", "replace") and fs.failed in failures[-1:]:
            assert found == (None if operation is publish else OLD), fs.failed
        else:  # the name was given; an error after that may still be reported
            assert found == NEW, fs.failed
        names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
        assert names == ([] if found is None else ["file"]), fs.failed
        # A temporary stays if it can't be removed, or to say that a name may not be on the disk.
        kept = fs.failed == "unlink" or (fs.failed == "sync_directory" and operation is publish)
        assert (len(os.listdir(path.parent)) > len(names)) == kept, fs.failed
        if fs.failed is None:
            break
    assert {"create", "write", "sync", "sync_directory"} <= set(failures)


@pytest.mark.parametrize("operation", [write, publish, spool])
def test_bytes_are_synced_before_they_get_their_name_and_the_name_after(tmp_path, operation):
    with faulty() as fs:
        operation(tmp_path / "file")
    naming = "link" if operation is publish else "replace"
    steps = [name for name in fs.calls if name not in ("write", "unlink")]
    assert steps.index("create") < steps.index("sync") < steps.index(naming)
    assert steps[-1] == "sync_directory"


def test_a_sync_that_failed_is_never_tried_again(tmp_path):
    with faulty(0, only="sync", number=errno.EIO) as fs, pytest.raises(OSError, match="error"):
        durable.publish_file(tmp_path / "file", NEW)
    assert fs.calls.count("sync") == 1
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    class Short(FaultyFileSystem):
        def write(self, fd, data):
            return os.write(fd, data[:1000])

    monkeypatch.setattr(durable, "fs", Short())
    write(tmp_path / "a")
    spool(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == NEW


def test_publishing_what_is_there_keeps_it_and_makes_its_name_durable(tmp_path):
    path = tmp_path / "file"
    assert durable.publish_file(path, NEW)
    inode = path.stat().st_ino
    with faulty() as fs:
        assert not durable.publish_file(path, NEW)
    assert path.stat().st_ino == inode
    assert fs.calls[-2:] == ["sync_directory", "unlink"]
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_links_is_published_to_by_rename(tmp_path):
    with faulty(0, only="link", number=errno.EPERM):
        assert durable.publish_file(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


def stumble(path, error):
    with durable.replacing(path) as file:
        file.write(b"1")
        assert file.write(b"2") == 1  # HDF5 must not see that it failed
        raise error


def test_the_first_error_of_a_spool_is_told_whatever_the_writer_made_of_it(tmp_path):
    with faulty(1, only="write"), pytest.raises(OSError, match="No space"):
        stumble(tmp_path / "file", RuntimeError("the library misses what was not written"))
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_callers_own_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with pytest.raises(KeyError, match="mine"):
        stumble(path, KeyError("mine"))
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_names_that_are_no_text_can_be_written(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.bin")
    durable.write_file(path, NEW)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe.bin"]


def test_missing_directories_are_made_each_durable_in_its_parent(tmp_path):
    with faulty() as fs:
        durable.make_directory(tmp_path / "a" / "b")
        durable.make_directory(tmp_path / "a" / "b")
    # The parent of what is there already is synced too: whoever made it may have been killed.
    above = ["sync_directory"]
    assert fs.calls == [*above, *["mkdir", "sync_directory"] * 2, *above]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        durable.make_directory(tmp_path / "file")


def test_only_old_temporaries_are_swept(tmp_path):
    old, fresh, other = (durable.temporary(str(tmp_path)) for _ in range(3))
    other = os.path.join(tmp_path, ".tmp-of-somebody-else")
    for path in (old, fresh, other):
        open(path, "wb").close()
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    assert durable.remove_temporaries(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, (fresh, other)))


def test_a_publisher_who_was_killed_before_it_synced_a_name_leaves_a_sign_of_it(tmp_path):
    class Killed(BaseException):
        pass

    class Dies(FaultyFileSystem):
        def sync_directory(self, path):
            raise Killed

        def unlink(self, path):
            raise Killed

    durable.fs, before = Dies(), durable.fs
    try:
        with pytest.raises(Killed):
            durable.publish_file(tmp_path / "file", NEW)
    finally:
        durable.fs = before
    for _ in range(2):  # as long as the temporary is there
        with faulty() as fs:
            assert durable.remove_temporaries(tmp_path) == 0
        assert fs.calls == ["sync_directory"]
    for name in os.listdir(tmp_path):
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    with faulty() as fs:
        assert durable.remove_temporaries(tmp_path) == 1
        assert durable.remove_temporaries(tmp_path) == 0
    assert fs.calls == ["sync_directory", "unlink"]
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_that_knows_no_sync_of_a_directory_is_written_to(tmp_path, monkeypatch):
    def refuse(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_cache_is_written_in_one_step_and_not_synced(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with faulty() as fs:
        durable.write_cache(path, NEW)
    assert fs.calls == ["create", "write", "replace"]
    assert path.read_bytes() == NEW
    for step in range(3):
        with faulty(step), pytest.raises(OSError, match="No space"):
            durable.write_cache(path, OLD)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


HOLD = """
import sys, time
from featbank import durable
with durable.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_alone_and_let_go_by_a_dead_owner(tmp_path):
    path = tmp_path / ".lock"
    got = threading.Event()

    def take():
        with durable.lock(path):
            got.set()

    owner = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        waiter = threading.Thread(target=take)
        waiter.start()
        assert not got.wait(0.2)
        owner.send_signal(signal.SIGKILL)
        assert got.wait(10)
        waiter.join()
    finally:
        owner.kill()
        owner.communicate()


def test_who_waits_for_a_lock_that_is_removed_locks_the_one_that_stands_there(tmp_path):
    path = tmp_path / "lock"
    order = []

    def wait(name):
        with durable.lock(path):
            order.append(f"{name} in")
            time.sleep(0.05)
            order.append(f"{name} out")

    with durable.lock(path):
        waiting = [threading.Thread(target=wait, args=(name,)) for name in "ab"]
        waiting[0].start()
        time.sleep(0.1)  # it waits for the file that goes
        path.unlink()
        waiting[1].start()  # and this one makes a new one
        time.sleep(0.1)
    for thread in waiting:
        thread.join(30)

    assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])


def test_a_folder_is_gone_at_once_and_leaves_a_temporary_at_worst(tmp_path):
    for step in range(100):
        folder = tmp_path / f"place {step}" / "folder"
        (folder / "sub").mkdir(parents=True)
        for path in (folder / "a", folder / "sub" / "b"):
            path.touch()
        with faulty(step) as fs:
            error = error_of(durable.remove_folder, folder)
        left = os.listdir(folder.parent)
        if fs.failed is None:
            assert left == []
            break
        assert folder.exists() == (fs.failed == "replace")
        assert error is None or fs.failed in ("replace", "sync_directory")
        if fs.failed != "replace":
            for name in left:
                os.utime(folder.parent / name, (0, 0))
            durable.remove_temporaries(folder.parent)
            assert os.listdir(folder.parent) == []
    assert step > 3
