"""The command about heads: fit."""

from __future__ import annotations

from typing import Any

import click

from featbank.cli.options import (
    bank_option,
    cheap_folds_options,
    class_weight_of,
    columns_of,
    combined_options,
    features_options,
    fits_options,
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
)
from featbank.cli.protocol import print_protocols, score_by_protocol
from featbank.cli.sections import Sectioned


@click.command(
    cls=Sectioned,
    sections={
        "Heads": "heads list_heads tune params scoring class_weight sample_weight calibrate "
        "no_calibrate threshold protocol list_protocols",
        "Features and labels": "bank recipe layers choose_layer views combine sources label "
        "positive multilabel classes exclude",
        "Scores": "split keep_copies group metric_weight cv repeats near_duplicates show_leak seed",
        "Running": "jobs device memory",
        "Output": "out no_save predictions details as_json",
    },
)
@bank_option
@heads_option("Heads to score and save. --list-heads lists them.")
@click.option("--list-heads", is_flag=True, help="List the heads and end.")
@click.option(
    "--protocol",
    metavar="NAME",
    help="Score by a published protocol instead. --list-protocols tells which there are.",
)
@click.option("--list-protocols", is_flag=True, help="List the protocols and end.")
@features_options
@click.option(
    "--choose-layer", is_flag=True, help="Choose one layer inside each fold, instead of joining."
)
@combined_options
@label_options
@click.option(
    "--multilabel",
    metavar="SIGN",
    is_flag=False,
    flag_value=";",
    help='Images have several labels, with this sign between; ";" if none is named.',
)
@rows_options
@cheap_folds_options
@click.option(
    "--tune/--no-tune", default=True, show_default=True, help="Choose settings inside each fold."
)
@set_option
@click.option(
    "--class-weight",
    metavar="CLASS=W,...",
    help='"balanced" weighs classes by their rarity; others have 1.',
)
@click.option(
    "--sample-weight", metavar="COLUMN", help="The table's column of images' weights in fitting."
)
@click.option(
    "--calibrate",
    type=click.Choice(["platt", "temperature"]),
    is_flag=False,
    flag_value="platt",
    help="Calibrate the probabilities of every head. Without it, only heads that have none get "
    "them, by a temperature.",
)
@click.option(
    "--no-calibrate", is_flag=True, help="Leave margins as they are, without probabilities."
)
@click.option(
    "--threshold",
    metavar="METRIC",
    help="Choose where two classes part inside each fold, by accuracy, balanced_accuracy, "
    "macro_f1, or f1 of the smaller class.",
)
@click.option(
    "--scoring",
    metavar="NAME",
    default="accuracy",
    show_default=True,
    help="What settings are chosen by.",
)
@click.option(
    "--near-duplicates",
    type=float,
    metavar="COSINE",
    help="Keep images together whose features are as alike as this, such as 0.98.",
)
@click.option(
    "--show-leak",
    is_flag=True,
    help="Also score folds that split groups and, with --keep-copies, identical images.",
)
@click.option(
    "--predictions", metavar="FILE.csv", help="Write what each image was taken for, with its path."
)
@fits_options
@click.option(
    "--device",
    metavar="NAME",
    help="cuda, cuda:1, mps or auto: where logreg, ridge, lda (svd) and mlp are fitted.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="What may be taken, such as 4GB; logreg and mlp read features that don't fit in blocks.",
)
@click.option(
    "--out", default=".", metavar="PATH", help="Folder for <head>.skops, or the one file's name."
)
@click.option("--no-save", is_flag=True, help="Score only.")
@click.option("--details", is_flag=True, help="Print classes and confusions too.")
@json_option
def fit(
    *,
    bank: str,
    heads: tuple[str, ...],
    sources: tuple[str, ...],
    params: tuple[str, ...],
    list_heads: bool,
    protocol: str | None,
    list_protocols: bool,
    as_json: bool,
    details: bool,
    no_save: bool,
    calibrate: str | None,
    no_calibrate: bool,
    **options: Any,
) -> None:
    """Score heads on the bank's features, fit them, and save them.

    Scores come from stratified 5-fold cross-validation, with settings chosen inside each fold; or
    from the index's own splits, where it has any. What is saved is fitted on all images that no
    split reserves.
    """
    import os

    if calibrate and no_calibrate:
        raise click.UsageError("--calibrate and --no-calibrate exclude each other; choose one.")
    if options["device"] is not None:
        os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scipy reads it once, when it is imported
    from featbank.workflows.fit import fit as workflow

    if list_heads:
        from featbank.heads.registry import list_heads as heads_there_are

        known = heads_there_are()
        if as_json:
            print_json({"heads": [{"head": name, "description": known[name]} for name in known]})
        else:
            click.echo(columns_of(list(known.items())))
        return
    if list_protocols:
        print_protocols(as_json=as_json)
        return
    if protocol is not None:
        options |= {"heads": heads, "sources": sources}
        score_by_protocol(protocol, bank=bank, as_json=as_json, details=details, **options)
        return
    names = [name for text in heads for name in words_of(text) or []]
    with progress_bar("fitting", "fit") as progress:
        result = workflow(
            bank,
            names,
            source=list(sources) or None,
            classes=words_of(options.pop("classes")),
            exclude=words_of(options.pop("exclude")) or (),
            params=parameters_of(params),
            class_weight=class_weight_of(options.pop("class_weight")),
            calibrate=False if no_calibrate else calibrate,
            random_state=options.pop("seed"),
            n_jobs=options.pop("jobs"),
            out=None if no_save else options["out"],
            progress=progress,
            **{name: value for name, value in options.items() if name != "out"},
        )
    if as_json:
        print_json(result.to_dict())
        return
    click.echo(result.table(details=details or len(result.heads) == 1))
    if options["predictions"]:
        click.echo(f"predictions in {shown(options['predictions'])}")
    for head in result.heads:
        if head.classifier:
            click.echo(f"saved {shown(head.classifier)}")
