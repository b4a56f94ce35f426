"""The commands that look at sources: extract and status."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    bank_option,
    columns_of,
    json_option,
    model_options,
    model_words,
    print_json,
    progress_bar,
    run_options,
    shown,
    source_options,
    source_words,
    typed_again,
    views_option,
)
from featbank.data.formats import HEIF_EXTENSIONS, NEEDS_HEIF

if TYPE_CHECKING:
    from featbank.workflows.contents import Contents, NotRead
    from featbank.workflows.extract import ExtractionResult
    from featbank.workflows.moves import MissingSource

FEW = 5
CLASSES = 8
KINDS = 6
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
@click.option(
    "--replace",
    is_flag=True,
    help="Put SOURCES in the place of sources that moved here.",
)
@source_options
@json_option
def extract(sources: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Embed every image of SOURCES once, into the bank.

    A source is a folder with one subfolder a class, a folder with train, valid and test, a folder
    of images, or a CSV or TSV file. What the bank has is not computed again.
    """
    from featbank.extraction.allocator import keep_large_blocks
    from featbank.workflows import extract as workflow
    from featbank.workflows.survey import open_sources_of

    keep_large_blocks()
    opened = open_sources_of(options["bank"], sources, **source_words(options))
    words = model_words(options)
    name, bank = options.pop("model"), options.pop("bank")
    columns = workflow.parse_columns(
        options.pop("layers"), options.pop("dtype"), views=options.pop("views")
    )
    choices = {choice: options.pop(choice) for choice in ("retry_failed", "paranoid", "replace")}
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
                "startup_seconds": result.startup,
                "images_per_second": result.images_per_second,
                "busy": result.busy,
                "errors": [{"path": path, "reason": reason} for path, reason in result.errors],
                **result.contents.to_dict(),
                "missing_sources": [one.to_dict() for one in result.missing],
                "replaced": [one.to_dict() for one in result.replaced],
            }
        )
    else:
        _say(result)
    _say_missing(result.missing, bank)
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


def _understood(contents: Contents) -> Iterator[tuple[str, str]]:
    """Yield what was understood of the sources, as lines with a word in front."""
    if contents.classes:
        yield "classes", _classes(contents.classes)
    if contents.splits:
        splits = ", ".join(f"{shown(name)} {n:,}" for name, n in contents.splits.items())
        yield "splits", splits
    if contents.unlabelled or not contents.classes:
        yield "unlabelled", f"{contents.unlabelled:,} {_plural(contents.unlabelled, 'image')}"
    word = "ignored"
    for line in _ignored(contents.ignored):
        yield word, line
        word = ""


def _classes(counts: dict[str, int]) -> str:
    """Name the classes; of many the largest ones, and the range of the others' counts."""
    named = [f"{shown(name)} {n:,}" for name, n in counts.items()]
    if len(named) <= CLASSES:
        return ", ".join(named)
    others = list(counts.values())[FEW:]
    low, high = min(others), max(others)
    each = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
    return f"{len(named)}: {', '.join(named[:FEW])} and {len(others):,} others of {each}"


def _ignored(ignored: NotRead) -> Iterator[str]:
    """Yield one line for each kind of things that were passed over, and what takes them."""
    if ignored.formats:
        kinds = list(ignored.formats.items())
        words = [
            f"{n:,} {shown(extension) or 'without an extension'}" for extension, n in kinds[:KINDS]
        ]
        if len(kinds) > KINDS:
            words.append(
                f"{sum(n for _, n in kinds[KINDS:]):,} of {len(kinds) - KINDS} other kinds"
            )
        yield ", ".join(words)
        heif = sum(ignored.formats.get(extension, 0) for extension in HEIF_EXTENSIONS)
        if heif:
            yield f"HEIC: {NEEDS_HEIF}"
    if ignored.images:
        n, least = ignored.images, "at least " if ignored.not_looked_into else ""
        yield (
            f"{least}{n:,} {_plural(n, 'image')} by the bytes, not by the name, such as "
            f"{shown(ignored.examples[0])}: rename with an extension"
        )
    if ignored.pages:
        n, files = ignored.pages, ignored.paged_files
        yield (
            f"{n:,} further {_plural(n, 'page')} or {_plural(n, 'frame')} of {files:,} "
            f"{_plural(files, 'file')} not read: --pages all"
        )
    for n, thing, advice in (
        (ignored.outside_splits, "image", "outside the folders of the splits"),
        (ignored.linked_folders, "linked folder", "not followed: --follow-links"),
        (ignored.unlisted_folders, "folder", "that can't be listed: check the permissions"),
        (ignored.hidden, "hidden file or folder", "not read: --hidden"),
    ):
        if n:
            yield f"{n:,} {_plural(n, thing)} {advice}"


def _plural(n: int, thing: str) -> str:
    return thing if n == 1 else " or ".join(f"{word}s" for word in thing.split(" or "))


def _shares(busy: Mapping[str, float]) -> str:
    """Return what the time after start-up went into; the shares of a group of processes sum up."""
    kinds = list(busy)
    groups = {"": kinds}
    if "decoders waiting" in busy:
        groups = {"": kinds[:2], "decoders: ": kinds[2:]}
    return "; ".join(
        title + ", ".join(_percents({kind: busy[kind] for kind in own}))
        for title, own in groups.items()
    )


def _percents(shares: Mapping[str, float]) -> list[str]:
    """Return shares that sum to 1 as whole percents that sum to 100, the last kind last."""
    whole = {kind: int(100 * share) for kind, share in shares.items()}
    by_rest = sorted(shares, key=lambda kind: whole[kind] - 100 * shares[kind])
    for kind in by_rest[: 100 - sum(whole.values())]:
        whole[kind] += 1
    *work, last = shares
    work.sort(key=lambda kind: -shares[kind])
    return [f"{kind.rpartition(' ')[2]} {whole[kind]}%" for kind in (*work, last)]


def _say_missing(missing: Sequence[MissingSource], bank: str) -> None:
    """Say which sources of the bank are gone, and what to do."""
    from featbank.workflows.moves import note_on_missing

    if not missing:
        return
    note = note_on_missing(missing, bank, again=typed_again("extract", "--replace"))
    if note is not None:
        click.echo(f"note: {shown(note)}", err=True)


def _say(result: ExtractionResult) -> None:
    rate = ""
    if result.computed:
        rate = f"; start-up {result.startup:.1f} s, then {result.images_per_second:.0f} images/s"
        rate += ": " + _shares(result.busy) if result.busy else ""
    click.echo(
        f"{result.images} images: {result.computed} computed, {result.reused} reused, "
        f"{result.failed} failed ({result.seconds:.1f} s{rate})"
    )
    click.echo(f"bank {shown(result.bank.path)}, recipe {result.recipe.slug}")
    click.echo(columns_of(list(_understood(result.contents))))
    for one in result.replaced:
        place = shown(one.moved_to or "")
        click.echo(f"the source {shown(one.name)} moved from {shown(one.place)} to {place}")
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
    from featbank.workflows.survey import open_sources_of

    opened = open_sources_of(options["bank"], sources, **source_words(options))
    columns = workflow.parse_columns(
        options.pop("layers"), options.pop("dtype"), views=options.pop("views")
    )
    model = workflow.open_model(options.pop("model"), **model_words(options))
    found = look(options["bank"], opened, model, columns)
    _say_missing(found.missing_sources, options["bank"])
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(f"{found.images} images, {found.to_compute} to compute, {found.reused} reused")
    for word, paths in (
        ("new", found.new),
        ("changed", found.changed),
        ("renamed", found.renamed),
        ("copies of images that the bank knows", found.copied),
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
