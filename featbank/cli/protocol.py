"""What the command fit does about protocols: list them, or score by one."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from featbank.cli.options import print_json, progress_bar, words_of

__all__ = ["print_protocols", "score_by_protocol"]

TAKEN = (
    *("protocol", "bank", "recipe", "layers", "sources", "label", "positive", "multilabel"),
    *("classes", "exclude", "split", "group", "keep_copies", "cv", "heads", "near_duplicates"),
    "seed",
    *("no_save", "details", "as_json"),
)
"""The options of fit that a protocol leaves open."""


def print_protocols(*, as_json: bool) -> None:
    """Print each protocol in three lines, or as JSON with its constants."""
    from featbank.evaluation.protocols.registry import PROTOCOLS

    known = {name: PROTOCOLS[name] for name in sorted(PROTOCOLS)}
    if as_json:
        listed = [
            {
                "protocol": name,
                "learns": entry.learns,
                "chooses": entry.chooses,
                "source": entry.source,
                "constants": entry.constants,
            }
            for name, entry in known.items()
        ]
        print_json({"protocols": listed})
        return
    for name, entry in known.items():
        click.echo("\n  ".join([name, *entry.description.splitlines()]))


def score_by_protocol(
    protocol: str, *, bank: str, as_json: bool, details: bool, **options: Any
) -> None:
    """Score the bank's features by a protocol and print the result.

    Raises
    ------
    click.UsageError
        An option was given that the protocol decides.
    """
    from featbank.workflows.protocol import fit_protocol

    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in TAKEN
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"a protocol decides what {', '.join(given)} would, and saves nothing; leave "
            f"{'it' if len(given) == 1 else 'them'} out."
        )
    named = context.get_parameter_source("heads") is ParameterSource.COMMANDLINE
    heads = [name for text in options["heads"] for name in words_of(text) or []] if named else []
    if len(heads) > 1:
        raise click.UsageError(f"--protocol takes one --head at most, not {len(heads)}.")
    shared = ("recipe", "layers", "label", "positive", "multilabel", "split", "group", "cv")
    words = (*shared, "keep_copies")
    with progress_bar(protocol, "step") as progress:
        result = fit_protocol(
            bank,
            protocol,
            source=list(options["sources"]) or None,
            classes=words_of(options["classes"]),
            exclude=words_of(options["exclude"]) or (),
            head=heads[0] if heads else None,
            near_duplicates=options["near_duplicates"],
            random_state=options["seed"],
            progress=progress,
            **{word: options[word] for word in words},
        )
    if as_json:
        print_json(result.to_dict())
    else:
        click.echo(result.table(details=details))
