"""What all tests share: one thread a process, a cache of their own, and one small tour's results.

The tour is images, a bank of them and a classifier, made once by the commands themselves. Tests
only look at it; what changes a bank or a folder works on a copy or makes its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

# Before anything imports torch, and for every subprocess: teams of threads collapse where several
# processes share few cores.
os.environ["OMP_NUM_THREADS"] = "1"

from tests.tiny import make_images

MODEL = ("--model", "shufflenet_v2_x0_5", "--weights", "none", "--input-size", "64")
"""A small network that needs no weights."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def is_one_message(self, said: str) -> None:
        """Check that there is one line on standard error, an error that says this, and no more."""
        assert self.out == ""
        assert self.err.startswith("Error: ")
        assert said in self.err
        assert self.err.count("\n") == 1


PATIENCE = 900.0
"""Seconds after which a child counts as hanging. No test asserts how long something took."""


def run(*words: str | Path, status: int = 0) -> Answer:
    """Run a command in this process, and check its exit status."""
    from featbank.cli import cli

    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return Answer(result.exit_code, result.stdout, result.stderr)


def shell(*words: str | Path, cwd: Path, status: int = 0, **environment: str) -> Answer:
    """Run a command as a user does, and check its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "featbank", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATBANK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process and the children that it starts, as in the foreground.

    A shell without job control starts background jobs with SIGINT ignored, and children inherit it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Tour:
    """Fifteen images of three classes, their bank, and an RBF SVM fitted on it."""

    folder: Path
    data: Path = field(init=False)
    bank: Path = field(init=False)
    classifier: Path = field(init=False)

    def __post_init__(self) -> None:
        for name, path in (("data", "data"), ("bank", "bank"), ("classifier", "svm.skops")):
            object.__setattr__(self, name, self.folder / path)

    def copy_bank(self, to: Path) -> Path:
        return Path(shutil.copytree(self.bank, to / "bank"))


@pytest.fixture(scope="session")
def tour(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Tour:
    made = Tour(tmp_path_factory.mktemp("tour"))
    for path in make_images(made.data, 15):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    time.sleep(2.1)  # younger files are read again, whatever test comes first
    run("extract", made.data, *MODEL, "--bank", made.bank, "--workers", "0")
    words = ("--head", "svm", "--no-tune", "--jobs", "1", "--out", made.folder)
    run("fit", "--bank", made.bank, *words)
    return made
