from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import Bank, extract, from_module, open_source
from featbank.backbones import Column, ModuleBackbone
from featbank.data import index
from featbank.errors import BackboneError, DataError, ImageError
from featbank.workflows import extract as workflow
from featbank.workflows.extract import extract_to, open_model, parse_columns, run_settings
from featbank.workflows.survey import open_sources
from tests.tiny import PREPROCESS, TinyNet, make_images


@pytest.fixture
def backbone() -> ModuleBackbone:
    return from_module(TinyNet(), transform=PREPROCESS, version="1")


def calls(backbone: ModuleBackbone) -> int:
    network = backbone.network
    assert isinstance(network, TinyNet)
    return network.calls


def test_a_module_of_the_callers_fills_a_bank_once(
    tmp_path: Path, backbone: ModuleBackbone
) -> None:
    paths = make_images(tmp_path / "data")

    bank = extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)
    after = calls(backbone)
    again = extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)

    assert calls(backbone) == after > 0
    assert isinstance(again, Bank)
    assert bank.paths == [str(path) for path in paths]
    assert list(bank.labels) == [path.parent.name for path in paths]
    assert bank.features().shape == (12, 12)
    assert np.array_equal(bank.features(), again.features())


def test_features_follow_neither_batch_size_nor_order(
    tmp_path: Path, backbone: ModuleBackbone
) -> None:
    paths = make_images(tmp_path / "data")
    whole = extract(tmp_path / "data", backbone, tmp_path / "one", workers=0, batch_size=12)
    singly = extract(
        [str(path) for path in reversed(paths)],
        backbone,
        tmp_path / "two",
        workers=0,
        batch_size=1,
        shard_rows=3,
    )

    assert singly.paths == whole.paths
    np.testing.assert_allclose(singly.features(), whole.features(), rtol=1e-5, atol=1e-6)


def test_a_run_right_after_another_loses_nothing(tmp_path: Path, backbone: ModuleBackbone) -> None:
    """Files too young for their times to be trusted are read again, and known again after it."""
    make_images(tmp_path / "data")
    (tmp_path / "data" / "a" / "bad.png").write_bytes(b"bad")
    for _ in range(4):
        bank = extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)
        assert bank.features().shape == (12, 12)
        assert sum(map(int, bank.index.sources["data"].failed)) == 1


def test_two_folders_of_one_name_live_in_one_bank(tmp_path: Path, backbone: ModuleBackbone) -> None:
    for number, place in enumerate(("one", "two")):
        make_images(tmp_path / place / "data", 6, seed=number)

    bank = extract(
        (tmp_path / "one" / "data", tmp_path / "two" / "data"),
        backbone,
        tmp_path / "bank",
        workers=0,
    )

    assert list(bank.index.sources) == ["data", "data-2"]
    assert bank.features(source="data-2").shape == (6, 12)
    assert bank.features().shape == (12, 12)


def test_on_error_raise_ends_at_the_first_bad_image(
    tmp_path: Path, backbone: ModuleBackbone
) -> None:
    make_images(tmp_path / "data", 3)
    (tmp_path / "data" / "a" / "bad.png").write_bytes(b"bad")

    with pytest.raises(ImageError, match=r"bad\.png: not a JPEG"):
        extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0, on_error="raise")


def test_an_interrupt_carries_what_was_done(
    tmp_path: Path, backbone: ModuleBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "data")
    settings = run_settings(workers=0, batch_size=2, shard_rows=2, device="cpu")
    model, columns = open_model(backbone), parse_columns(None)
    sources = open_sources(tmp_path / "data")

    def interrupt(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        extract_to(
            tmp_path / "bank", sources, model, columns, settings=settings, progress=interrupt
        )
    result = caught.value.args[0]
    assert (result.computed, result.remaining) == (4, 8)
    resumed = extract_to(tmp_path / "bank", sources, model, columns, settings=settings)
    assert (resumed.computed, resumed.reused, resumed.remaining) == (8, 4, 0)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_in_the_last_save_of_the_index_lets_it_be_saved(
    tmp_path: Path, backbone: ModuleBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "data")
    revise, times = Bank.revise, iter(range(9))

    def interrupted(bank: Bank, change: Any, **options: Any) -> None:
        if next(times) == 1:  # not the first save, of names and labels
            signal.raise_signal(signal.SIGINT)
        revise(bank, change, **options)

    monkeypatch.setattr(Bank, "revise", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)
    result = caught.value.args[0]
    assert (result.computed, result.remaining) == (12, 0)
    assert Bank(tmp_path / "bank").features().shape == (12, 12)


def test_what_another_process_brings_meanwhile_is_kept(
    tmp_path: Path, backbone: ModuleBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "one" / "images", 6, seed=1)
    make_images(tmp_path / "two" / "images", 4, seed=2)
    monkeypatch.setattr(index, "RACY_NANOSECONDS", 0)
    plain = workflow.survey

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    def overtaken(*args: Any, **options: Any) -> Any:
        found = plain(*args, **options)
        monkeypatch.setattr(workflow, "survey", plain)
        for folder in ("one", "two"):
            extract(tmp_path / folder / "images", backbone, tmp_path / "bank", workers=0)
        monkeypatch.setattr(workflow, "run", interrupted)
        return found

    monkeypatch.setattr(workflow, "survey", overtaken)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "two" / "images", backbone, tmp_path / "bank", workers=0)

    bank = Bank(tmp_path / "bank")
    assert {name: document["root"] for name, document in bank.sources.items()} == {
        "images": str(tmp_path / "one" / "images"),
        "images-2": str(tmp_path / "two" / "images"),
    }
    assert bank.features(source="images").shape == (6, 12)
    assert bank.features(source="images-2").shape == (4, 12)


def test_progress_counts_up_to_all_images(tmp_path: Path, backbone: ModuleBackbone) -> None:
    make_images(tmp_path / "data")
    seen: list[tuple[int, int]] = []

    extract(
        tmp_path / "data",
        backbone,
        tmp_path / "bank",
        workers=0,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == sorted(seen)
    assert seen[-1] == (12, 12)


def test_a_module_without_a_version_can_fill_no_bank(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 3)
    backbone = from_module(TinyNet(), transform=PREPROCESS)

    with pytest.raises(BackboneError, match="only if it has a version"):
        extract(tmp_path / "data", backbone, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_a_weights_file_is_remembered_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torchvision.models import shufflenet_v2_x0_5

    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)

    model = open_model("shufflenet_v2_x0_5", weights="mine.pth")

    assert model.request["weights"] == os.path.join(os.getcwd(), "mine.pth")


@pytest.mark.parametrize(
    "words",
    [
        {"workers": -1},
        {"batch_size": 0},
        {"shard_rows": 0},
        {"on_error": "ignore"},
    ],
)
def test_settings_out_of_range_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(words))):
        run_settings(**words)  # type: ignore[arg-type]


def test_words_for_a_named_backbone_do_not_go_with_a_module(backbone: ModuleBackbone) -> None:
    with pytest.raises(BackboneError, match="crop can't be given beside a module"):
        open_model(backbone, crop=32)
    with pytest.raises(BackboneError, match="not a TinyNet"):
        open_model(TinyNet())  # type: ignore[arg-type]


def test_an_option_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"extract\(\) has no option 'croop'; did you mean crop"):
        extract(tmp_path, croop=3)
    with pytest.raises(TypeError, match=r"extract\(\) has no option 'location'"):
        extract(tmp_path, location=tmp_path)


def test_paths_and_labels_in_a_tuple_are_told_from_two_sources(
    tmp_path: Path, backbone: ModuleBackbone
) -> None:
    paths = make_images(tmp_path / "data", 3)
    labels = ["x", "y", "x"]

    for given in ((paths, labels), (np.array(paths), np.array(labels))):
        with pytest.raises(DataError, match=r"give open_source\(paths, labels\)"):
            extract(given, backbone, tmp_path / "bank")
    source = open_source(paths, labels)
    with pytest.raises(DataError, match="a Source has its options; give exclude to open_source"):
        extract(source, backbone, tmp_path / "bank", exclude="x")
    assert list(extract(source, backbone, tmp_path / "bank", workers=0).labels) == labels


def test_a_failure_under_another_recipe_is_forgotten_once_the_image_is_good(
    tmp_path: Path, backbone: ModuleBackbone
) -> None:
    """Features that are NaN are the network's fault: with another one the image counts again."""
    make_images(tmp_path / "data", 3)
    for path in (tmp_path / "data").rglob("*.png"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    broken = TinyNet()
    with torch.no_grad():
        broken.stage1[0].weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    nan = from_module(broken, transform=PREPROCESS, version="nan")

    extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)
    bank = extract(tmp_path / "data", nan, tmp_path / "bank", workers=0)
    assert bank.index.sources["data"].failed.all()

    bank = extract(tmp_path / "data", backbone, tmp_path / "bank", workers=0)
    assert bank.features().shape == (3, 12)


def test_columns_are_read_and_repeats_dropped() -> None:
    names = [column.name for column in parse_columns("stage1:max, stage2,stage1:max")]

    assert names == ["stage1:max:identity:float32", "stage2:avg:identity:float32"]
    assert parse_columns(["stage2"]) == parse_columns("stage2")


def test_the_paths_to_be_read_are_those_of_all_sources_in_their_order(tmp_path: Path) -> None:
    from featbank.workflows.extract import _Paths
    from featbank.workflows.survey import name_sources, open_sources, survey

    for seed, name in enumerate("ab"):
        make_images(tmp_path / name, 5, seed=seed)
    sources = name_sources(open_sources((tmp_path / "a", tmp_path / "b")), {})
    surveyed, _ = survey(sources, None, None, [Column()])
    surveyed[0].plan.read[1] = False
    paths = _Paths(surveyed)
    wanted = [
        os.fsencode(path)
        for folder in ("a", "b")
        for path in sorted((tmp_path / folder).rglob("*.*"))
    ]
    del wanted[1]
    assert len(paths) == 9
    assert list(paths) == wanted
    assert [paths[i] for i in range(9)] == wanted
    with pytest.raises(IndexError):
        paths[9]
    assert len(_Paths([])) == 0
