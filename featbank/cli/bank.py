"""The commands about a bank itself: info, verify, repair, prune."""

from __future__ import annotations

from typing import Any

import click

from featbank.cli.options import (
    bank_option,
    columns_of,
    json_option,
    print_json,
    progress_bar,
    shown,
)


@click.command()
@bank_option
@click.option("--errors", is_flag=True, help="List the images that could not be read.")
@json_option
def info(*, bank: str, errors: bool, as_json: bool) -> None:
    """Say what a bank holds."""
    from featbank.bank.bank import Bank
    from featbank.workflows.info import info as look
    from featbank.workflows.moves import note_on_missing, replacing_line

    found = look(bank)
    if as_json:
        print_json(found.to_dict())
        return
    if errors:
        for path, reason in found.errors:
            click.echo(f"{shown(path)}: {reason}")
        count = len(found.errors)
        click.echo(f"{count} image{'s' * (count != 1)} could not be read", err=True)
        return
    click.echo(f"bank {shown(found.path)}, {found.bytes / 1e6:.1f} MB")
    if found.unfinished is not None:
        click.echo(
            f"an extraction into it has not ended; what that has sealed is in "
            f"{shown(found.unfinished)}",
            err=True,
        )
    noun = "copy" if found.copies == 1 else "copies"
    copies = f" ({found.copies} {noun})" if found.copies else ""
    click.echo(
        f"{found.images} images{copies}, {found.labelled} labelled, {len(found.classes)} classes, "
        f"{len(found.errors)} not readable"
    )
    for source in found.sources:
        where = source["table"] or source["root"]
        click.echo(f"  source {shown(source['name'])}: {source['images']} images, {shown(where)}")
        if len(source["labels"]) > 1:
            click.echo(f"    columns {', '.join(map(shown, source['labels']))}")
    for recipe in found.recipes:
        click.echo(f"  recipe {recipe['name']}: {recipe['rows']} rows, {recipe['shards']} shards")
        click.echo(f"    {_recipe_in_words(recipe['recipe'])}")
        for column in recipe["columns"]:
            click.echo(f"    {shown(column['name'])}: {_size_of(column)}")
    _say_commands(found.commands)
    for made in found.made_splits:
        parts = ", ".join(f"{shown(name)} {count}" for name, count in made["images"].items())
        seed = f", seed {made['seed']}" if made["seed"] else ""
        click.echo(f"  made split {shown(made['spec'])} by {shown(made['label'])}{seed}: {parts}")
    for title, counts in (("split", found.splits), ("class", found.classes)):
        if counts:
            rows = [(title, "images"), *((shown(name), str(n)) for name, n in counts.items())]
            click.echo(columns_of(rows, right=(1,)))
    again = replacing_line(Bank(found.path), found.missing_sources)
    note = note_on_missing(found.missing_sources, found.path, again=again)
    if note is not None:
        click.echo(f"note: {note}", err=True)


def _size_of(column: dict[str, Any]) -> str:
    """Say how many rows a column has, and how many images lack it."""
    size = f"{column['rows']} x {column['width']}" if column["rows"] else "no rows"
    asked = column["images"] + column["missing"]
    lacking = f"; {column['missing']} of {asked} images lack it" if column["missing"] else ""
    return f"{size}, {column['images']} images have it{lacking}"


def _say_missing(missing: dict[str, dict[str, int]], indent: str) -> None:
    for slug, columns in missing.items():
        for name, count in columns.items():
            images = f"{count} image{'s' * (count != 1)}"
            click.echo(f"{indent}{shown(slug)}, {shown(name)}: {images}")


def _say_commands(commands: list[str]) -> None:
    """Say what computes again what is missing."""
    if commands:
        click.echo("To compute what is missing:")
    for command in commands:
        click.echo(f"  {shown(command)}")


def _recipe_in_words(recipe: dict[str, Any]) -> str:
    """Say what tells a recipe from others of its backbone."""
    steps = recipe["preprocess"]

    def size(value: Any) -> str:
        return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    how = {"squash": "squashed to", "long": "long side", "short": "short side"}
    words = [f"{recipe['source']}, weights {recipe['weights'][:12]}"]
    if steps["fit"] not in how:
        words.append("its own transform")
    else:
        if steps["resize"] is not None:
            words.append(f"{how[steps['fit']]} {size(steps['resize'])} {steps['interpolation']}")
        words.append(f"crop {size(steps['crop'])}")
    return ", ".join([*words, recipe["precision"]])


@click.command()
@bank_option
@json_option
def verify(*, bank: str, as_json: bool) -> None:
    """Compare every file of a bank with its digest."""
    from featbank.bank.bank import Bank
    from featbank.bank.maintenance import verify as check
    from featbank.workflows.commandlines import commands_for

    found = check(Bank(bank))
    commands = commands_for(bank, found.coverage)
    if as_json:
        print_json(
            {
                "ok": found.ok,
                "shards": found.shards,
                "rows": found.rows,
                "damaged": list(found.damaged),
                "missing": found.missing,
                "commands": commands,
            }
        )
    else:
        word = "clean" if found.ok else f"{len(found.damaged)} damaged"
        click.echo(f"{found.shards} shards, {found.rows} rows: {word}")
        for sentence in found.damaged:
            click.echo(f"  {shown(sentence)}", err=True)
        if found.missing:
            click.echo("columns that images lack, of what was extracted of them:")
            _say_missing(found.missing, "  ")
            _say_commands(commands)
    if not found.ok:
        raise SystemExit(1)


@click.command()
@bank_option
@json_option
def repair(*, bank: str, as_json: bool) -> None:
    """Set damaged files aside and rebuild what can be.

    Damaged files are moved into the bank's folder quarantine, and none is deleted. The index and
    the descriptions of recipes and sources are rebuilt; no feature is computed. Then `featbank
    extract` computes what was lost.
    """
    from featbank.bank.repair import repair as mend
    from featbank.workflows.commandlines import commands_for

    with progress_bar("hashing", "img") as progress:
        done = mend(bank, progress=progress)
    commands = commands_for(bank, done.coverage)
    if as_json:
        print_json(
            {
                "quarantined": list(done.quarantined),
                "index": done.index,
                "images": done.images,
                "to_compute": list(done.to_compute),
                "recipes": done.recipes,
                "columns": done.columns,
                "commands": commands,
                "notes": list(done.notes),
            }
        )
        return
    n = len(done.quarantined)
    click.echo(f"{n} damaged file{'s' * (n != 1)} set aside")
    for path in done.quarantined:
        click.echo(f"  {shown(path)}")
    click.echo(f"index {done.index}, {done.images} images")
    n = len(done.to_compute)
    again = "; run `featbank extract` again" if n and not commands else ""
    click.echo(f"{n} image{'s' * (n != 1)} to be computed{again}")
    unknown = {slug: n for slug, n in done.recipes.items() if slug not in done.columns}
    for name, count in unknown.items():
        click.echo(f"  {name}: {count}")
    _say_missing(done.columns, "  ")
    _say_commands(commands)
    for note in done.notes:
        click.echo(shown(note), err=True)


@click.command()
@bank_option
@click.option(
    "--recipe", "recipes", multiple=True, metavar="NAME", help="Remove this recipe, and only that."
)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME", help="Remove this source, and only that."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def prune(
    *,
    bank: str,
    recipes: tuple[str, ...],
    sources: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove features that nothing needs.

    Those of images that no source of the bank has any more (what predict and estimators added for
    other images goes too, and is computed again when it is wanted), rows that are there twice,
    and recipes without rows. With --recipe these recipes instead, whole. With --source these
    sources instead, with the features that no other source needs.
    """
    from featbank.bank.prune import prune as remove

    if recipes and sources:
        raise click.UsageError("--recipe and --source were given; prune one after the other.")
    done = remove(bank, recipes, sources=sources, dry_run=dry_run)
    if as_json:
        print_json(
            {
                "sources": list(done.sources),
                "images": done.images,
                "recipes": list(done.recipes),
                "rows": done.rows,
                "shards": done.shards,
                "bytes": done.bytes,
                "dry_run": dry_run,
            }
        )
        return
    word = "would go" if dry_run else "removed"
    if done.sources:
        names = ", ".join(map(shown, done.sources))
        which = "source" if len(done.sources) == 1 else "sources"
        click.echo(f"{which} {names} {word}: {done.images} images in the index")
    click.echo(f"{done.rows} rows {word}, {done.bytes / 1e6:.1f} MB")
    for name in done.recipes:
        click.echo(f"  recipe {shown(name)}: nothing left of it")
