from __future__ import annotations

import pytest

from featbank.cli import cli
from featbank.cli.sections import Sectioned
from tests.conftest import run

COMMANDS = sorted(cli.commands)


def test_the_group_lists_every_command_with_a_whole_sentence() -> None:
    help_text = run("--help").out

    for name in COMMANDS:
        assert f"\n  {name} " in help_text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_option(name: str) -> None:
    help_text = run(name, "-h").out

    assert help_text.startswith("Usage: ")
    for parameter in cli.commands[name].params:
        if parameter.param_type_name == "option":
            assert parameter.opts[-1] in help_text
            assert parameter.help, f"{parameter.opts} says nothing"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo"}))
def test_every_command_takes_json(name: str) -> None:
    assert "--json" in run(name, "-h").out


def test_the_version_is_told() -> None:
    import featbank

    assert run("--version").out == f"featbank, version {featbank.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("extractt",), "No such command 'extractt'"),
        (("extract",), "Missing argument 'SOURCES...'"),
        (("predict", "svm.skops"), "Missing argument 'IMAGES...'"),
        (("extract", "data", "--frobnicate"), "No such option"),
        (("extract", "data", "--workers", "many"), "'many' is not a valid integer"),
        (("extract", "data", "--on-error", "ignore"), "'ignore' is not one of 'skip', 'raise'"),
        (("predict", "a.skops", "b", "--probabilities"), "--probabilities requires --csv"),
        (("predict", "a.skops", "b", "--top", "0"), "--top is 1 or more"),
        (("models", "--layers"), "name the backbone"),
        (("fit", "--set", "C"), "write --set NAME=VALUE, not 'C'"),
    ],
)
def test_a_misused_command_is_a_usage_error(words: tuple[str, ...], said: str) -> None:
    assert said in run(*words, status=2).err


@pytest.mark.parametrize("name", ["fit", "curve", "select"])
def test_long_help_has_sections_that_name_every_option_once(name: str) -> None:
    command = cli.commands[name]
    assert isinstance(command, Sectioned)
    named = [word for words in command.sections.values() for word in words]
    assert sorted(named) == sorted(str(param.name) for param in command.params)
    lines = run(name, "--help").out.splitlines()
    assert [line[:-1] for line in lines if line.endswith(":") and line[0] != " "] == [
        *command.sections
    ]
    assert "--help" in lines[-1]


@pytest.mark.parametrize("name", ["fit", "curve", "compare", "select", "advise"])
def test_logreg_is_the_default_head_and_help_shows_it(name: str) -> None:
    import inspect

    import featbank
    from featbank.evaluation.final import fit_final

    help_text = " ".join(run(name, "--help").out.split())
    assert "[default: logreg]" in help_text
    functions = (getattr(featbank, name), featbank.cross_validate, fit_final)
    for function in (*functions, featbank.TransferClassifier):
        parameters = inspect.signature(function).parameters
        assert (parameters.get("head") or parameters["heads"]).default == "logreg"
