"""Sections: the help of a command with many options, under headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["Sectioned"]


class Sectioned(click.Command):
    """A command whose help lists its options under headings.

    Parameters
    ----------
    sections : mapping of str to str
        Names of parameters by heading, with blanks between, in the order of the help. What none
        names stands under the last.
    **words
        As `click.Command` takes them.
    """

    def __init__(self, *, sections: Mapping[str, str], **words: Any) -> None:
        super().__init__(**words)
        self.sections = {title: names.split() for title, names in sections.items()}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        left = {option.name: option for option in options}
        chosen = {title: [left.pop(n) for n in names] for title, names in self.sections.items()}
        chosen[list(chosen)[-1]] += left.values()
        for title, params in chosen.items():
            rows = [row for param in params if (row := param.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(rows)
