from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click
import pytest
import torch

from featbank import Bank, advise, extract, from_module
from featbank.cli import cli
from featbank.errors import AmbiguousFeatures, EvaluationError, FeaturesMissing, HeadError
from featbank.workflows.advise import _commands, earlier_layers
from featbank.workflows.commandlines import extract_lines, line, row_words
from tests.conftest import MODEL, run
from tests.tiny import PREPROCESS, TinyNet, make_images


class Renamed(TinyNet):
    """A network with a stage10 behind its stage1: sorted as text it would come first."""

    def __init__(self) -> None:
        super().__init__(3)
        self.stage10 = self.stage2
        del self.stage2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc(self.pool(self.stage10(self.stage1(x))).flatten(1))
        return found


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("advising")
    make_images(folder / "data", 36)
    made = from_module(Renamed(), transform=PREPROCESS, version="one", name="one")
    extract(folder / "data", made, folder / "bank", layers=["stage10", "stage1"], workers=0)
    extract(folder / "data", made, folder / "bank", workers=0)
    return Bank(folder / "bank")


def test_layers_stand_from_early_to_late_and_are_compared_with_the_last(bank: Bank) -> None:
    found = advise(bank, "ridge", tune=False, cv=3)

    assert [one.name for one in found.layers] == ["stage1", "stage10", "penultimate"]
    assert found.last == found.labels_of == "penultimate"
    assert found["stage1"].difference is not None
    assert [one.width for one in found.layers] == [8, 12, 12]
    assert sum(found.class_sizes.values()) == found.images == 36


def test_a_recommendation_comes_with_commands_on_this_bank(bank: Bank) -> None:
    found = advise(bank, "ridge", tune=False, cv=3)

    assert found.commands
    for command in found.commands:
        words = shlex.split(command.line)
        assert words[0] == "featbank"
        assert words[words.index("--bank") + 1] == str(bank.path)


@pytest.mark.parametrize("action", ["head", "layers", "finetune", "train", "check"])
def test_every_recommendations_commands_have_words_that_the_commands_know(
    bank: Bank, action: str
) -> None:
    found = advise(bank, "centroid", layers="stage1,penultimate", tune=False, cv=2)
    decision = dataclasses.replace(found.decision, action=action)
    found = dataclasses.replace(found, decision=decision)
    rows = row_words(
        source="data", label="label", positive=None, classes=["a", "b"], exclude=["c"],
        split="none", group="none", metric_weight="w", keep_copies=True, cv=3, repeats=2,
        random_state=1,
    )  # fmt: skip

    commands = _commands(found, ["--bank", "b", "--recipe", "one", *rows], [], 3)

    assert commands
    parent = click.Context(cli, **cli.context_settings)
    for command in commands:
        _, name, *words = shlex.split(command.line)
        cli.commands[name].make_context(name, words, parent)  # refuses what it does not know


def test_one_layer_of_a_network_made_in_python_leaves_likeness_open(tmp_path: Path) -> None:
    make_images(tmp_path / "data", 36)
    made = from_module(Renamed(), transform=PREPROCESS, version="one", name="one")
    extract(tmp_path / "data", made, tmp_path / "bank", workers=0)
    found = advise(tmp_path / "bank", "ridge", tune=False, cv=3)

    assert found.decision.likeness == "unknown"
    assert not any("extract" in command.line for command in found.commands)
    assert any("featbank.extract" in note for note in found.notes)


def test_without_the_last_layer_the_best_one_stands_for_it(bank: Bank) -> None:
    found = advise(bank, "ridge", layers=["stage1", "stage10"], tune=False, cv=3)

    assert found.last is None
    assert found.labels_of in ("stage1", "stage10")
    assert found.decision.likeness == "unknown"


@pytest.mark.parametrize("layers", ["penultimate", "stage1"])
def test_layers_that_the_bank_has_are_not_to_be_extracted_again(bank: Bank, layers: str) -> None:
    found = advise(bank, "ridge", layers=layers, tune=False, cv=3)

    assert found.commands[-1].line == f"featbank advise --bank {bank.path} --cv 3 --head ridge"
    assert not any("extract" in command.line for command in found.commands)
    assert not any("featbank.extract" in note for note in found.notes)


def test_all_that_chooses_rows_is_in_the_commands(bank: Bank, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 24)
    rows = [f"{path},{path.parent.name},{i % 8}" for i, path in enumerate(paths)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,size", *rows]) + "\n")
    net = from_module(TinyNet(3), transform=PREPROCESS, version="one", name="one")
    extract(tmp_path / "table.csv", net, tmp_path / "bank", layers=["stage1"], workers=0)
    extract(tmp_path / "table.csv", net, tmp_path / "bank", workers=0)

    found = advise(tmp_path / "bank", "ridge", positive="size>3", source="table", tune=False, cv=2)

    assert set(found.class_sizes) == {"size>3", "size<=3"}
    assert "--source table --positive 'size>3' --cv 2" in found.commands[0].line


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"layers": "stage9"}, FeaturesMissing, "no column 'stage9'"),
        ({"recipe": "three"}, FeaturesMissing, "no recipe 'three'"),
        ({"n_jobs": 0}, EvaluationError, "n_jobs is 0"),
        ({"head": "svn"}, HeadError, "did you mean svm"),
        ({"cv": 40}, EvaluationError, "40 folds can't be had"),
        ({"classes": ["a"]}, EvaluationError, "are of one class"),
    ],
)
def test_what_can_not_be_advised_on_is_said(
    bank: Bank, words: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        advise(bank, **words)  # type: ignore[arg-type]


def test_of_several_backbones_one_is_to_be_named(bank: Bank, tmp_path: Path) -> None:
    make_images(tmp_path / "data", 12)
    for seed in (1, 2):
        net = from_module(TinyNet(seed), transform=PREPROCESS, version=str(seed), name="n")
        extract(tmp_path / "data", net, tmp_path / "bank", workers=0)
    with pytest.raises(AmbiguousFeatures, match="choose one by name"):
        advise(tmp_path / "bank")
    slug = Bank(tmp_path / "bank").recipes[0].slug
    found = advise(tmp_path / "bank", "ridge", recipe=slug, tune=False, cv=2)
    assert f"--recipe {slug}" in found.commands[0].line


@pytest.mark.parametrize(
    ("kind", "options", "images"),
    [
        ("folder", ("--exclude", "c"), 4),
        ("csv", ("--label-column", "kind", "--delimiter", "|"), 6),
        ("flat", ("--kind", "flat", "--hidden"), 6),
    ],
)
def test_a_command_that_extracts_more_describes_the_source_as_it_was(
    kind: str, options: tuple[str, ...], images: int, tmp_path: Path
) -> None:
    paths = make_images(tmp_path / "my data", 6)
    source = tmp_path / "my data"
    if kind == "csv":
        source = tmp_path / "table.csv"
        rows = [f"{path}|{path.parent.name}" for path in paths]
        source.write_text("\n".join(["path|kind", *rows]) + "\n")
    bank = tmp_path / "bank"
    run("extract", source, *options, *MODEL, "--bank", bank, "--workers", "0")
    before = Bank(bank).sources

    lines = extract_lines(Bank(bank), Bank(bank).recipes[0], None, ["stage2", "stage3"])

    assert lines is not None
    (told,) = lines
    words = shlex.split(told)[1:]
    assert run(*words, "--workers", "0", "--json").json["computed"] == images
    assert Bank(bank).sources == before
    assert len(Bank(bank).columns(Bank(bank).recipes[0].fingerprint)) == 3


def test_a_source_that_no_words_describe_has_no_command(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "data", 6)
    pairs = [(str(path), path.parent.name) for path in paths]
    bank = extract(pairs, "shufflenet_v2_x0_5", tmp_path / "bank", weights="none",
                   input_size=64, workers=0)  # fmt: skip

    assert extract_lines(bank, bank.recipes[0], None, ["stage2"]) is None


def test_words_are_quoted_for_a_shell() -> None:
    assert line("fit", "--bank", "my bank") == "featbank fit --bank 'my bank'"


def test_layers_worth_trying_end_resolutions_or_part_a_transformer() -> None:
    efficient = {
        "penultimate": (1280,), "conv_stem": (32, 112, 112), "blocks": (320, 7, 7),
        **{f"blocks.{i}": (width, side, side) for i, (width, side) in enumerate(
            [(16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7)])},
        **{f"blocks.{i}.0": (8, 7, 7) for i in range(6)},
        "conv_head": (1280, 7, 7), "global_pool": (1280,), "classifier": (1000,),
    }  # fmt: skip
    assert earlier_layers(efficient) == ["blocks.3", "blocks.4", "blocks.5"]
    transformer = {
        "penultimate": (192,), "patch_embed": (196, 192), "pos_drop": (197, 192),
        "blocks": (197, 192), **{f"blocks.{i}": (197, 192) for i in range(12)},
        "norm": (197, 192), "head": (1000,),
    }  # fmt: skip
    assert earlier_layers(transformer) == ["blocks.2", "blocks.5", "blocks.8"]
    assert earlier_layers({"penultimate": (8,), "fc": (3,)}) == []
