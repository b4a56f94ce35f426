"""The examples run on a small stand-in folder with a small random network."""

import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import make_images

EXAMPLES = Path(__file__).parent.parent / "examples"
NETWORK = ["--model", "squeezenet1_1", "--weights", "none"]


def run(tmp_path: Path, script: str, *words: str) -> str:
    make_images(tmp_path / "data", n=18)
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, "data", *NETWORK, *words],
        cwd=tmp_path,
        env={**os.environ, "FEATBANK_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_solar_cells_scores_saves_and_predicts(tmp_path: Path) -> None:
    told = run(tmp_path, "solar_cells.py")
    assert "18 images, features of shape (18, 512)" in told
    assert (tmp_path / "ridge.skops").exists()


def test_grid_search_finds_a_head(tmp_path: Path) -> None:
    assert "best: {" in run(tmp_path, "grid_search.py", "--bank", "bank")


def test_protocols_are_compared(tmp_path: Path) -> None:
    told = run(tmp_path, "protocols.py").splitlines()
    names = [line.split()[0] for line in told]
    assert names == ["clip-linear", "dinov2-knn", "fewshot-ridge"]
