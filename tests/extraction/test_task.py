from __future__ import annotations

import hashlib
import os

import pytest

from featbank.data.decode import DecodeLimits, DecodePolicy, decode
from featbank.data.digests import read_file
from featbank.errors import ImageError
from featbank.extraction.messages import Began, Decoded, Done, Failed, Task, TaskSpec
from featbank.extraction.task import TaskRunner
from tests.extraction.fakes import PENULTIMATE, PREPROCESS


def task_of(folder):
    paths = sorted(os.fsencode(p) for p in folder.rglob("*.*"))
    return Task(tuple(range(len(paths))), tuple(paths))


def test_the_bytes_that_are_hashed_are_the_bytes_that_are_decoded(folder):
    task = task_of(folder)
    decoded, readings, events = [], [], []

    def spy(data, policy, **options):
        decoded.append(hashlib.sha256(data).digest())
        return decode(data, policy, **options)

    def claim(found):
        readings.extend(found)
        for path in task.paths:  # whoever looks at the file now sees other bytes
            with open(path, "wb") as file:
                file.write(b"replaced")
        return [(0,)] * len(found)

    spec = TaskSpec((PENULTIMATE,), DecodePolicy(), DecodeLimits(), PREPROCESS, 5, spy)
    TaskRunner(spec, events.append, claim).run(task)
    assert decoded == [reading.digest for reading in readings]
    assert not any(isinstance(event, Failed) for event in events)
    assert [len(e.items) for e in events if isinstance(e, Decoded)] == [5, 5, 2]
    assert isinstance(events[-1], Done)


def test_only_what_is_wanted_is_decoded_and_each_image_is_announced(folder):
    task, decoded, events = task_of(folder), [], []

    def spy(data, policy, **options):
        assert isinstance(events[-1], Began)
        decoded.append(events[-1].item)
        return decode(data, policy, **options)

    spec = TaskSpec((PENULTIMATE,), DecodePolicy(), DecodeLimits(), PREPROCESS, 5, spy)
    runner = TaskRunner(
        spec, events.append, lambda found: [(0,) if r.item % 3 == 0 else () for r in found]
    )
    runner.run(task)
    assert decoded == [0, 3, 6, 9]


def test_the_stat_belongs_to_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    data, stat = read_file(os.fsencode(path), DecodeLimits())
    info = path.stat()
    assert data == b"12345"
    assert stat[:4] == (5, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
    assert stat[4] >= info.st_ctime_ns - 10**9
    with pytest.raises(ImageError, match="there is no such file"):
        read_file(os.fsencode(tmp_path / "none"), DecodeLimits())
