from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Answer, Tour, run


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
        {"name": "penultimate:avg:identity:float32", "rows": 15, "width": 1024}
    ]
    said = run("info", "--bank", tour.bank).out
    assert "15 images, 15 labelled, 3 classes, 0 not readable" in said
    assert recipe["name"] in said
    assert str(tour.data) in said


def test_a_whole_bank_is_clean(tour: Tour) -> None:
    assert run("verify", "--bank", tour.bank).out == "1 shards, 15 rows: clean\n"
    found = run("verify", "--bank", tour.bank, "--json").json
    assert found == {"ok": True, "shards": 1, "rows": 15, "damaged": []}


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


def test_a_bank_becomes_one_file_that_opens_wherever_a_bank_does(
    tour: Tour, tmp_path: Path
) -> None:
    bank = tour.copy_bank(tmp_path)

    def said(of: Path) -> Answer:
        return run("info", "--bank", of, "--json")

    made = run("compact", "--bank", bank, "--json").json
    assert made["path"] == str(tmp_path / "bank.h5")
    assert made["bytes"] == (tmp_path / "bank.h5").stat().st_size
    assert str(tmp_path / "named.h5") in run("compact", tmp_path / "named.h5", "--bank", bank).out
    for path in (tmp_path / "bank.h5", tmp_path / "named.h5"):
        assert said(path).json["recipes"][0]["columns"] == said(bank).json["recipes"][0]["columns"]
        assert said(path).json["classes"] == said(bank).json["classes"]
        assert run("verify", "--bank", path, "--json").json["ok"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("info", "--bank", "nowhere"), "there is no bank at"),
        (("info", "--bank", "."), "is a folder without a bank.json"),
        (("verify", "--bank", "nowhere"), "there is no bank at"),
        (("verify", "--bank", "broken"), "bank.json"),
        (("verify", "--bank", "later"), "install a newer featbank"),
        (("compact", "--bank", "nowhere"), "there is no bank at"),
        (("compact", "bank.zip"), "ends in .h5"),
        (("compact", "folder.h5"), "is a folder"),
        (("compact", "text/bank.h5"), "text is not a folder"),
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
