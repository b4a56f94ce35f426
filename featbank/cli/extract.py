"""The commands that look at sources: extract and status."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    bank_option,
    json_option,
    model_options,
    model_words,
    print_json,
    progress_bar,
    run_options,
    shown,
    source_options,
    source_words,
    views_option,
)

if TYPE_CHECKING:
    from featbank.workflows.extract import ExtractionResult

FEW = 5
MANY = 1000


@click.command()
@click.argument("sources", nargs=-1, required=True)
@model_options
@views_option
@bank_option
@run_options
@click.option(
    "--shard-rows",
    type=int,
    metavar="N",
    default=1024,
    show_default=True,
    help="Rows sealed at once.",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "raise"]),
    default="skip",
    show_default=True,
    help="What an image that can't be read does: goes to the ledger, or ends the run.",
)
@click.option("--retry-failed", is_flag=True, help="Try images again that could not be read.")
@click.option("--paranoid", is_flag=True, help="Read every file, whatever its times say.")
@source_options
@json_option
def extract(sources: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Embed every image of SOURCES once, into the bank.

    A source is a folder with one subfolder a class, a folder with train, valid and test, a folder
    of images, or a CSV or TSV file. What the bank has is not computed again.
    """
    from featbank.extraction.allocator import keep_large_blocks
    from featbank.workflows import extract as workflow
    from featbank.workflows.survey import open_sources

    keep_large_blocks()
    opened = open_sources(sources, **source_words(options))
    words = model_words(options)
    name, bank = options.pop("model"), options.pop("bank")
    columns = workflow.parse_columns(
        options.pop("layers"), options.pop("dtype"), views=options.pop("views")
    )
    choices = {choice: options.pop(choice) for choice in ("retry_failed", "paranoid")}
    settings = workflow.run_settings(**options)
    model = workflow.open_model(name, **words)  # last: this may take seconds
    with progress_bar("embedding", "img") as progress:
        try:
            result = workflow.extract_to(
                bank, opened, model, columns, settings=settings, progress=progress, **choices
            )
        except KeyboardInterrupt as interrupt:
            found = interrupt.args[0] if interrupt.args else None
            if isinstance(found, workflow.ExtractionResult):
                click.echo(
                    f"\n{found.computed} images computed and sealed, {found.remaining} remain; "
                    f"run the same command again to go on{_until_then(bank, found)}.",
                    err=True,
                )
            raise
    if as_json:
        print_json(
            {
                "bank": result.bank.path,
                "recipe": result.recipe.slug,
                "images": result.images,
                "computed": result.computed,
                "reused": result.reused,
                "failed": result.failed,
                "seconds": result.seconds,
                "images_per_second": result.images_per_second,
                "busy": result.busy,
                "errors": [{"path": path, "reason": reason} for path, reason in result.errors],
            }
        )
    else:
        _say(result)
    if _lacks_openvino(result, settings.device):
        click.echo(
            "note: OpenVINO would run this network two to three times as fast: "
            "pip install 'featbank[openvino]'",
            err=True,
        )


def _lacks_openvino(result: ExtractionResult, device: str) -> bool:
    """Whether torch computed many features on a CPU that OpenVINO would have computed sooner."""
    from featbank.backbones import graph
    from featbank.backbones.device import likely_device

    return (
        result.computed >= MANY
        and result.recipe.source != "module"
        and result.recipe.runtime is None
        and not graph.available()
        and likely_device(device) == "cpu"
    )


def _until_then(bank: str, found: ExtractionResult) -> str:
    """Say where sealed features of an interrupted run lie, if it is not the bank itself."""
    if os.path.abspath(bank) == found.bank.path:
        return ""
    return f" (until then they lie in {shown(found.bank.path)})"


def _say(result: ExtractionResult) -> None:
    rate = f", {result.images_per_second:.0f} images/s" if result.computed else ""
    if rate and result.busy:
        shares = sorted(result.busy.items(), key=lambda item: -item[1])
        rate += "; " + ", ".join(f"{what} {share:.0%}" for what, share in shares)
    click.echo(
        f"{result.images} images: {result.computed} computed, {result.reused} reused, "
        f"{result.failed} failed ({result.seconds:.1f} s{rate})"
    )
    click.echo(f"bank {shown(result.bank.path)}, recipe {result.recipe.slug}")
    for path, reason in result.errors[:FEW]:
        click.echo(f"  can't read {shown(path)}: {reason}", err=True)
    if len(result.errors) > FEW:
        click.echo(
            f"  and {len(result.errors) - FEW} more: featbank info --errors lists them.", err=True
        )


@click.command()
@click.argument("sources", nargs=-1, required=True)
@model_options
@views_option
@bank_option
@source_options
@json_option
def status(sources: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Say what `featbank extract` would compute for SOURCES, and why."""
    from featbank.workflows import extract as workflow
    from featbank.workflows.status import status as look
    from featbank.workflows.survey import open_sources

    opened = open_sources(sources, **source_words(options))
    columns = workflow.parse_columns(
        options.pop("layers"), options.pop("dtype"), views=options.pop("views")
    )
    model = workflow.open_model(options.pop("model"), **model_words(options))
    found = look(options["bank"], opened, model, columns)
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(f"{found.images} images, {found.to_compute} to compute, {found.reused} reused")
    for word, paths in (
        ("new", found.new),
        ("changed", found.changed),
        ("renamed", found.renamed),
        ("removed", found.removed),
        ("failed before", [f"{path}: {reason}" for path, reason in found.failed]),
    ):
        if paths:
            click.echo(f"{len(paths)} {word}")
            for path in paths[:FEW]:
                click.echo(f"  {shown(path)}")
            if len(paths) > FEW:
                click.echo(f"  and {len(paths) - FEW} more (--json lists all)")
    if found.recipe_differs:
        other = "backbone" in found.recipe_differs
        click.echo(
            f"the bank has {'another backbone' if other else 'this backbone'} with another recipe, "
            "which differs in: " + ", ".join(found.recipe_differs)
        )
    if found.missing_columns and not found.recipe_differs:
        click.echo("columns to compute:")
        for name in found.missing_columns:
            click.echo(f"  {shown(name)}: {found.missing[name]} of {found.images} images")
