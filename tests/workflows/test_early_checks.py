"""Options that no images, features or fits are needed for are refused before any of them.

Spies stand where networks are built, files are read, features are read and heads are fitted; a
refused option may have passed none of them but those that a command says it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MODEL, Tour, run

NETWORK, READ, FEATURES, FIT = "network", "read", "features", "fit"
SPIED = (
    ("featbank.backbones.resolution", "build", NETWORK),
    ("featbank.data.digests", "read_bytes", READ),
    ("featbank.workflows.gather", "read_bytes", READ),
    ("featbank.bank.rows", "Rows.read", FEATURES),
    ("featbank.evaluation.crossval", "run", FIT),
    ("featbank.evaluation.curves.run", "run", FIT),
    ("featbank.workflows.comparison.table", "run_apart", FIT),
)


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []

    def spied(true: Callable[..., Any], what: str) -> Callable[..., Any]:
        def spy(*args: Any, **options: Any) -> Any:
            events.append(what)
            return true(*args, **options)

        return spy

    for module, name, what in SPIED:
        owner: Any = importlib.import_module(module)
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        monkeypatch.setattr(owner, last, spied(getattr(owner, last), what))
    return events


COMMON = [
    (("--head", "nope"), "no head 'nope'"),
    (("--cv", "2.5"), "not 2.5"),
    (("--split", "rnadom:1"), "no split 'rnadom'"),
    (("--split", "random:70/50"), "sum to 120"),
    (("--positive", "a>>b"), "positive is"),
    (("--classes", "zebra"), "no image has the label 'zebra'"),
    (("--layers", "nope"), "nope"),
]
PARAMETERS = [(("--set", "D=1"), "takes no 'D'")]
CHOICES = [(("--scoring", "beauty"), "'beauty'"), (("--class-weight", "zebra=1"), "zebra")]


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        *(("fit", *one) for one in (*COMMON, *PARAMETERS, *CHOICES)),
        *(("curve", *one) for one in (*COMMON, *PARAMETERS, *CHOICES)),
        *(("select", *one) for one in (*COMMON, *PARAMETERS)),
        *(("advise", *one) for one in COMMON),
        *(("compare", *one) for one in (*COMMON, *CHOICES)),
        ("fit", ("--repeats", "0"), "repeats is at least 1"),
        ("fit", ("--threshold", "f2"), "threshold"),
        ("fit", ("--near-duplicates", "2"), "cosine"),
        ("fit", ("--label", "nope"), "no column 'nope'"),
        ("fit", ("--sample-weight", "nope"), "no column 'nope'"),
        ("curve", ("--sizes", "0"), "1 or more"),
        ("curve", ("--draws", "1"), "at least 2"),
        ("curve", ("--worth", "2"), "between 0 and 1"),
        ("select", ("--cost", "--join", "nope+penultimate"), "no features 'nope'"),
        ("compare", ("--finetune", "head:epochs=1", "--scoring", "beauty"), "'beauty'"),
    ],
)
def test_options_about_heads_and_labels_are_refused_before_features_are_read(
    command: str, words: tuple[str, ...], said: str, tour: Tour, happened: list[str]
) -> None:
    saving = ("--no-save",) if command == "fit" else ()
    answer = run(command, "--bank", tour.bank, *saving, *words, status=1)
    answer.is_one_message(said)
    assert happened == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cv", "2.5"), "not 2.5"),
        (("--repeats", "0"), "repeats is at least 1"),
        (("--split", "rnadom:1"), "no split 'rnadom'"),
        (("--positive", "a>>b"), "positive is"),
        (("--workers", "-1"), "workers is a number from 0 up"),
    ],
)
def test_fine_tuning_refuses_options_before_its_network(
    words: tuple[str, ...], said: str, tour: Tour, happened: list[str]
) -> None:
    answer = run("finetune", tour.data, *MODEL[:4], "--epochs", "1", *words, status=1)
    answer.is_one_message(said)
    assert happened == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--unfreeze", "nope"), "no layer 'nope'"),
        (("--device", "cuda:9"), "cuda"),
        (("--label", "nope"), "no column 'nope'"),
        (("--classes", "zebra"), "no image has the label 'zebra'"),
        (("--class-weight", "zebra=1"), "zebra"),
    ],
)
def test_fine_tuning_refuses_layers_and_labels_before_images_are_read(
    words: tuple[str, ...], said: str, tour: Tour, happened: list[str]
) -> None:
    answer = run("finetune", tour.data, *MODEL[:4], "--epochs", "1", *words, status=1)
    assert said in answer.err
    assert READ not in happened


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--layers", "nope,stage2"), "no layer 'nope'"), (("--device", "cuda:9"), "cuda")],
)
def test_an_extraction_refuses_layers_and_devices_before_it_reads_or_makes_anything(
    words: tuple[str, ...], said: str, tour: Tour, happened: list[str], tmp_path: Path
) -> None:
    bank = tmp_path / "bank"
    run("extract", tour.data, *MODEL, "--bank", bank, *words, status=1).is_one_message(said)
    assert happened == []
    assert not bank.exists()


def test_layers_that_the_bank_has_are_known_without_a_network(
    tour: Tour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("extract", tour.data, *MODEL, "--bank", tour.copy_bank(tmp_path), "--workers", "0")
    run(*words, "--layers", "stage2")

    def layer_names(*_: object) -> list[str]:
        raise AssertionError("the network was built")

    monkeypatch.setattr("featbank.backbones.registry.layer_names", layer_names)
    assert "0 computed" in run(*words, "--layers", "stage2,penultimate").out
