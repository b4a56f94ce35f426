"""The command that advises."""

from __future__ import annotations

from typing import Any

import click

from featbank.cli.options import (
    bank_option,
    features_options,
    fits_options,
    folds_options,
    head_option,
    json_option,
    label_options,
    parameters_of,
    print_json,
    progress_bar,
    rows_options,
    set_option,
    words_of,
)
from featbank.cli.sections import Sectioned


@click.command(
    cls=Sectioned,
    sections={
        "Head": "head tune params",
        "Features and labels": "bank recipe layers sources label positive classes exclude",
        "Scores": "split keep_copies group metric_weight cv repeats seed",
        "Running": "jobs",
        "Output": "as_json",
    },
)
@bank_option
@head_option("The head that layers are compared by.")
@click.option(
    "--tune/--no-tune", default=True, show_default=True, help="Choose settings inside each fold."
)
@features_options
@label_options
@rows_options
@folds_options
@set_option
@fits_options
@json_option
def advise(*, bank: str, head: str, as_json: bool, **options: Any) -> None:
    """Recommend a head on frozen features, or fine-tuning, by what the features say.

    Many images or few, like those that the network was trained on or not: both are measured, and
    decide by stated thresholds. The recommendation comes with its figures and with commands.
    """
    from featbank.workflows.advise import advise as workflow

    with progress_bar("measuring", "step") as progress:
        found = workflow(
            bank,
            head,
            source=list(options.pop("sources")) or None,
            classes=words_of(options.pop("classes")),
            exclude=words_of(options.pop("exclude")) or (),
            params=parameters_of(options.pop("params")),
            random_state=options.pop("seed"),
            n_jobs=options.pop("jobs"),
            progress=progress,
            **options,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(found.table())
