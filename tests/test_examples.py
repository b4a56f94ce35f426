"""The examples run on a small stand-in folder with a small random network."""

import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import make_images

EXAMPLES = Path(__file__).parent.parent / "examples"
NETWORK = ["--model", "squeezenet1_1", "--weights", "none"]


def run(tmp_path: Path, script: str, *words: str, data: str = "data") -> str:
    make_images(tmp_path / "data", n=18)
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, data, *NETWORK, *words],
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


def split_folders(folder: Path, *names: str) -> Path:
    """Write small images into a folder a split."""
    for seed, name in enumerate(names):
        make_images(folder / name, n=18, seed=seed)
    return folder


def test_ten_animals_are_trained_tested_and_told(tmp_path: Path) -> None:
    told = run(tmp_path, "caltech256_animals.py", "--split", "first:3/1", "--epochs", "2")
    assert "one split, learned from 12, scored on 6 of test" in told
    assert sorted(line.split()[-1] for line in told.splitlines()[-3:]) == ["a", "b", "c"]
    assert (tmp_path / "caltech256_animals.safetensors").exists()


def test_flowers_are_trained_in_two_phases_and_named(tmp_path: Path) -> None:
    split_folders(tmp_path / "flowers", "train", "valid")
    names = tmp_path / "names.json"
    names.write_text('{"a": "aster", "b": "buttercup", "c": "clover"}')
    words = ["--names", str(names), "--unlabelled", "data", "--head-epochs", "1", "--epochs", "1"]
    told = run(tmp_path, "flowers102.py", *words, data="flowers")
    assert "18 predictions in flowers102.csv" in told
    rows = [line.split(",") for line in (tmp_path / "flowers102.csv").read_text().splitlines()]
    assert rows[0] == ["path", "label", "probability", "status"]
    assert {row[1] for row in rows[1:]} <= {"aster", "buttercup", "clover"}
    assert (tmp_path / "range_test.png").stat().st_size > 1000
    assert (tmp_path / "flowers102.png").stat().st_size > 1000


def test_dogs_and_cats_are_told_from_scratch_and_by_transfer(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for path in make_images(tmp_path / "made", n=24, classes=2):
        path.rename(
            tmp_path / "flat" / f"{'cat' if path.parent.name == 'a' else 'dog'}.{path.name}"
        )
    told = run(tmp_path, "dogs_vs_cats.py", data="flat").splitlines()
    assert [line.split()[0] for line in told] == ["from", "squeezenet1_1"]
    assert (tmp_path / "transfer.safetensors").exists()


def test_ants_and_bees_are_told_three_ways(tmp_path: Path) -> None:
    split_folders(tmp_path / "insects", "train", "val")
    told = run(tmp_path, "ants_bees.py", "--epochs", "2", data="insects").splitlines()
    assert [line.split()[0] for line in told] == ["fixed", "fine-tuned", "logreg"]


def test_codes_are_set_against_a_network_from_scratch(tmp_path: Path) -> None:
    make_images(tmp_path / "things", n=60)
    told = run(tmp_path, "caltech101_vgg16.py", "--epochs", "1", data="things").splitlines()
    assert [line.split()[0] for line in told] == ["from", "squeezenet1_1"]
    assert (tmp_path / "caltech101.png").stat().st_size > 1000
