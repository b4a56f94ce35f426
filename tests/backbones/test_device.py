from __future__ import annotations

import subprocess
import sys

import pytest

from featbank.backbones import device
from featbank.backbones.device import check_device, likely_device, pick_device
from featbank.errors import BackboneError


@pytest.mark.parametrize("word", ["auto", "cpu", "cpu:0", "cuda", "cuda:1", "mps"])
def test_words_for_devices(word: str) -> None:
    assert check_device(word) == word


@pytest.mark.parametrize("word", ["", "gpu", "cuda:", "cuda:x", "CPU", "cpu\n", "auto:0"])
@pytest.mark.parametrize("check", [check_device, likely_device, pick_device])
def test_other_words_are_refused(check, word: str) -> None:
    with pytest.raises(BackboneError, match="device is auto, cpu, cuda"):
        check(word)


def test_both_ways_of_asking_have_one_answer() -> None:
    for word in ("auto", "cpu", "cpu:0"):
        assert likely_device(word) == pick_device(word)
    assert pick_device("cpu:0") == "cpu"
    for ask in (likely_device, pick_device):
        with pytest.raises(BackboneError, match="and there is"):
            ask("cuda:99")


def test_torch_is_asked_where_there_may_be_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "pick_device", lambda word: f"asked for {word}")
    monkeypatch.setattr(device, "_may_have_accelerator", lambda: True)
    assert likely_device("auto") == "asked for auto"
    monkeypatch.setattr(device, "_may_have_accelerator", lambda: False)
    assert likely_device("auto") == "cpu"


def test_a_cpu_is_found_without_torch() -> None:
    script = (
        "import sys; from featbank.backbones.device import likely_device; "
        "likely_device('cpu'); print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert said.stdout.strip() == b"False"
