"""The command about backbones: models."""

from __future__ import annotations

import click

from featbank.cli.options import columns_of, json_option, print_json


@click.command()
@click.argument("pattern", required=False)
@click.option(
    "--source",
    type=click.Choice(["package", "torchvision", "small", "timm"]),
    help="Only backbones from there.",
)
@click.option("--layers", is_flag=True, help="List the layers of the one backbone that is named.")
@json_option
def models(*, pattern: str | None, source: str | None, layers: bool, as_json: bool) -> None:
    """List backbones: a name, a part of one, or a PATTERN with * and ?."""
    from dataclasses import asdict

    from featbank.workflows.models import list_layers
    from featbank.workflows.models import models as look

    if layers:
        if pattern is None:
            raise click.UsageError("name the backbone: featbank models resnet50 --layers")
        found = list_layers(pattern)
        if as_json:
            print_json({"layers": [asdict(layer) for layer in found]})
        else:
            shapes = [(layer.name, " x ".join(map(str, layer.shape))) for layer in found]
            click.echo(columns_of([("layer", "shape"), *shapes]))
        return
    known = look(pattern, source=source)
    if as_json:
        print_json({"models": [asdict(one) for one in known]})
        return
    rows = [("name", "source", "features", "parameters", "input", "weights here")]
    for one in known:
        rows.append(
            (
                one.name,
                one.source,
                "" if one.features is None else str(one.features),
                "" if one.parameters is None else f"{one.parameters / 1e6:.1f} M",
                str(one.input_size),
                "yes" if one.local else "no",
            )
        )
    click.echo(columns_of(rows, right=(2, 3, 4)))
    if known and known[0].features is None:
        click.echo("(features and parameters are told of a dozen or fewer)", err=True)
    if len(known) == 1:
        click.echo(f"weights: {', '.join(known[0].weights) or 'none but --weights none'}")
