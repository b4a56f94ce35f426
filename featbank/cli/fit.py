"""The commands about heads: fit and predict."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    bank_option,
    columns_of,
    json_option,
    print_json,
    progress_bar,
    readable,
    run_options,
    shown,
    words_of,
)

if TYPE_CHECKING:
    from featbank.workflows.predict import PredictionResult


def _value(text: str) -> Any:
    """Read a parameter's value as a number, a list of numbers, a truth value, None or a word."""
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@click.command()
@bank_option
@click.option(
    "--head",
    "heads",
    multiple=True,
    default=["svm"],
    metavar="NAME",
    help="May be repeated, or several separated by commas. --list-heads tells which there are.",
)
@click.option("--list-heads", is_flag=True, help="List the heads and end.")
@click.option("--recipe", metavar="NAME", help="Which backbone, if the bank has several.")
@click.option("--layers", metavar="L,...", help="Which layers, if there are several; joined.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source.")
@click.option("--label", metavar="COLUMN", help="The table's column that is the label.")
@click.option("--classes", metavar="A,B,...", help="Only these classes.")
@click.option("--exclude", metavar="A,B,...", help="Not these classes.")
@click.option(
    "--split",
    metavar="SPEC",
    help="random:70/15/15, first:60/10, kfold:5, group:80/20, or none; by default the index's own.",
)
@click.option(
    "--cv", type=float, metavar="K", help="Folds (5), or below 1 the share held out in each repeat."
)
@click.option(
    "--repeats",
    type=int,
    metavar="N",
    default=1,
    show_default=True,
    help="Times folds are redrawn.",
)
@click.option(
    "--tune/--no-tune", default=True, show_default=True, help="Choose settings inside each fold."
)
@click.option("--set", "params", multiple=True, metavar="NAME=VALUE", help="A head's parameter.")
@click.option(
    "--class-weight", type=click.Choice(["balanced"]), help="Weigh classes by their rarity."
)
@click.option("--calibrate", is_flag=True, help="Give every head probabilities (Platt).")
@click.option(
    "--scoring",
    metavar="NAME",
    default="accuracy",
    show_default=True,
    help="What settings are chosen by.",
)
@click.option(
    "--seed", type=int, metavar="N", default=0, show_default=True, help="Of folds and heads."
)
@click.option(
    "--jobs",
    type=int,
    metavar="N",
    default=-1,
    help="Fits at the same time; by default one a core.",
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
    as_json: bool,
    details: bool,
    no_save: bool,
    **options: Any,
) -> None:
    """Score heads on the bank's features, fit them, and save them.

    Scores come from stratified 5-fold cross-validation, with settings chosen inside each fold; or
    from the index's own splits, where it has any. What is saved is fitted on all images that no
    split reserves.
    """
    from featbank.workflows.fit import fit as workflow

    if list_heads:
        from featbank.heads.registry import list_heads as heads_there_are

        known = heads_there_are()
        if as_json:
            print_json({"heads": [{"head": name, "description": known[name]} for name in known]})
        else:
            click.echo(columns_of(list(known.items())))
        return
    names = [name for text in heads for name in words_of(text) or []]
    cv = options.pop("cv")
    with progress_bar("fitting", "fit") as progress:
        result = workflow(
            bank,
            names,
            source=list(sources) or None,
            classes=words_of(options.pop("classes")),
            exclude=words_of(options.pop("exclude")) or (),
            params=_parameters(params),
            cv=int(cv) if cv is not None and cv.is_integer() else cv,
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
    for head in result.heads:
        if head.classifier:
            click.echo(f"saved {shown(head.classifier)}")


def _parameters(texts: tuple[str, ...]) -> dict[str, Any] | None:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"write --set NAME=VALUE, not {text!r}.")
        found[name.strip()] = _value(value.strip())
    return found or None


@click.command()
@click.argument("classifier")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--top", type=int, metavar="K", default=5, show_default=True, help="Classes told of each image."
)
@click.option(
    "--csv",
    "table",
    metavar="FILE",
    help="Write a table: file_name, id (the class), and more if asked; - for standard output.",
)
@click.option("--probabilities", is_flag=True, help="Probabilities of all classes in the CSV.")
@click.option("--bank", metavar="PATH", help="A bank as cache for features.")
@click.option("--weights", metavar="FILE", help="The backbone's weights, if they moved.")
@click.option("--trust", multiple=True, metavar="MODULE.CLASS", help="A type the file may hold.")
@run_options
@json_option
def predict(
    classifier: str,
    images: tuple[str, ...],
    *,
    top: int,
    table: str | None,
    probabilities: bool,
    as_json: bool,
    workers: int | None,
    batch_size: int | None,
    device: str,
    **options: Any,
) -> None:
    """Classify IMAGES, files or folders, with a saved CLASSIFIER.

    It embeds them with the classifier's own recipe, and refuses other weights. Images that can't
    be read are listed; only if none can be read is the exit status 1.
    """
    from featbank import durable
    from featbank.classifier import Classifier
    from featbank.errors import ClassifierError
    from featbank.extraction.allocator import keep_large_blocks
    from featbank.workflows.extract import run_settings
    from featbank.workflows.predict import predict as workflow

    keep_large_blocks()
    if as_json and table == "-":
        raise click.UsageError("--json and --csv - both write to standard output; choose one.")
    if probabilities and not table:
        raise click.UsageError("--probabilities belongs to --csv.")
    if top < 1:
        raise click.UsageError("--top is 1 or more.")
    if table is not None:
        _check_folder(table)
    opened = Classifier.load(classifier, trust=options.pop("trust"), plain=True)
    for note in opened.notes:
        click.echo(f"note: {note}", err=True)
    if probabilities and not hasattr(opened.head, "predict_proba"):
        raise ClassifierError("this classifier gives no probabilities; fit it with --calibrate.")
    with progress_bar("embedding", "img") as progress:
        result = workflow(
            opened,
            list(images),
            top=len(opened.classes) if probabilities else top,
            settings=run_settings(workers=workers, batch_size=batch_size, device=device),
            progress=progress,
            **options,
        )
    if table == "-":
        click.echo(_table(result, probabilities=probabilities), nl=False)
    elif table:
        durable.write_file(table, _table(result, probabilities=probabilities).encode())
        count = len(result.predictions)
        click.echo(f"{count} prediction{'s' * (count != 1)} in {shown(table)}", err=True)
    if as_json:
        print_json(result.to_dict())
    elif not table:
        for one in result.predictions:
            told = []
            for guess in one.top[:top]:
                value = guess.score if guess.probability is None else guess.probability
                told.append(guess.label if value is None else f"{guess.label} {value:.3f}")
            click.echo(f"{shown(one.path)}  {', '.join(told)}")
    for path, reason in result.failed:
        click.echo(f"can't read {shown(path)}: {reason}", err=True)
    if not result.predictions:
        raise SystemExit(1)


def _check_folder(table: str) -> None:
    """Find out before the images are embedded, not after."""
    if table == "-":
        return
    from featbank.errors import DataError

    folder = os.path.dirname(table) or "."
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder} to write {table} in; make it first.")
    if os.path.isdir(table):
        raise DataError(f"{table} is a folder; name a file after --csv.")


def _table(result: PredictionResult, *, probabilities: bool) -> str:
    """Return the CSV: names without folders, unless two images would then bear the same."""
    import csv
    import io

    classes = result.classifier.classes
    names = [os.path.basename(one.path) for one in result.predictions]
    if len(set(names)) < len(names):
        names = [one.path for one in result.predictions]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file_name", "id", *(classes if probabilities else ())])
    for name, one in zip(names, result.predictions, strict=True):
        row: list[Any] = [readable(name), readable(one.label)]
        if probabilities:
            of = {guess.label: guess.probability for guess in one.top}
            row += [f"{of[name]:.6f}" for name in classes]
        writer.writerow(row)
    return text.getvalue()
