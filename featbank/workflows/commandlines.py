"""Command lines: what a user would type to go on from a bank, quoted for a shell."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from featbank.backbones.request import Request
from featbank.bank.bank import Bank
from featbank.bank.coverage import Coverage
from featbank.bank.layered import look
from featbank.bank.recipes import KnownRecipe
from featbank.data.decode import DecodePolicy
from featbank.data.sources import Source, open_source
from featbank.errors import FeatbankError

__all__ = ["bank_words", "commands_for", "extract_lines", "line", "restoring_lines", "row_words"]

_FLAGS = ("hidden", "follow_links")


def line(command: str, *words: str) -> str:
    """Return a command with its words, quoted where the shell needs it.

    Examples
    --------
    >>> line("fit", "--positive", "probability>0.5")
    "featbank fit --positive 'probability>0.5'"
    """
    return shlex.join(["featbank", command, *words])


def bank_words(bank: str) -> list[str]:
    """Return what names the bank at a path, where it is not the default one."""
    path = _near(bank)
    return [] if path == "bank" else ["--bank", path]


def row_words(
    *,
    source: str | Sequence[str] | None,
    label: str | None,
    positive: str | None,
    classes: Sequence[str] | None,
    exclude: Sequence[str],
    split: str | None,
    group: str | None,
    metric_weight: str | None,
    keep_copies: bool,
    cv: int | float | None,
    repeats: int,
    random_state: int,
) -> list[str]:
    """Return what chooses images, labels and folds, in the words of `featbank.fit`."""
    names = [source] if isinstance(source, str) else source or []
    words = [word for name in names for word in ("--source", name)]
    for option, value in (
        ("label", label),
        ("positive", positive),
        ("classes", ",".join(classes or ())),
        ("exclude", ",".join(exclude)),
        ("split", split),
        ("group", group),
        ("metric-weight", metric_weight),
        ("cv", cv),
        ("repeats", repeats if repeats > 1 else None),
        ("seed", random_state),
    ):
        if value:
            words += [f"--{option}", value if isinstance(value, str) else f"{value:g}"]
    return [*words, "--keep-copies"] if keep_copies else words


def extract_lines(
    bank: Bank,
    known: KnownRecipe,
    source: str | Sequence[str] | None,
    layers: Sequence[str] = (),
    *,
    replace: bool = False,
) -> list[str] | None:
    """Return commands that extract a bank's sources, one a source; None where no words can say it.

    They add layers, or the penultimate one where none are named, and may replace what moved.
    """
    model = _model_words(known)
    if model is None:
        return None
    wanted = [source] if isinstance(source, str) else source
    lines = []
    for name, document in bank.sources.items():
        if wanted is not None and name not in wanted:
            continue
        where = _source_words(Source.from_dict(document))
        if where is None:
            return None
        more = ["--replace"] if replace else []
        more += ["--layers", ",".join(layers)] if layers else []
        lines.append(line("extract", *where, *model, *more, *bank_words(bank.path)))
    return lines


def restoring_lines(bank: Bank, coverage: Mapping[str, Sequence[Coverage]]) -> list[str]:
    """Return commands that compute the columns again that images lack, as far as words say them."""
    lines = []
    for known in bank.recipes:
        lacking: dict[str, list[str]] = {}
        for one in coverage.get(known.slug, ()):
            for source in one.sources:
                lacking.setdefault(source, []).append(_short(one.column))
        for source, layers in lacking.items():
            lines += extract_lines(bank, known, source, layers) or []
    return lines


def commands_for(path: str, coverage: Mapping[str, Sequence[Coverage]]) -> list[str]:
    """Return what `restoring_lines` does for the bank at `path`; nothing if it can't be read."""
    if not any(one.missing for columns in coverage.values() for one in columns):
        return []
    try:
        bank = look(path)
        return restoring_lines(bank, coverage) if bank is not None else []
    except (FeatbankError, OSError):
        return []


def _short(column: str) -> str:
    """Return a column's name without the defaults at its end."""
    for default in (":float32", ":identity", ":avg"):
        if not column.endswith(default):
            break
        column = column.removesuffix(default)
    return column


def _model_words(known: KnownRecipe) -> list[str] | None:
    """Return the words of `featbank extract` for a network, where it was not made in Python."""
    try:
        request = Request.from_dict(known.provenance["request"])
    except (FeatbankError, KeyError, TypeError):
        return None
    if known.recipe.source == "module" or request.decode != DecodePolicy():
        return None
    words = ["--model", request.model]
    defaults = Request(request.model)
    for name in ("weights", "resize", "crop", "squash", "input_size", "precision", "runtime"):
        value = getattr(request, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return [*words, "--seed", str(request.seed)] if request.seed else words


def _source_words(source: Source) -> list[str] | None:
    """Return the words that describe a source as it was described, None where none do."""
    where = source.table or source.root
    options: dict[str, Any] = {
        "columns": source.columns,
        "delimiter": source.delimiter,
        "classes": source.classes,
        "exclude": source.exclude,
        "pages": source.pages,
        **{name: getattr(source, name) for name in _FLAGS},
    }
    if source.table is not None and source.root != os.path.dirname(source.table):
        options["root"] = source.root
    words = [_near(where)]
    if "root" in options:
        words += ["--root", _near(source.root)]
    for title, column in source.columns.items():
        if column is None:
            return None
        words += [f"--{title}-column", column]
    if source.delimiter is not None:
        words += ["--delimiter", source.delimiter]
    if source.pages != "first":
        words += ["--pages", source.pages]
    for name in ("classes", "exclude"):
        if getattr(source, name):
            words += [f"--{name}", ",".join(getattr(source, name))]
    words += [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(source, name)]
    for kind in ("auto", source.kind):
        try:
            made = open_source(where, kind=kind, **options)
        except FeatbankError:
            continue
        if dataclasses.replace(made, name=source.name) == source:
            return words if kind == "auto" else [*words, "--kind", kind]
    return None


def _near(path: str) -> str:
    """Return a path as it is typed from here, if it lies below."""
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below
