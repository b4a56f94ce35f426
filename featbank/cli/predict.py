"""The command about a saved classifier: predict."""

from __future__ import annotations

from typing import Any

import click

from featbank.cli.options import (
    json_option,
    print_json,
    progress_bar,
    run_options,
    shown,
)
from featbank.errors import readable


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

    It embeds them with the classifier's own recipe, and refuses other weights; a fine-tuned
    classifier (.safetensors) brings its network. Images that can't
    be read are listed; only if none can be read is the exit status 1.
    """
    from featbank.errors import ClassifierError
    from featbank.extraction.allocator import keep_large_blocks
    from featbank.workflows.extract import run_settings
    from featbank.workflows.predict import load_classifier
    from featbank.workflows.predict import predict as workflow
    from featbank.workflows.predictions import check_table

    keep_large_blocks()
    if as_json and table == "-":
        raise click.UsageError("--json and --csv - both write to standard output; choose one.")
    if probabilities and not table:
        raise click.UsageError("--probabilities belongs to --csv.")
    if top < 1:
        raise click.UsageError("--top is 1 or more.")
    if table is not None and table != "-":
        check_table(table)
    opened = load_classifier(classifier, trust=options.pop("trust"))
    for note in opened.notes:
        click.echo(f"note: {note}", err=True)
    if probabilities and not opened.probabilistic:
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
        click.echo(result.csv(probabilities=probabilities), nl=False)
    elif table:
        result.write_csv(table, probabilities=probabilities)
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
            own = "" if one.labels is None else f"{readable(';'.join(one.labels) or 'no label')}  "
            click.echo(f"{shown(one.path)}  {own}{', '.join(told)}")
    for path, reason in result.failed:
        click.echo(f"can't read {shown(path)}: {reason}", err=True)
    if not result.predictions:
        raise SystemExit(1)
