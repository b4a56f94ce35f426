from __future__ import annotations

from pathlib import Path

import pytest

from featbank.data import index
from featbank.extraction import run as running
from tests.tiny import make_images

MODES = ("inline", "decode", "embed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in three classes."""
    make_images(tmp_path / "images")
    return tmp_path / "images"


def settings_of(mode: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the settings under which a run goes about its work in a mode."""
    monkeypatch.setattr(running, "FEW", 0 if mode == "embed" else 10**9)
    return {"workers": 0} if mode == "inline" else {"workers": 2, "batch_size": 4}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Settings of each of the three ways of sharing the work."""
    return settings_of(request.param, monkeypatch)


@pytest.fixture(params=MODES[1:])
def worker_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Settings of the two ways that have worker processes."""
    return settings_of(request.param, monkeypatch)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust times that are seconds old: the images of a test always are."""
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)
