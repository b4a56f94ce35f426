"""The commands that choose: curve and select."""

from __future__ import annotations

from typing import Any

import click

from featbank.cli.options import (
    averaged_option,
    bank_option,
    class_weight_of,
    combined_options,
    features_options,
    fits_options,
    folds_options,
    head_option,
    heads_option,
    json_option,
    label_options,
    parameters_of,
    print_json,
    progress_bar,
    rows_options,
    set_option,
    shown,
    words_of,
    write_figures,
)
from featbank.cli.sections import Sectioned


def _words(options: dict[str, Any]) -> dict[str, Any]:
    """Bring the shared options to the words of the workflows."""
    return {
        "source": list(options.pop("sources")) or None,
        "classes": words_of(options.pop("classes")),
        "exclude": words_of(options.pop("exclude")) or (),
        "params": parameters_of(options.pop("params")),
        "random_state": options.pop("seed"),
        "n_jobs": options.pop("jobs"),
        **options,
    }


@click.command(
    cls=Sectioned,
    sections={
        "Heads": "heads tune params scoring class_weight",
        "Features and labels": "bank recipe layers views combine sources label positive classes "
        "exclude",
        "Draws and scores": "sizes draws uneven split keep_copies group metric_weight cv "
        "near_duplicates metric worth seed",
        "Running": "jobs",
        "Output": "table as_json",
    },
)
@bank_option
@heads_option("Heads to draw a curve for.")
@features_options
@combined_options
@label_options
@rows_options
@click.option(
    "--sizes", metavar="N,...", help="Labels a class; by default 1, 2, 4, ... up to 1024."
)
@click.option(
    "--draws",
    type=int,
    metavar="N",
    default=10,
    show_default=True,
    help="Draws of each size.",
)
@click.option(
    "--uneven", is_flag=True, help="Go on beyond the smallest class, which gives all it has."
)
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "balanced_accuracy"]),
    default="accuracy",
    show_default=True,
    help="What is told.",
)
@click.option(
    "--worth",
    type=float,
    metavar="SHARE",
    default=0.01,
    show_default=True,
    help="The gain of doubling below which more labels don't pay.",
)
@click.option(
    "--cv",
    type=float,
    metavar="K",
    help="Folds (5) that are drawn from and scored on, or below 1 the share held out.",
)
@click.option(
    "--near-duplicates",
    type=float,
    metavar="COSINE",
    help="Keep images together whose features are as alike as this, such as 0.98.",
)
@click.option(
    "--tune/--no-tune", default=True, show_default=True, help="Choose settings inside each draw."
)
@click.option(
    "--class-weight",
    metavar="CLASS=W,...",
    help='"balanced" weighs classes by their rarity; others have 1.',
)
@click.option(
    "--scoring",
    metavar="NAME",
    default="accuracy",
    show_default=True,
    help="What settings are chosen by.",
)
@set_option
@fits_options
@click.option("--csv", "table", metavar="FILE", help="Write the curves as a table.")
@json_option
def curve(
    *,
    bank: str,
    heads: tuple[str, ...],
    sizes: str | None,
    class_weight: str | None,
    table: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell what more labels would bring: scores at 1, 2, 4, ... labels a class.

    Each size is drawn several times from training parts and scored on the rest. A law through the
    points says what doubling the labels once more should bring.
    """
    from featbank.targets import prepare_target
    from featbank.workflows.curve import curve as workflow

    if table is not None:
        prepare_target(table)
    names = [name for text in heads for name in words_of(text) or []]
    with progress_bar("fitting", "fit") as progress:
        result = workflow(
            bank,
            names,
            sizes=_numbers(sizes),
            class_weight=class_weight_of(class_weight),
            progress=progress,
            **_words(options),
        )
    if table is not None:
        write_figures(table, result.rows())
    if as_json:
        print_json(result.to_dict())
        return
    click.echo(result.table())
    if table is not None:
        click.echo(f"table in {shown(table)}")


@click.command(
    cls=Sectioned,
    sections={
        "Head": "head params",
        "Features and labels": "bank recipe layers views sources label positive classes exclude",
        "Ranking": "joins cost split keep_copies group metric_weight cv repeats seed",
        "Running": "jobs",
        "Output": "as_json",
    },
)
@bank_option
@head_option("The head that ranks; not tuned.")
@features_options
@averaged_option
@label_options
@rows_options
@click.option(
    "--join",
    "joins",
    multiple=True,
    metavar="A+B",
    help="Also rank these features joined, or all of them (all). May be repeated.",
)
@click.option("--cost", is_flag=True, help="Measure what each layer costs its network.")
@folds_options
@set_option
@fits_options
@json_option
def select(*, bank: str, head: str, joins: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Rank all layers and backbones of the bank on the same folds.

    The first of many is first by chance too: the ranking ends with the score of choosing inside
    each training part.
    """
    from featbank.workflows.select import select as workflow

    with progress_bar("ranking", "set") as progress:
        result = workflow(
            bank,
            head,
            join=["all" if text == "all" else _parts(text) for text in joins],
            progress=progress,
            **_words(options),
        )
    if as_json:
        print_json(result.to_dict())
    else:
        click.echo(result.table())


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("+")]


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(word) for word in words_of(text) or []]
    except ValueError as error:
        raise click.BadParameter(f"write --sizes 1,10,100, not {text!r}.") from error
