"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from featbank.errors import readable

Command = TypeVar("Command", bound=Callable[..., Any])

SOURCE_OPTIONS = (
    "kind",
    "root",
    "classes",
    "exclude",
    "class_names",
    "hidden",
    "follow_links",
    "pages",
    "delimiter",
)
MODEL_OPTIONS = (
    "weights",
    "resize",
    "crop",
    "squash",
    "input_size",
    "precision",
    "runtime",
    "seed",
)
TABLE_COLUMNS = ("path", "label", "split", "group")


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several, applied so that help lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)

bank_option = click.option(
    "--bank", default="bank", show_default=True, metavar="PATH", help="The bank of features."
)

pages_option = click.option(
    "--pages",
    type=click.Choice(["first", "all"]),
    show_default="first",
    help="Pages of TIFFs and frames of animations that are images.",
)

source_options = together(
    click.option(
        "--kind",
        type=click.Choice(["auto", "folder", "split-folders", "flat", "csv"]),
        default="auto",
        help="How a source is laid out; by default it is told from what is there.",
    ),
    click.option("--root", metavar="DIR", help="What the paths of a table are relative to."),
    *(
        click.option(f"--{name}-column", metavar="NAME", help=f"The table's column of the {name}.")
        for name in TABLE_COLUMNS
    ),
    click.option("--delimiter", metavar="CHAR", help="Of the table, if it is an unusual one."),
    click.option("--classes", metavar="A,B,...", help="Only these classes."),
    click.option("--exclude", metavar="A,B,...", help="Not these classes."),
    click.option("--class-names", metavar="FILE.json", help="From folder names to readable ones."),
    click.option("--hidden", is_flag=True, help="Take hidden files and folders too."),
    pages_option,
    click.option("--follow-links", is_flag=True, help="Walk into symlinked folders."),
)

model_options = together(
    click.option(
        "--model", default="resnet50", show_default=True, metavar="NAME", help="The backbone."
    ),
    click.option(
        "--weights",
        default="DEFAULT",
        show_default=True,
        metavar="WORD|FILE",
        help="A torchvision enum name, a timm tag, a .safetensors or .pth file, or none (random).",
    ),
    click.option(
        "--layers",
        metavar="L[:POOL],...",
        help="Layers by module path, pooled by avg, max, avgmax, gem, cov, cls, flatten or "
        "none; by default the input of the final classifier.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        show_default=True,
        help="As features are stored; float16 halves the bank.",
    ),
    click.option("--resize", type=int, metavar="PX", help="Short side after resizing."),
    click.option("--crop", type=int, metavar="PX", help="Side of the centre crop."),
    click.option("--squash", is_flag=True, help="Resize to the crop, whatever the proportions."),
    click.option("--input-size", type=int, metavar="PX", help="Side of the network's input."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="What the network computes in.",
    ),
    click.option(
        "--runtime",
        type=click.Choice(["auto", "torch", "openvino"]),
        default="auto",
        show_default=True,
        help="What runs the network; auto takes the fastest exact one that is installed.",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        show_default=True,
        help="Of the weights with --weights none.",
    ),
)

views_option = click.option(
    "--views",
    type=click.Choice(["identity", "flips", "d4"]),
    default="identity",
    show_default=True,
    help="How images are turned, each way a column: flips (as is, mirrored, upside down, both) or "
    "d4 (quarter turns too).",
)

run_options = together(
    click.option(
        "--workers", type=int, metavar="N", help="Processes; by default one a core. 0: none."
    ),
    click.option("--batch-size", type=int, metavar="N", help="Images in one forward pass."),
    click.option(
        "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, mps."
    ),
)

features_options = together(
    click.option("--recipe", metavar="NAME", help="Which backbone, if the bank has several."),
    click.option(
        "--layers",
        metavar="L,...",
        help="Which layers, if there are several: fit and curve join them.",
    ),
    click.option("--source", "sources", multiple=True, metavar="NAME", help="Only this source."),
)

averaged_option = click.option(
    "--views",
    type=click.Choice(["identity", "flips", "d4", "all"]),
    help="Average the features of these views, as they were extracted, or of all that there are.",
)

combined_options = together(
    click.option(
        "--views",
        type=click.Choice(["identity", "flips", "d4", "all"]),
        help="Which views of images, as they were extracted, or all that there are.",
    ),
    click.option(
        "--combine",
        type=click.Choice(["features", "decisions", "train"]),
        help="How views are combined: features averaged (so by default); decisions averaged; or "
        "all learned from, decisions averaged.",
    ),
)

label_options = together(
    click.option("--label", metavar="COLUMN", help="The table's column that is the label."),
    click.option(
        "--positive",
        metavar="TEST",
        help='Two classes made of a column: "probability>0.5", "type==mono".',
    ),
)

rows_options = together(
    click.option("--classes", metavar="A,B,...", help="Only these classes."),
    click.option("--exclude", metavar="A,B,...", help="Not these classes."),
    click.option(
        "--split",
        metavar="SPEC",
        help="Make splits, by class and kept in the bank: random:70/15/15, kfold:5, group:80/20, "
        "first:60/10; or none.  [default: the sources' own]",
    ),
    click.option(
        "--group",
        metavar="COLUMN|none",
        help="Keep images together by this column; default: the table's groups.",
    ),
    click.option(
        "--metric-weight",
        metavar="COLUMN",
        help="Weigh images in every metric by this column; 0: not scored.",
    ),
    click.option(
        "--keep-copies",
        is_flag=True,
        help="Count every copy of an image; by default each once.",
    ),
)

_cv_option = click.option(
    "--cv",
    type=float,
    metavar="K",
    help="Folds (5), or below 1 the share held out in each repeat.",
)

folds_options = together(
    _cv_option,
    click.option(
        "--repeats",
        type=int,
        metavar="N",
        default=1,
        show_default=True,
        help="Times folds are redrawn.",
    ),
)

cheap_folds_options = together(
    _cv_option,
    click.option(
        "--repeats",
        type=int,
        metavar="N",
        help="Times folds are redrawn.  [default: 5 if fitting is cheap, else 1]",
    ),
)

_HEAD = "logreg"


def head_option(text: str) -> Callable[[Command], Command]:
    """Make the option that names one head."""
    return click.option("--head", default=_HEAD, show_default=True, metavar="NAME", help=text)


def heads_option(text: str) -> Callable[[Command], Command]:
    """Make the option that names one or several heads."""
    return click.option(
        "--head",
        "heads",
        multiple=True,
        default=[_HEAD],
        show_default=True,
        metavar="NAME,...",
        help=text,
    )


set_option = click.option(
    "--set", "params", multiple=True, metavar="NAME=VALUE", help="A head's parameter."
)

fits_options = together(
    click.option(
        "--seed", type=int, metavar="N", default=0, show_default=True, help="Of folds and heads."
    ),
    click.option(
        "--jobs",
        type=int,
        metavar="N",
        default=-1,
        help="Fits at the same time at most; by default one a core.",
    ),
)


def words_of(text: str | None) -> list[str] | None:
    """Split a list of names at its commas."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def source_words(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of sources out of a command's, as `open_source` takes them."""
    words = {name: options.pop(name) for name in SOURCE_OPTIONS}
    columns = {name: options.pop(f"{name}_column") for name in TABLE_COLUMNS}
    words["columns"] = {name: title for name, title in columns.items() if title is not None}
    words["classes"], words["exclude"] = words_of(words["classes"]), words_of(words["exclude"])
    return {name: value for name, value in words.items() if value or name == "kind"}


def model_words(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the backbone out of a command's."""
    return {name: options.pop(name) for name in MODEL_OPTIONS}


def class_weight_of(text: str | None) -> Any:
    """Read the weights of classes: "balanced", or a number for each that is named."""
    if text is None or text == "balanced":
        return text
    found = {}
    for word in words_of(text) or []:
        name, equals, value = word.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"write --class-weight balanced or CLASS=W,..., not {text!r}.")
        found[name.strip()] = _value(value.strip())
    return found


def parameters_of(texts: tuple[str, ...]) -> dict[str, Any] | None:
    """Read a head's parameters; None where there are none."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"write --set NAME=VALUE, not {text!r}.")
        found[name.strip()] = _value(value.strip())
    return found or None


def _value(text: str) -> Any:
    """Read a parameter's value as a number, a list of numbers, a truth value, None or a word."""
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def typed_again(command: str, *more: str) -> str:
    """Return a command with the options and arguments of the one that runs, and more before."""
    context = click.get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            words += [str(one) for one in value]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words += [parameter.opts[0]] if value else parameter.secondary_opts[:1]
        else:
            words += [parameter.opts[0], str(value)]
    return shlex.join(["featbank", command, *more, *words])


def print_json(data: Any) -> None:
    """Print one JSON object; names that are no text are escaped."""
    click.echo(json.dumps(data, allow_nan=False))


def write_figures(path: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write a table as CSV: names first in each row, and figures to six digits."""
    import csv
    import io

    from featbank.durable import write_file

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, *figures in rows:
        cells = [f"{v:.6g}" if isinstance(v, float) else v for v in figures]
        writer.writerow([readable(name), *cells])
    write_file(path, text.getvalue().encode())


@contextlib.contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show progress with rate and time left on standard error, if it is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bar = tqdm(desc=what, unit=unit, leave=False, file=sys.stderr, smoothing=0.1, mininterval=0.2)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        yield update


def shown(path: str) -> str:
    """Return a path fit for a terminal: control characters and broken text escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in readable(path))


def columns_of(rows: Sequence[tuple[str, ...]], *, right: tuple[int, ...] = ()) -> str:
    """Lay rows out in columns; those in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
