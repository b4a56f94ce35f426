from __future__ import annotations

import os
import socket

import pytest

from featbank.backbones import weights
from featbank.bank.documents import read_document
from featbank.classifier import Classifier
from featbank.errors import BankDamaged, ClassifierError, WeightsUnavailable
from featbank.hdf5 import check_seal, is_sealed, open_inspected
from featbank.regular import NotRegular, check_regular, open_regular


def put(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))


KINDS = ("pipe", "folder", "device", "socket")


@pytest.fixture
def other(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(request.param, tmp_path / "x")
    return str(tmp_path / "x")


@pytest.mark.parametrize("other", KINDS, indirect=True)
def test_what_is_no_file_is_refused_without_waiting(other):
    for look in (open_regular, check_regular):
        with pytest.raises(NotRegular):
            look(other)


@pytest.mark.parametrize("other", KINDS, indirect=True)
def test_nothing_of_a_stranger_is_waited_for(other):
    with pytest.raises(BankDamaged, match=r"is not a regular file|is a folder|is a link"):
        read_document(other)
    with pytest.raises(BankDamaged):
        check_seal(other)
    with pytest.raises(BankDamaged), open_inspected(other):
        pass
    assert not is_sealed(other)
    with pytest.raises(ClassifierError):
        Classifier.load(other)
    with pytest.raises(WeightsUnavailable):
        weights.read(other)


def test_a_file_is_opened_and_a_link_to_it_only_where_it_may_be(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nothing")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"text"
    for name in ("link", "loop", "gone"):
        with pytest.raises(NotRegular, match="is a link"):
            open_regular(tmp_path / name, follow=False)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


@pytest.mark.parametrize("ending", ["skops", "pth", "safetensors"])
def test_a_hole_of_terabytes_is_not_read(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ValueError, match="x"):
        Classifier.load(path) if ending == "skops" else weights.read(path)
