"""Sources whose folder is gone are noticed; one that moved is recognised and replaced."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, fit, from_module
from featbank.backbones import Column
from featbank.bank.layered import LayeredBank
from featbank.bank.maintenance import compact
from featbank.data.sources import open_source
from featbank.errors import DataError
from featbank.workflows.extract import ExtractionResult, Model, extract_to, open_model, run_settings
from featbank.workflows.finetune import finetune
from featbank.workflows.info import info
from featbank.workflows.moves import find_missing, missing_sources, note_on_missing
from featbank.workflows.status import status
from featbank.workflows.survey import open_sources
from tests.conftest import MODEL, run
from tests.tiny import PREPROCESS, TinyNet, make_images

COLUMNS = (Column(),)
SETTINGS = run_settings(workers=0, device="cpu")


def model() -> Model:
    return open_model(from_module(TinyNet(), transform=PREPROCESS, version="1"))


def extracted(bank: Path, *places: Path, **words: Any) -> ExtractionResult:
    return extract_to(bank, open_sources(places), model(), COLUMNS, settings=SETTINGS, **words)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank of ``pics``, which is at ``photos`` now."""
    make_images(tmp_path / "pics", 20)
    extracted(tmp_path / "bank", tmp_path / "pics")
    (tmp_path / "pics").rename(tmp_path / "photos")
    return tmp_path / "bank"


def test_a_moved_folder_is_recognised_by_status_and_extract(bank: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    looked = status(bank, open_sources(photos), model(), COLUMNS)
    done = extracted(bank, photos)

    for found in (looked.missing_sources, done.missing, find_missing(Bank(bank))):
        (one,) = found
        assert (one.name, one.place, one.moved_to) == ("pics", str(tmp_path / "pics"), str(photos))
    assert looked.renamed == []
    assert (done.computed, done.reused, len(Bank(bank).index)) == (0, 20, 40)
    assert fit(bank, "centroid", tune=False).images == 20


@pytest.mark.parametrize("before", [False, True], ids=["at-once", "known-already"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_replace_puts_the_new_folder_in_the_old_ones_place(
    bank: Path, tmp_path: Path, how: str, packed: bool, before: bool
) -> None:
    photos = tmp_path / "photos"
    if how == "copied":  # other inodes and times: the bytes tell
        shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile)
        shutil.rmtree(photos)
        photos = tmp_path / "copy"
    path = Path(compact(bank)) if packed else bank
    if before:
        extracted(path, photos)
    features = Bank(path).features(source="pics")

    done = extracted(path, photos, replace=True)

    assert [(one.name, one.moved_to) for one in done.replaced] == [("pics", str(photos))]
    assert (done.computed, done.reused, done.missing) == (0, 20, ())
    after = Bank(path)
    assert (list(after.index.sources), list(after.sources)) == (["pics"], ["pics"])
    assert after.paths[0].startswith(f"{photos}/")
    assert (after.features() == features).all()
    again = extracted(path, photos, replace=True)
    assert (again.computed, again.reused, again.replaced) == (0, 20, ())
    assert find_missing(Bank(path)) == ()


def test_an_interrupted_replacement_of_a_packed_banks_source_goes_on(
    bank: Path, tmp_path: Path
) -> None:
    """Until it is packed, what was removed is hidden by the folder beside the file."""
    path = Path(compact(bank))
    extracted(path, tmp_path / "photos")
    make_images(tmp_path / "photos" / "d", 3, seed=9)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extracted(path, tmp_path / "photos", replace=True, progress=stop)
    assert list(LayeredBank(path).sources) == list(LayeredBank(path).index.sources) == ["pics"]
    assert set(Bank(path).sources) == {"photos", "pics"}

    extracted(path, tmp_path / "photos")
    assert list(Bank(path).sources) == ["pics"]
    assert len(Bank(path).index) == 23


def test_a_folder_that_holds_other_images_replaces_nothing(bank: Path, tmp_path: Path) -> None:
    """Neither names nor sizes are enough."""
    other = tmp_path / "other"
    for path in (tmp_path / "photos").rglob("*.png"):
        target = other / path.relative_to(tmp_path / "photos")
        target.parent.mkdir(parents=True, exist_ok=True)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        target.write_bytes(data)

    with pytest.raises(DataError, match="other replaces nothing"):
        extracted(bank, other, replace=True)
    (one,) = status(bank, open_sources(other), model(), COLUMNS).missing_sources
    assert one.moved_to is None
    assert list(Bank(bank).sources) == ["pics"]


def test_nine_tenths_are_enough(bank: Path, tmp_path: Path) -> None:
    files = sorted((tmp_path / "photos").rglob("*.png"))
    files[0].unlink()
    files[1].rename(files[1].with_stem("other"))
    assert extracted(bank, tmp_path / "photos", replace=True).replaced
    assert len(Bank(bank).index) == 19


def test_a_folder_does_not_replace_a_table(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 12)
    table = tmp_path / "data" / "table.csv"
    rows = ["path,label", *(f"{path.relative_to(tmp_path / 'data')},x" for path in paths)]
    table.write_text("\n".join(rows) + "\n")
    extracted(tmp_path / "bank", table)
    (tmp_path / "data").rename(tmp_path / "new")

    with pytest.raises(DataError, match="replaces nothing"):
        extracted(tmp_path / "bank", tmp_path / "new", replace=True)
    done = extracted(tmp_path / "bank", tmp_path / "new" / "table.csv", replace=True)
    assert [one.moved_to for one in done.replaced] == [str(tmp_path / "new" / "table.csv")]
    assert list(Bank(tmp_path / "bank").labels) == ["x"] * 12


def test_what_did_not_move_is_no_missing_source(bank: Path, tmp_path: Path) -> None:
    described = Bank(bank).sources
    assert [one.name for one in missing_sources(described)] == ["pics"]
    elsewhere = {"pics": {**described["pics"], "root": "/on/another/machine/pics"}}
    assert missing_sources(elsewhere) == []
    here = {"photos": open_source(tmp_path / "photos").to_dict()}
    assert missing_sources(here) == []


def test_fit_and_info_say_what_to_do_and_a_packed_bank_says_nothing(
    bank: Path, tmp_path: Path
) -> None:
    found = [n for n in fit(bank, "centroid", tune=False).notes if "gone" in n]
    assert len(found) == 1
    assert "featbank extract --replace" in found[0]
    assert f"featbank prune --source pics --bank {bank}" in found[0]
    assert info(bank).sources[0]["missing"] is True
    packed = compact(bank)
    assert not [n for n in fit(packed, "centroid", tune=False).notes if "gone" in n]
    assert (info(packed).missing_sources, info(packed).sources[0]["missing"]) == ((), False)


def test_a_table_whose_images_moved_is_extracted_with_another_root(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "pics", 12)
    rows = ["path,label", *(f"{path.relative_to(tmp_path / 'pics')},x" for path in paths)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    source = open_source(table, root=tmp_path / "pics")
    extract_to(tmp_path / "bank", [source], model(), COLUMNS, settings=SETTINGS)
    (tmp_path / "pics").rename(tmp_path / "new")

    note = note_on_missing(find_missing(Bank(tmp_path / "bank")), str(tmp_path / "bank"))
    assert note is not None
    assert f"featbank extract {table} --root NEW_PLACE" in note
    source = open_source(table, root=tmp_path / "new")
    done = extract_to(tmp_path / "bank", [source], model(), COLUMNS, settings=SETTINGS)
    assert (done.computed, done.reused, done.missing) == (0, 12, ())
    assert list(Bank(tmp_path / "bank").sources) == ["table"]


def test_one_line_tells_of_several_sources(bank: Path) -> None:
    (one,) = find_missing(Bank(bank))
    note = note_on_missing([one, one], str(bank))
    assert note is not None
    assert "\n" not in note
    assert note_on_missing([], str(bank)) is None


def test_a_gone_file_is_trained_on_where_a_copy_is(bank: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "weights": "none", "epochs": 1, "cv": 2, "workers": 0, "device": "cpu",
    }  # fmt: skip
    with pytest.raises(DataError, match="20 of 20 images"):
        finetune(None, "small-cnn-3", bank=bank, **words)
    extracted(bank, tmp_path / "photos")
    assert finetune(None, "small-cnn-3", bank=bank, **words).evaluation.images == 20


def test_the_commands_name_the_exact_command(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "pics", 6)
    words = (*MODEL, "--workers", "0")
    run("extract", "pics", *words)
    os.rename("pics", "my photos")

    for command in ("extract", "status"):
        said = run(command, "pics", *MODEL, status=1).err
        assert "pics is gone, which the bank has as its source 'pics'" in said
        assert "--replace" in said
    for said in (
        run("status", *MODEL, "my photos").err,
        run("extract", *words, "my photos").err,
    ):
        assert "'pics' moved from" in said
        assert "featbank extract --replace 'my photos' --model" in said
    for said in (run("info").err, run("fit", "--no-save", "--head", "centroid").out):
        assert "featbank extract 'my photos' --model" in said
        assert " --replace" in said
    done = run("extract", "--replace", *words, "my photos", "--json").json
    assert done["replaced"] == [
        {"name": "pics", "place": str(tmp_path / "pics"), "moved_to": str(tmp_path / "my photos")}
    ]
    assert (done["computed"], done["missing_sources"]) == (0, [])
    assert run("info").err == ""


def test_features_of_a_replaced_folder_survive_a_pruning(bank: Path, tmp_path: Path) -> None:
    from featbank.bank.prune import prune

    extracted(bank, tmp_path / "photos", replace=True)
    assert prune(bank).rows == 0
