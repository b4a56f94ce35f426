from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.conftest import MODEL, Tour, run
from tests.tiny import make_images


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shard_of(bank: Path) -> Path:
    (shard,) = bank.glob("shufflenet*/??/*.h5")
    return shard


def test_info_says_what_there_is(tour: Tour) -> None:
    found = run("info", "--bank", tour.bank, "--json").json

    assert (found["images"], found["labelled"]) == (15, 15)
    assert found["classes"] == {"a": 5, "b": 5, "c": 5}
    assert found["errors"] == []
    (recipe,) = found["recipes"]
    assert recipe["rows"] == 15
    assert len(recipe["fingerprint"]) == 64
    assert recipe["columns"] == [
        {
            "name": "penultimate:avg:identity:float32",
            "rows": 15,
            "width": 1024,
            "images": 15,
            "missing": 0,
        }
    ]
    assert found["commands"] == []
    said = run("info", "--bank", tour.bank).out
    assert "15 images, 15 labelled, 3 classes, 0 not readable" in said
    assert recipe["name"] in said
    assert str(tour.data) in said


def test_a_whole_bank_is_clean(tour: Tour) -> None:
    assert run("verify", "--bank", tour.bank).out == "1 shards, 15 rows: clean\n"
    found = run("verify", "--bank", tour.bank, "--json").json
    assert found == {
        "ok": True,
        "shards": 1,
        "rows": 15,
        "damaged": [],
        "missing": {},
        "commands": [],
    }


@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_found_and_named(tour: Tour, tmp_path: Path, *, packed: bool) -> None:
    bank = tour.copy_bank(tmp_path)
    if packed:
        run("compact", "--bank", bank)
        bank = tmp_path / "bank.h5"
    bad = bank if packed else shard_of(bank)
    damage(bad)

    found = run("verify", "--bank", bank, "--json", status=1).json
    assert not found["ok"]
    assert len(found["damaged"]) == 1
    assert str(bad) in found["damaged"][0]
    answer = run("verify", "--bank", bank, status=1)
    assert "1 damaged" in answer.out
    assert str(bad) in answer.err
    assert str(bad) in run("fit", "--bank", bank, status=1).err


def test_a_damaged_shard_is_set_aside_and_computed_again(tour: Tour, tmp_path: Path) -> None:
    bank = tour.copy_bank(tmp_path)
    bad = shard_of(bank)
    damage(bad)

    found = run("repair", "--bank", bank, "--json").json

    assert not bad.exists()
    (aside,) = found["quarantined"]
    assert os.path.basename(aside).endswith(bad.name)
    assert (bank / aside).exists()
    assert (found["index"], found["images"]) == ("whole", 15)
    assert sorted(found["to_compute"]) == sorted(map(str, tour.data.glob("*/*")))
    again = run("extract", tour.data, *MODEL, "--bank", bank, "--workers", "0", "--json").json
    assert again["computed"] == 15
    assert run("verify", "--bank", bank, "--json").json["ok"]
    assert run("repair", "--bank", bank).out == (
        "0 damaged files set aside\nindex whole, 15 images\n0 images to be computed\n"
    )


@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_lost_column_is_counted_and_computed_by_the_command_that_is_named(
    tour: Tour, tmp_path: Path, how: str
) -> None:
    bank = tour.copy_bank(tmp_path)
    first = shard_of(bank)
    words = ("--layers", "stage4:max", "--bank", bank, "--workers", "0")
    run("extract", tour.data, *MODEL, *words)
    (bad,) = {*bank.glob("shufflenet*/??/*.h5")} - {first}
    damage(bad) if how == "damaged" else bad.unlink()

    column, slug = "stage4:max:identity:float32", first.parts[-3]
    lost = {slug: {column: 15}}
    found = run("verify", "--bank", bank, "--json", status=int(how == "damaged")).json
    assert found["missing"] == lost
    said = run("repair", "--bank", bank)
    assert "15 images to be computed" in said.out
    assert f"{slug}, {column}: 15 images" in said.out
    assert run("verify", "--bank", bank, "--json").json["missing"] == lost
    assert run("repair", "--bank", bank, "--json").json["columns"] == lost
    said = run("info", "--bank", bank).out
    assert f"{column}: no rows, 0 images have it; 15 of 15 images lack it" in said
    wanted = ("--layers", "penultimate,stage4:max", "--bank", bank)
    status = run("status", tour.data, *MODEL, *wanted, "--json").json
    assert (status["to_compute"], status["missing"]) == (15, {column: 15})
    assert f"{column}: 15 of 15 images" in run("status", tour.data, *MODEL, *wanted).out

    (command,) = run("info", "--bank", bank, "--json").json["commands"]
    name, *rest = shlex.split(command)
    assert name == "featbank"
    assert run(*rest, "--workers", "0", "--json").json["computed"] == 15
    assert run("verify", "--bank", bank, "--json").json["missing"] == {}
    assert run("info", "--bank", bank, "--json").json["commands"] == []


def test_a_lost_index_is_rebuilt_without_computing(tour: Tour, tmp_path: Path) -> None:
    bank = tour.copy_bank(tmp_path)
    (bank / "index.h5").unlink()

    said = run("repair", "--bank", bank).out

    assert "index rebuilt, 15 images" in said
    assert "0 images to be computed" in said
    assert run("info", "--bank", bank, "--json").json["classes"] == {"a": 5, "b": 5, "c": 5}


def test_features_of_images_that_are_gone_are_pruned(tour: Tour, tmp_path: Path) -> None:
    bank, data = tour.copy_bank(tmp_path), tmp_path / "data"
    extract = ("extract", data, *MODEL, "--bank", bank, "--workers", "0")
    make_images(data, 4, seed=3)
    run(*extract)
    for path in sorted(data.glob("*/*"))[:2]:
        path.unlink()
    run(*extract)
    words = ("prune", "--bank", bank, "--json")

    would = run(*words, "--dry-run").json
    assert (would["rows"], would["dry_run"]) == (2, True)
    assert run("info", "--bank", bank, "--json").json["recipes"][0]["rows"] == 19
    assert run(*words).json["rows"] == 2
    assert run("info", "--bank", bank, "--json").json["recipes"][0]["rows"] == 17
    assert run(*words).json["rows"] == 0
    recipe = run("info", "--bank", bank, "--json").json["recipes"][0]["name"]
    assert run(*words, "--recipe", recipe).json["recipes"] == [recipe]
    assert run("info", "--bank", bank, "--json").json["recipes"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("info", "--bank", "nowhere"), "there is no bank at"),
        (("info", "--bank", "."), "is a folder without a bank.json"),
        (("verify", "--bank", "nowhere"), "there is no bank at"),
        (("verify", "--bank", "broken"), "bank.json"),
        (("verify", "--bank", "later"), "install a newer featbank"),
        (("repair", "--bank", "nowhere"), "there is no bank at"),
        (("repair", "--bank", "folder.h5"), "there is no bank at"),
        (("repair", "--bank", "later"), "install a newer featbank"),
        (("prune", "--bank", "nowhere"), "there is no bank at"),
        (("prune", "--recipe", "vgg16"), "no recipe 'vgg16'; it has shufflenet"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    words: tuple[str, ...],
    said: str,
    tour: Tour,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "text").write_text("hello")
    for name, text in (("broken", "{"), ("later", '{"format": 99}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bank.json").write_text(text)
    bank = [] if "--bank" in words else ["--bank", tour.bank]

    answer = run(*words, *bank, status=1)

    answer.is_one_message(said)
