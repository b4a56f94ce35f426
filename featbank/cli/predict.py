"""The command about a saved classifier: predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    json_option,
    print_json,
    progress_bar,
    run_options,
    shown,
)
from featbank.errors import readable

if TYPE_CHECKING:
    from featbank.classifier import Prediction


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
    help="Write path, label, probability and status; - for standard output.",
)
@click.option(
    "--csv-style",
    "style",
    type=click.Choice(["full", "kaggle"]),
    default="full",
    show_default=True,
    help="Columns of the CSV; kaggle: file_name and id.",
)
@click.option("--probabilities", is_flag=True, help="Add the probabilities of all classes.")
@click.option("--root", metavar="DIR", help="Folder that a table's paths are relative to.")
@click.option("--path-column", metavar="NAME", help="The table's column of the path.")
@click.option("--delimiter", metavar="CHAR", help="Delimiter of the table, if it is unusual.")
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
    style: str,
    probabilities: bool,
    path_column: str | None,
    as_json: bool,
    workers: int | None,
    batch_size: int | None,
    device: str,
    **options: Any,
) -> None:
    """Classify IMAGES with a saved CLASSIFIER.

    IMAGES are files, folders, and tables (.csv, .tsv) with a column of paths. They are embedded
    with the classifier's own recipe, and other weights are refused; a fine-tuned classifier
    (.safetensors) brings its network. Images that can't be read are listed; the exit status is 1
    only if none can be read.
    """
    from featbank.errors import ClassifierError
    from featbank.extraction.allocator import keep_large_blocks
    from featbank.targets import prepare_target
    from featbank.workflows.extract import run_settings
    from featbank.workflows.predict import load_classifier
    from featbank.workflows.predict import predict as workflow

    keep_large_blocks()
    if as_json and table == "-":
        raise click.UsageError("--json and --csv - both write to standard output; choose one.")
    if not table and (probabilities or style != "full"):
        word = "--probabilities" if probabilities else "--csv-style"
        raise click.UsageError(f"{word} requires --csv.")
    if top < 1:
        raise click.UsageError("--top is 1 or more.")
    if table is not None and table != "-":
        prepare_target(table)
    opened = load_classifier(classifier, trust=options.pop("trust"))
    for note in opened.notes:
        click.echo(f"note: {note}", err=True)
    if probabilities and not opened.probabilistic:
        raise ClassifierError(
            "this classifier gives no probabilities; fit it again without --no-calibrate."
        )
    with progress_bar("embedding", "img") as progress:
        result = workflow(
            opened,
            list(images),
            columns={} if path_column is None else {"path": path_column},
            top=len(opened.classes) if probabilities else top,
            settings=run_settings(workers=workers, batch_size=batch_size, device=device),
            progress=progress,
            **options,
        )
    if table:
        from featbank.evaluation.text import counted
    if table == "-":
        click.echo(result.csv(probabilities=probabilities, style=style), nl=False)
    elif table:
        result.write_csv(table, probabilities=probabilities, style=style)
        click.echo(f"{counted(len(result.predictions), 'prediction')} in {shown(table)}", err=True)
    if table and style == "kaggle" and result.failed:
        click.echo(
            f"note: {counted(len(result.failed), 'image')} could not be read and "
            f"{'has' if len(result.failed) == 1 else 'have'} no row in the table.",
            err=True,
        )
    if as_json:
        print_json(result.to_dict())
    elif not table:
        name = getattr(opened, "score_name", "")  # a tuned network has probabilities
        for one in result.predictions:
            told = [_guess(guess, name) for guess in one.top[:top]]
            own = "" if one.labels is None else f"{readable(';'.join(one.labels) or 'no label')}  "
            click.echo(f"{shown(one.path)}  {own}{', '.join(told)}")
    for path, reason in result.failed:
        click.echo(f"can't read {shown(path)}: {reason}", err=True)
    if not result.predictions:
        raise SystemExit(1)


def _guess(guess: Prediction, name: str) -> str:
    """Return a class with its probability, else with its score, which is named."""
    if guess.probability is not None:
        return f"{guess.label} {guess.probability:.3f}"
    return guess.label if guess.score is None else f"{guess.label} ({name} {guess.score:.2f})"
