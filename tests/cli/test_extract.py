from __future__ import annotations

import json
import os
import re
import shutil
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import MODEL, Tour, run
from tests.tiny import make_images

HERE = (*MODEL, "--workers", "0")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for path in make_images(tmp_path / "data", 6):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path / "data"


def test_a_second_run_computes_nothing(tour: Tour) -> None:
    found = run("extract", tour.data, *MODEL, "--bank", tour.bank, "--json").json

    assert found["bank"] == str(tour.bank)
    assert found["recipe"].startswith("shufflenet_v2_x0_5-")
    counts = [found[name] for name in ("images", "computed", "reused", "failed")]
    assert counts == [15, 0, 15, 0]
    assert found["errors"] == []
    assert found["seconds"] >= 0
    assert found["images_per_second"] == 0


def test_the_summary_says_what_was_done(tour: Tour) -> None:
    said = run("extract", tour.data, *MODEL, "--bank", tour.bank).out

    assert "15 images: 0 computed, 15 reused, 0 failed" in said
    assert str(tour.bank) in said


def test_the_summary_says_what_limits_the_rate(data: Path, tmp_path: Path) -> None:
    said = run("extract", data, *HERE, "--bank", tmp_path / "bank").out
    (line,) = re.findall(r"6 computed.*; start-up [0-9.]+ s, then \d+ images/s: (.*)\)", said)
    shares = re.findall(r"(\w+) (\d+)%", line)
    assert {kind for kind, _ in shares[:3]} == {"network", "decoding", "disk"}
    assert shares[3][0] == "other"
    assert sum(int(share) for _, share in shares) == 100
    told = run("extract", data, *HERE, "--bank", tmp_path / "other", "--json").json
    assert list(told["busy"]) == ["network", "decoding", "disk", "other"]
    assert all(0 <= share <= 1 for share in told["busy"].values())
    assert sum(told["busy"].values()) == pytest.approx(1)
    assert 0 < told["startup_seconds"] < told["seconds"]
    rate = told["computed"] / (told["seconds"] - told["startup_seconds"])
    assert told["images_per_second"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("busy", "said"),
    [
        (
            {"network": 0.334, "decoding": 0.333, "disk": 0.003, "other": 0.33},
            "network 34%, decoding 33%, disk 0%, other 33%",
        ),
        (
            {
                "network": 0.995,
                "network waiting": 0.005,
                "decoding": 0.2,
                "disk": 0.3,
                "decoders waiting": 0.5,
            },
            "network 100%, waiting 0%; decoders: disk 30%, decoding 20%, waiting 50%",
        ),
    ],
)
def test_the_shares_of_time_sum_to_100_percent(busy: dict[str, float], said: str) -> None:
    assert import_module("featbank.cli.extract")._shares(busy) == said


def test_whoever_computes_much_without_openvino_hears_of_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("featbank.cli.extract"), "MANY", 6)
    assert "openvino" not in run("extract", data, *HERE, "--bank", tmp_path / "a").err
    monkeypatch.setattr("featbank.backbones.graph.available", lambda: False)
    assert "featbank[openvino]" in run("extract", data, *HERE, "--bank", tmp_path / "b").err
    assert "openvino" not in run("extract", data, *HERE, "--bank", tmp_path / "b").err


def test_features_can_be_stored_as_float16(data: Path, tmp_path: Path) -> None:
    import featbank

    for dtype in ("float32", "float16"):
        run("extract", data, *HERE, "--bank", tmp_path / dtype, "--dtype", dtype)
    single, half = (featbank.Bank(tmp_path / dtype).features() for dtype in ("float32", "float16"))
    assert half.dtype == np.float16
    # The features of this random network are so small that float16 knows few of their digits.
    assert 0 < np.linalg.norm(half - single) < 0.02 * np.linalg.norm(single)
    again = run("extract", data, *HERE, "--bank", tmp_path / "float32", "--dtype", "float16")
    assert "6 computed" in again.out


def test_only_what_is_new_or_changed_is_computed(data: Path, tmp_path: Path) -> None:
    bank = tmp_path / "bank"

    def look(command: str) -> dict[str, object]:
        words = HERE if command == "extract" else MODEL
        found: dict[str, object] = run(command, data, *words, "--bank", bank, "--json").json
        return found

    first = look("status")
    assert (first["new"], first["to_compute"], first["reused"]) == (6, 6, 0)
    assert not bank.exists()  # looking makes nothing
    assert look("extract")["computed"] == 6

    files = sorted(data.rglob("*.png"))
    shutil.copy(files[0], data / "a" / "copy.png")
    files[1].rename(files[1].with_name("renamed.png"))
    make_images(tmp_path / "other", 1, seed=8)
    shutil.copy(tmp_path / "other" / "a" / "000.png", files[2])

    status = look("status")
    assert (status["new"], status["changed"]) == (0, 1)
    assert (status["renamed"], status["copied"]) == (1, 1)
    assert (status["removed"], status["to_compute"], status["reused"]) == (1, 1, 6)
    details = status["details"]
    assert isinstance(details, dict)
    assert details["changed"] == [str(files[2])]
    then = look("extract")
    assert (then["images"], then["computed"], then["reused"]) == (7, 1, 6)


def test_status_says_which_field_of_the_recipe_differs(tour: Tour) -> None:
    words = ("status", tour.data, *MODEL[:-1], "96", "--bank", tour.bank)

    assert run(*words, "--json").json["recipe_differs"] == ["preprocess.crop", "preprocess.resize"]
    assert "differs in: preprocess.crop, preprocess.resize" in run(*words).out


def test_status_says_which_column_is_missing(tour: Tour) -> None:
    words = ("status", tour.data, *MODEL, "--layers", "stage2", "--bank", tour.bank)

    assert run(*words, "--json").json["missing_columns"] == ["stage2:avg:identity:float32"]
    assert "stage2:avg:identity:float32: 15 of 15 images" in run(*words).out


def test_a_further_layer_is_added_beside_the_first(tour: Tour, tmp_path: Path) -> None:
    bank = tour.copy_bank(tmp_path)
    words = ("extract", tour.data, *HERE, "--layers", "conv5:max,stage2", "--bank", bank, "--json")

    assert run(*words).json["computed"] == 15
    assert run(*words).json["computed"] == 0
    columns = run("info", "--bank", bank, "--json").json["recipes"][0]["columns"]
    assert {column["name"].split(":")[0] for column in columns} == {
        "penultimate",
        "conv5",
        "stage2",
    }


def test_a_bad_image_is_a_line_and_not_the_end(data: Path, tmp_path: Path) -> None:
    bad = data / "a" / "bad.jpg"
    bad.write_bytes(b"not an image")
    os.utime(bad, (1_000_000_000, 1_000_000_000))
    words = ("extract", data, *HERE, "--bank", tmp_path / "bank")

    found = run(*words, "--json").json
    assert (found["images"], found["computed"], found["failed"]) == (7, 6, 1)
    assert found["errors"][0]["path"] == str(bad)

    again = run(*words)
    assert "0 computed, 6 reused, 1 failed" in again.out
    assert f"can't read {bad}: not a JPEG" in again.err
    listed = run("info", "--errors", "--bank", tmp_path / "bank").out
    assert listed.startswith(f"{bad}: not a JPEG")

    with pytest.raises(AssertionError, match=r"bad\.jpg"):
        run(*words, "--retry-failed", "--on-error", "raise")


def test_names_that_are_no_text_are_kept_and_shown_harmlessly(data: Path, tmp_path: Path) -> None:
    odd = [b"new\nline.png", b"\xff\xfe.png", b"\x1b[31mred.png"]
    source = next(data.rglob("*.png")).read_bytes()
    for number, name in enumerate(odd):
        folder = os.path.join(os.fsencode(data), b"a")
        with open(os.path.join(folder, name), "wb") as file:
            file.write(source if number else b"not an image")
    words = ("extract", data, *HERE, "--bank", tmp_path / "bank")

    said = run(*words)
    assert "9 images: 6 computed, 2 reused, 1 failed" in said.out
    assert "new\\nline.png" in said.err
    assert "\x1b" not in said.out + said.err
    message = run(*words, "--on-error", "raise", "--retry-failed", status=1).err
    assert message.startswith("Error: ")
    assert message.count("\n") == 1


def test_a_weights_file_must_match_the_network(tour: Tour, tmp_path: Path) -> None:
    import torch
    from torchvision import models

    wrong = tmp_path / "wrong.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), wrong)
    words = ("extract", tour.data, "--model", "shufflenet_v2_x0_5", "--workers", "0")

    said = run(*words, "--weights", wrong, "--bank", tmp_path / "bank", status=1).err
    assert said.startswith("Error: the weights do not fit shufflenet_v2_x0_5: ")
    text = tmp_path / "text.pth"
    text.write_text("hello")
    said = run(*words, "--weights", text, "--bank", tmp_path / "bank", status=1).err
    assert "without running its code" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "there is no folder or file"),
        (("empty",), "there are no images in"),
        (("data", "data"), "the same source was named twice"),
        (("data", "--model", "shufflenet_v2_x0_6"), "did you mean shufflenet_v2_x0_5"),
        (("data", "--weights", "IMAGENET1K_V9"), "IMAGENET1K_V1"),
        (("data", "--weights", "nowhere.pth"), "there is no weights file"),
        (("data", "--layers", ""), "no layer was named"),
        (("data", "--layers", "stage22"), "did you mean stage2"),
        (("data", "--layers", "stage2:mean"), "pooling is one of avg, max"),
        (("data", "--device", "tpu"), "device is auto, cpu, cuda, cuda:N or mps, not 'tpu'"),
        (("data", "--workers", "-1"), "workers is -1; give 0 or more"),
        (("data", "--batch-size", "0"), "batch_size is 0; give 1 or more"),
        (("data", "--shard-rows", "0"), "shard_rows is 0; give 1 or more"),
        (("data", "--input-size", "0"), "input_size is 0"),
        (("data", "--seed", "-1"), "seed is a whole number from 0 on, not -1"),
        (("data", "--classes", "zebra"), "there is no class 'zebra'; valid names are a, b, c"),
        (("data", "--classes", "a", "--exclude", "a"), "leave no image"),
        (("data", "--class-names", "nowhere.json"), "there is no file of class names nowhere.json"),
        (("data", "--label-column", "x"), "are for tables"),
        (("data", "--kind", "csv"), "is no source of kind csv"),
        (("data", "--bank", "other"), "is a folder with other things in it and no bank"),
        (("data", "--bank", "other/file"), "is no packed bank; name another file"),
        (("data", "--bank", "folder.h5"), "is a folder; a name that ends in .h5"),
        (("data", "--bank", "other/file/bank"), "is not a folder"),
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
    (tmp_path / "data").symlink_to(tour.data)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    (tmp_path / "folder.h5").mkdir()
    common = [] if "--input-size" in words else [*MODEL[4:]]
    common += [] if "--model" in words else [*MODEL[:2]]
    common += [] if "--weights" in words else [*MODEL[2:4]]

    answer = run("extract", *words, *common, status=1)

    answer.is_one_message(said)
    assert (tmp_path / "other" / "file").read_text() == "mine"


def test_a_table_carries_labels_splits_and_further_columns(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{'test' if i % 3 == 2 else 'train'},{i}"
        for i, path in enumerate(sorted(data.rglob("*.*")))
    ]
    table.write_text("\n".join(["file,kind,split,shade", *rows]) + "\n")
    columns = ("--path-column", "file", "--label-column", "kind")

    run("extract", table, *HERE, *columns, "--bank", tmp_path / "bank")

    found = run("info", "--bank", tmp_path / "bank", "--json").json
    assert found["classes"] == {"a": 2, "b": 2, "c": 2}
    assert found["splits"] == {"test": 2, "train": 4}
    assert "shade" in found["sources"][0]["labels"]


def test_json_alone_is_on_standard_output(tour: Tour) -> None:
    answer = run("-v", "status", tour.data, *MODEL, "--bank", tour.bank, "--json")

    assert json.loads(answer.out)["to_compute"] == 0
    assert answer.out.count("\n") == 1


def test_a_run_ends_with_what_it_understood_and_ignored(data: Path, tmp_path: Path) -> None:
    png = next(data.rglob("*.png")).read_bytes()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(data / "a" / "scan.tif", save_all=True, append_images=frames[1:])
    for name in ("a/IMG_1", "1.svg", "2.svg", "a/.hidden.png", "loose.png"):
        (data / name).write_bytes(png)
    (data / "link").symlink_to(data / "a")
    words = ("extract", data, *HERE, "--bank", tmp_path / "bank")

    lines = run(*words).out.splitlines()
    looked_like = f"{data}/a/IMG_1: rename with an extension"
    assert lines[2:] == [
        "classes     a 3, b 2, c 2",
        "unlabelled  1 image",
        "ignored     2 .svg",
        f"            1 image by the bytes, not by the name, such as {looked_like}",
        "            2 further pages or frames of 1 file not read: --pages all",
        "            1 linked folder not followed: --follow-links",
        "            1 hidden file or folder not read: --hidden",
    ]
    for path in data.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    found = run(*words, "--json").json
    assert found["classes"] == {"a": 3, "b": 2, "c": 2}
    assert (found["splits"], found["unlabelled"]) == ({}, 1)
    assert found["ignored"]["formats"] == {".svg": 2}
    assert (found["ignored"]["images"], found["ignored"]["pages"]) == (1, 2)


def test_a_run_where_nothing_is_ignored_says_no_more_than_classes(tour: Tour) -> None:
    said = run("extract", tour.data, *MODEL, "--bank", tour.bank).out
    assert said.splitlines()[2:] == ["classes  a 5, b 5, c 5"]


def test_images_without_labels_and_unreadable_ones_are_no_class(data: Path, tmp_path: Path) -> None:
    (data / "a" / "bad.png").write_bytes(b"not an image")
    (data / "flat").mkdir()
    found = run("extract", data / "a", *HERE, "--bank", tmp_path / "bank").out
    assert found.splitlines()[2:] == ["unlabelled  2 images"]


def test_a_second_run_looks_into_no_file_and_counts_no_page(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green")]
    frames[0].save(data / "a" / "scan.gif", save_all=True, append_images=frames[1:])
    (data / "a" / "IMG_1").write_bytes(next(data.rglob("*.png")).read_bytes())
    words = ("extract", data, *HERE, "--bank", tmp_path / "bank", "--json")
    run(*words)
    time.sleep(2.1)  # younger files are read again
    run(*words)
    index = (tmp_path / "bank" / "index.h5").stat()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an unchanged file was opened")

    monkeypatch.setattr("featbank.data.ignored.open_regular", never)
    monkeypatch.setattr("featbank.extraction.task.count_pages", never)
    found = run(*words).json["ignored"]
    assert (found["images"], found["pages"], found["paged_files"]) == (1, 1, 1)
    assert (tmp_path / "bank" / "index.h5").stat() == index


def test_many_classes_and_splits_are_shortened(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [
        f"{path},{i % 3},{'test' if i else 'train'}"
        for i, path in enumerate(sorted(data.rglob("*.*")))
    ]
    table.write_text("path,label,split\n" + "\n".join(rows))
    said = run("extract", table, *HERE, "--bank", tmp_path / "bank").out
    assert "splits   train 1, test 5" in said
    classes = import_module("featbank.cli.extract")._classes
    assert classes({f"c{i}": 20 - i for i in range(20)}) == (
        "20: c0 20, c1 19, c2 18, c3 17, c4 16 and 15 others of 1 to 15 each"
    )


def test_each_page_can_be_an_image_of_its_own(data: Path, tmp_path: Path) -> None:
    import featbank

    frames = [Image.open(path).convert("RGB").resize((40, 40)) for path in data.rglob("*.png")]
    frames[0].save(data / "a" / "scan.tif", save_all=True, append_images=frames[1:3])
    for number, frame in enumerate(frames[:3]):
        (tmp_path / "single").mkdir(exist_ok=True)
        frame.save(tmp_path / "single" / f"{number}.png")
    for path in (data / "a" / "scan.tif", *(tmp_path / "single").iterdir()):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    bank = tmp_path / "bank"
    words = (data, *HERE, "--bank", bank, "--pages", "all")

    assert run("status", data, *MODEL, "--bank", bank, "--pages", "all", "--json").json["new"] == 9
    said = run("extract", *words).out
    assert "9 images: 9 computed" in said
    assert "further pages" not in said
    assert "9 images: 0 computed, 9 reused" in run("extract", *words).out
    made = featbank.Bank(bank)
    pages = [i for i, path in enumerate(made.paths) if "scan.tif" in path]
    assert [made.paths[i].partition("scan.tif")[2] for i in pages] == ["", "#page=2", "#page=3"]
    run("extract", tmp_path / "single", *HERE, "--bank", tmp_path / "other")
    wanted = featbank.Bank(tmp_path / "other").features()
    np.testing.assert_allclose(made.features()[pages], wanted, atol=1e-6)
    assert run("verify", "--bank", bank, "--json").json["ok"]
    os.unlink(bank / "index.h5")
    run("repair", "--bank", bank)
    assert featbank.Bank(bank).paths == made.paths

    fit = ("fit", "--bank", bank, "--head", "centroid", "--out", tmp_path)
    assert "9 images" in run(*fit, "--cv", "2", "--no-tune").out
    page = f"{data}/a/scan.tif#page=2"
    told = run("predict", tmp_path / "centroid.skops", page, "--bank", bank, "--json").json
    assert [one["path"] for one in told["predictions"]] == [page]
    few = ("--epochs", "1", "--workers", "0", "--cv", "2", "--no-save", "--unfreeze", "head")
    tuned = run("finetune", data, *MODEL[:4], "--pages", "all", *few, "--json").json
    assert tuned["images"] == 9
    assert "6 images" not in run("extract", data, *HERE, "--bank", bank).out  # 7: a page each
