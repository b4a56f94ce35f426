"""The commands about a bank itself: info, verify, compact."""

from __future__ import annotations

from typing import Any

import click

from featbank.cli.options import bank_option, columns_of, json_option, print_json, shown


@click.command()
@bank_option
@click.option("--errors", is_flag=True, help="List the images that could not be read.")
@json_option
def info(*, bank: str, errors: bool, as_json: bool) -> None:
    """Say what a bank holds."""
    from featbank.workflows.info import info as look

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
    click.echo(
        f"{found.images} images, {found.labelled} labelled, {len(found.classes)} classes, "
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
            click.echo(f"    {column['name']}: {column['rows']} x {column['width']}")
    for title, counts in (("split", found.splits), ("class", found.classes)):
        if counts:
            rows = [(title, "images"), *((shown(name), str(n)) for name, n in counts.items())]
            click.echo(columns_of(rows, right=(1,)))


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

    found = check(Bank(bank))
    if as_json:
        print_json(
            {
                "ok": found.ok,
                "shards": found.shards,
                "rows": found.rows,
                "damaged": list(found.damaged),
            }
        )
    else:
        word = "clean" if found.ok else f"{len(found.damaged)} damaged"
        click.echo(f"{found.shards} shards, {found.rows} rows: {word}")
        for sentence in found.damaged:
            click.echo(f"  {shown(sentence)}", err=True)
    if not found.ok:
        raise SystemExit(1)


@click.command()
@click.argument("target", required=False)
@bank_option
@json_option
def compact(*, target: str | None, bank: str, as_json: bool) -> None:
    """Write the bank as one plain HDF5 file, for sharing.

    Its name is TARGET, by default the bank's with .h5 behind it.
    """
    import os

    from featbank.bank.bank import Bank
    from featbank.bank.maintenance import compact as pack

    path = pack(Bank(bank), target)
    if as_json:
        print_json({"path": path, "bytes": os.path.getsize(path)})
    else:
        click.echo(f"{shown(path)}, {os.path.getsize(path) / 1e6:.1f} MB")
