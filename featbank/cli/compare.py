"""The command that compares: frozen features, fine-tuning and training from scratch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    bank_option,
    class_weight_of,
    folds_options,
    heads_option,
    json_option,
    label_options,
    print_json,
    rows_options,
    shown,
    words_of,
    write_figures,
)
from featbank.cli.sections import Sectioned

if TYPE_CHECKING:
    from featbank.workflows.comparison.table import RowProgress

__all__ = ["compare"]


@click.command(
    cls=Sectioned,
    sections={
        "Rows": "heads layers recipes finetune scratch",
        "Heads": "tune class_weight scoring",
        "Training": "max_seconds device workers",
        "Images and labels": "bank sources label positive classes exclude",
        "Scores": "split keep_copies group metric_weight cv repeats seed",
        "Running": "cache fresh",
        "Output": "table markdown as_json",
    },
)
@bank_option
@heads_option("Heads on frozen features, a row each; none for no frozen rows.")
@click.option(
    "--layers",
    multiple=True,
    metavar="L,...",
    help="Layers that are joined, if the bank has several. Each use is a set with rows of its own.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="Which backbone, if the bank has several. May be repeated.",
)
@click.option(
    "--finetune",
    multiple=True,
    metavar="SPEC",
    help="Also train the (first) recipe's network: head, last (the last stage too), full, or lp-ft "
    "(from a linear probe, all at a low rate); with other settings last:epochs=3,lr=0.01, with a "
    "title quick=last:epochs=3. May be repeated.",
)
@click.option(
    "--scratch",
    multiple=True,
    metavar="MODEL[,WORD=VALUE]",
    help="Also train a network from random weights: small-cnn-3,epochs=20. May be repeated.",
)
@click.option(
    "--tune/--no-tune", default=True, show_default=True, help="Choose settings inside each fold."
)
@click.option(
    "--class-weight",
    metavar="CLASS=W,...",
    help='Of heads; "balanced" weighs classes by their rarity, others have 1.',
)
@click.option(
    "--scoring",
    metavar="NAME",
    default="accuracy",
    show_default=True,
    help="What settings are chosen by.",
)
@click.option(
    "--max-seconds",
    type=float,
    metavar="S",
    help="For each row that trains a network, spread over its folds.",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, mps."
)
@click.option("--workers", type=int, metavar="N", help="Processes that decode for training.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source.")
@label_options
@rows_options
@folds_options
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Of folds, heads and trainings.",
)
@click.option("--cache", metavar="DIR", help="Where rows are kept; by default in the user's cache.")
@click.option("--fresh", is_flag=True, help="Compute every row again.")
@click.option("--csv", "table", metavar="FILE", help="Write the rows as a table.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@json_option
def compare(
    *,
    bank: str,
    heads: tuple[str, ...],
    layers: tuple[str, ...],
    recipes: tuple[str, ...],
    sources: tuple[str, ...],
    table: str | None,
    markdown: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare frozen features, fine-tuning and training from scratch, on identical folds.

    \b
      featbank compare --head logreg,svm --finetune last --scratch small-cnn-3

    Every row is scored on the same images, with what it costs beside it, and is kept: a longer
    table later computes its new rows alone, and an interrupted one goes on where it was.
    """  # noqa: D301  (click's mark for lines that stay as they are)
    from featbank.targets import prepare_target
    from featbank.workflows.compare import compare as workflow

    if markdown and as_json:
        raise click.UsageError("choose one of --markdown and --json.")
    if table is not None:
        prepare_target(table)
    names = [name for text in heads for name in words_of(text) or []]
    with _progress() as progress:
        try:
            result = workflow(
                bank,
                [] if names == ["none"] else names,
                layers=list(layers) or None,
                recipe=list(recipes) or None,
                source=list(sources) or None,
                classes=words_of(options.pop("classes")),
                exclude=words_of(options.pop("exclude")) or (),
                class_weight=class_weight_of(options.pop("class_weight")),
                random_state=options.pop("seed"),
                progress=progress,
                **options,
            )
        except KeyboardInterrupt:
            click.echo("\nFinished rows are kept; the same command goes on.", err=True)
            raise
    if table is not None:
        records = result.records()
        write_figures(table, [list(records[0]), *(list(one.values()) for one in records)])
    if as_json:
        print_json(result.to_dict())
        return
    click.echo(result.markdown() if markdown else result.table())
    if table is not None:
        click.echo(f"table in {shown(table)}", err=markdown)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[RowProgress], None] | None]:
    """Show which row is computed, and how far it is, on standard error, if it is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="row", leave=False, file=sys.stderr) as bar:

        def update(at: RowProgress) -> None:
            bar.total = at.rows
            bar.set_description_str(at.name, refresh=False)
            bar.set_postfix_str(at.words, refresh=False)
            bar.update(at.done - bar.n)
            bar.refresh()

        yield update
