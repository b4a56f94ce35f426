from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.conftest import Tour, run

ADVISE = ("advise", "--head", "ridge", "--no-tune", "--cv", "2", "--jobs", "1")


def test_one_layer_says_what_it_leaves_open_and_which_command_brings_more(
    tour: Tour, tmp_path: Path
) -> None:
    bank = tour.copy_bank(tmp_path)
    found = run(*ADVISE, "--bank", bank, "--json").json

    assert (found["likeness"], found["last"]) == ("unknown", "penultimate")
    (extra,) = [c["line"] for c in found["commands"] if "extract" in c["line"]]
    assert "--layers stage2,stage3,stage4" in extra
    assert "--weights none --input-size 64" in extra
    assert run(*shlex.split(extra)[1:], "--workers", "0", "--json").json["computed"] == 15
    more = run(*ADVISE, "--bank", bank, "--json").json
    assert [one["layer"] for one in more["layers"]] == ["stage2", "stage3", "stage4", "penultimate"]
    assert more["likeness"] != "unknown"


def test_advice_is_a_table_a_recommendation_and_commands(tour: Tour) -> None:
    told = run(*ADVISE, "--bank", tour.bank)

    lines = told.out.splitlines()
    assert lines[3].split()[:3] == ["layer", "columns", "ridge"]
    first = next(i for i, row in enumerate(lines) if row.startswith("labels")) + 1
    assert [row.split()[0] for row in lines[first : first + 4]] == ["1/8", "1/4", "1/2", "all"]
    commands = [row for row in lines if row.startswith("featbank ")]
    assert commands
    assert all(lines[lines.index(command) - 1].startswith("# ") for command in commands)
    assert told.err == ""


def test_commands_run_as_they_stand(
    tour: Tour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(*ADVISE, "--bank", tour.bank, "--json").json
    for command in found["commands"]:
        words = shlex.split(command["line"])[1:]
        if words[0] in ("fit", "select"):
            run(*words, "--jobs", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--layers", "stage9"), "the bank has no column 'stage9'"),
        (("--head", "svn"), "did you mean svm"),
        (("--jobs", "0"), "n_jobs is 0"),
        (("--cv", "9"), "9 folds can't be had"),
    ],
)
def test_what_can_not_be_done_is_one_clear_message(
    words: tuple[str, ...], said: str, tour: Tour
) -> None:
    run("advise", "--bank", tour.bank, *words, status=1).is_one_message(said)
