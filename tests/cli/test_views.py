from __future__ import annotations

from pathlib import Path

from tests.conftest import MODEL, run
from tests.tiny import make_images


def test_views_are_extracted_learned_from_and_predicted_with(tmp_path: Path) -> None:
    data, bank, out = tmp_path / "data", tmp_path / "bank", tmp_path / "views.skops"
    paths = make_images(data, 18)
    words = (data, *MODEL, "--bank", bank)
    run("extract", *words, "--workers", "0", "--views", "flips")

    assert run("status", *words, "--views", "flips", "--json").json["to_compute"] == 0
    lacking = run("status", *words, "--views", "d4", "--json").json["missing_columns"]
    assert lacking == [
        f"penultimate:avg:{view}:float32" for view in ("rot270", "rot90", "transpose", "transverse")
    ]
    columns = run("info", "--bank", bank, "--json").json["recipes"][0]["columns"]
    assert len(columns) == 4

    fitted = ("fit", "--bank", bank, "--head", "ridge", "--cv", "2", "--jobs", "1")
    plain = run(*fitted, "--no-save").out
    assert "views an image" not in plain
    told = run(*fitted, "--views", "all", "--combine", "train", "--out", out).out
    assert "note: 4 views an image: all learned from, decisions averaged." in told
    found = run("predict", out, paths[0], "--bank", bank, "--json").json["predictions"]
    assert found[0]["label"] == "a"
    for command in ("curve", "select"):
        more = ("--head", "centroid", "--views", "flips", "--jobs", "1", "--json")
        run(command, "--bank", bank, *more, *(("--draws", "2") if command == "curve" else ()))


def test_what_views_need_is_one_message(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 6)
    run("extract", tmp_path / "data", *MODEL, "--bank", tmp_path / "bank", "--workers", "0")

    fit = ("fit", "--bank", tmp_path / "bank", "--no-save")
    run(*fit, "--views", "flips", status=1).is_one_message("run `featbank extract --views flips`")
    run(*fit, "--combine", "train", status=1).is_one_message("no views were named")
