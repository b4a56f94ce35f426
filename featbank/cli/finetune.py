"""The command that trains a network itself: finetune."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    TABLE_COLUMNS,
    class_weight_of,
    folds_options,
    json_option,
    label_options,
    pages_option,
    print_json,
    progress_bar,
    rows_options,
    shown,
    together,
    words_of,
)
from featbank.cli.sections import Sectioned
from featbank.errors import FeatbankError
from featbank.finetuning.settings import (
    AUGMENTS,
    INITS,
    MONITORS,
    OPTIMIZERS,
    SCHEDULES,
    FineTuneSettings,
)

if TYPE_CHECKING:
    from featbank.workflows.trainings import TrainingProgress

SETTINGS = tuple(f.name for f in dataclasses.fields(FineTuneSettings) if f.name != "random_state")
DEFAULTS = {f.name: f.default for f in dataclasses.fields(FineTuneSettings)}


def _setting(name: str, kind: Any, help: str, *, metavar: str | None = None) -> Any:
    """Return the option of a setting: None where it is not given, its default in the help."""
    default = DEFAULTS[name]
    if default is not None and default != () and not isinstance(default, bool):
        help += f"  [default: {default}]"
    words: dict[str, Any] = {"is_flag": True, "default": None} if kind is bool else {"type": kind}
    if metavar is not None:
        words["metavar"] = metavar
    return click.option("--" + name.replace("_", "-"), name, help=help, **words)


settings_options = together(
    _setting(
        "unfreeze",
        str,
        "Besides the new head: all, head (nothing else), a number of last stages, or modules and "
        "patterns such as layer4 or 'blocks.[56]*'.",
        metavar="WHAT",
    ),
    _setting("hidden", str, "Hidden layers of the head, such as 256.", metavar="N,..."),
    _setting("dropout", float, "Of the head.", metavar="SHARE"),
    _setting(
        "init",
        click.Choice(INITS),
        "How the head starts; probe: from a logistic regression on the same rows' features.",
    ),
    _setting("head_epochs", int, "Epochs of the head alone, before.", metavar="N"),
    _setting("epochs", int, "Of all that trains.", metavar="N"),
    _setting("batch_size", int, "Images a step.", metavar="N"),
    _setting("optimizer", click.Choice(list(OPTIMIZERS)), "What moves the weights."),
    _setting("lr", float, "Learning rate of the head; 0.01 for sgd, else 0.001.", metavar="RATE"),
    _setting("head_lr", float, "In the epochs of the head alone; else --lr.", metavar="RATE"),
    _setting(
        "backbone_lr",
        float,
        "The backbone's rate over the head's; 1 with --weights none.",
        metavar="FACTOR",
    ),
    _setting("layer_decay", float, "Factor of the rate a stage further down.", metavar="FACTOR"),
    _setting("momentum", float, "Of sgd.", metavar="SHARE"),
    _setting("weight_decay", float, "Not of biases and norms.", metavar="FACTOR"),
    _setting("lookahead", bool, "Lookahead over the optimizer."),
    _setting("schedule", click.Choice(SCHEDULES), "How the rate changes."),
    _setting("warmup", float, "Share of steps in which it rises.", metavar="SHARE"),
    _setting("step_epochs", int, "Of step: epochs until it falls.", metavar="N"),
    _setting("gamma", float, "Of step: by this factor.", metavar="FACTOR"),
    _setting("clip_norm", float, "Scale gradients down to this norm.", metavar="NORM"),
    click.option(
        "--mixed-precision/--full-precision",
        default=None,
        help="Compute in half precision where the device does; by default on GPUs alone.",
    ),
    _setting("augment", click.Choice(AUGMENTS), "How training images are changed."),
    click.option(
        "--class-weight",
        metavar="CLASS=W,...",
        help='"balanced" weighs classes by their rarity; others have 1.',
    ),
    _setting("label_smoothing", float, "Share of each label given to all.", metavar="SHARE"),
    _setting("valid", float, "Share of training images held out to watch.", metavar="SHARE"),
    _setting("monitor", click.Choice(MONITORS), "What the best epoch is chosen by, on these."),
    _setting("patience", int, "Stop after so many epochs without a better.", metavar="N"),
)

network_options = together(
    click.option(
        "--model",
        metavar="NAME",
        help="The backbone; by default the bank's, else resnet50.",
    ),
    click.option(
        "--weights",
        default="DEFAULT",
        show_default=True,
        metavar="WORD|FILE",
        help="What it begins with; none: from scratch.",
    ),
    click.option("--resize", type=int, metavar="PX", help="Short side after resizing."),
    click.option("--crop", type=int, metavar="PX", help="Side of the centre crop."),
    click.option("--squash", is_flag=True, help="Resize to the crop, whatever the proportions."),
    click.option("--input-size", type=int, metavar="PX", help="Side of the network's input."),
)

images_options = together(
    click.option("--bank", metavar="PATH", help="Take the images that this bank has indexed."),
    click.option("--recipe", metavar="NAME", help="Whose backbone, if the bank has several."),
    click.option("--source", "of_bank", multiple=True, metavar="NAME", help="Only this source."),
    click.option(
        "--kind",
        type=click.Choice(["auto", "folder", "split-folders", "flat", "csv"]),
        help="How SOURCES are laid out; by default it is told from what is there.",
    ),
    click.option("--root", metavar="DIR", help="What the paths of a table are relative to."),
    *(
        click.option(f"--{name}-column", metavar="NAME", help=f"The table's column of the {name}.")
        for name in TABLE_COLUMNS
    ),
    click.option("--delimiter", metavar="CHAR", help="Of the table, if it is an unusual one."),
    click.option("--class-names", metavar="FILE.json", help="From folder names to readable ones."),
    pages_option,
    click.option("--follow-links", is_flag=True, help="Walk into symlinked folders."),
)


@click.command(
    cls=Sectioned,
    sections={
        "Images and labels": "bank recipe of_bank label positive classes exclude kind root "
        "path_column label_column split_column group_column delimiter class_names follow_links "
        "pages",
        "Network": "model weights resize crop squash input_size",
        "What trains": "unfreeze hidden dropout init",
        "How": "epochs head_epochs batch_size optimizer lr head_lr backbone_lr layer_decay "
        "momentum weight_decay lookahead schedule warmup step_epochs gamma clip_norm "
        "mixed_precision range_test low high steps",
        "On what": "augment class_weight label_smoothing",
        "Until when": "valid monitor patience max_seconds",
        "Scores": "split keep_copies group metric_weight cv repeats seed name",
        "Running": "device workers checkpoints resume",
        "Output": "out no_save predictions history plot details as_json",
    },
)
@click.argument("sources", nargs=-1)
@images_options
@label_options
@rows_options
@network_options
@settings_options
@click.option(
    "--max-seconds",
    type=float,
    metavar="S",
    help="For the whole command; each training may take its share of what is left.",
)
@click.option(
    "--range-test",
    metavar="CURVE.png",
    help="Look for a learning rate instead, and draw the curve; - draws none.",
)
@click.option(
    "--low", type=float, default=1e-6, show_default=True, metavar="RATE", help="Its first rate."
)
@click.option(
    "--high", type=float, default=1.0, show_default=True, metavar="RATE", help="Its last."
)
@click.option("--steps", type=int, default=100, show_default=True, metavar="N", help="Its batches.")
@folds_options
@click.option(
    "--seed", type=int, metavar="N", default=0, show_default=True, help="Of folds and trainings."
)
@click.option(
    "--name", default="finetune", show_default=True, metavar="NAME", help="Of the row in the table."
)
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, mps."
)
@click.option("--workers", type=int, metavar="N", help="Processes that decode; 0: none.")
@click.option(
    "--checkpoints",
    default="finetune",
    show_default=True,
    metavar="FOLDER",
    help="Where each epoch and each fold is kept until the command is through.",
)
@click.option("--resume", is_flag=True, help="Go on where the same command was ended.")
@click.option(
    "--out",
    default=".",
    metavar="PATH",
    help="Folder for finetune.safetensors, or the file's name; trained on all images.",
)
@click.option("--no-save", is_flag=True, help="Score only.")
@click.option("--predictions", metavar="FILE.csv", help="Write what each image was taken for.")
@click.option("--history", metavar="FILE.json", help="Write what each epoch brought.")
@click.option("--plot", metavar="FILE.png", help="Draw it.")
@click.option("--details", is_flag=True, help="Print classes and confusions too.")
@json_option
def finetune(
    sources: tuple[str, ...],
    *,
    of_bank: tuple[str, ...],
    range_test: str | None,
    seed: int,
    no_save: bool,
    details: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network on SOURCES, score it on the folds that fit has, and save it.

    SOURCES are as for extract; without them, the images of the bank. Scores come from stratified
    5-fold cross-validation, or from the images' own splits. Then the network is trained once more
    on all images that no split reserves, and saved as one file, which predict takes.
    """
    settings = _settings(options)
    settings["random_state"] = seed
    test = {name: options.pop(name) for name in ("low", "high", "steps")}
    columns = {name: options.pop(f"{name}_column") for name in TABLE_COLUMNS}
    columns = {name: title for name, title in columns.items() if title is not None}
    laid_out = {
        name: options.pop(name)
        for name in ("kind", "root", "delimiter", "class_names", "follow_links", "pages")
    }
    words = {
        "bank": options.pop("bank"),
        "recipe": options.pop("recipe"),
        "sources": list(of_bank) or None,
        "classes": words_of(options.pop("classes")),
        "exclude": words_of(options.pop("exclude")) or (),
        **{name: value for name, value in laid_out.items() if value},
        **({"columns": columns} if columns else {}),
        **{name: options.pop(name) for name in ("resize", "crop", "squash", "input_size")},
        **{
            name: options.pop(name)
            for name in ("label", "positive", "split", "group", "keep_copies", "weights")
        },
        **{name: options.pop(name) for name in ("device", "workers")},
        **settings,
    }
    location = (sources if len(sources) > 1 else sources[0]) if sources else None
    model = options.pop("model")
    from featbank.extraction.allocator import keep_large_blocks
    from featbank.workflows.finetune import finetune as workflow

    keep_large_blocks()
    if range_test is not None:
        _test_rates(location, model, range_test, as_json=as_json, **words, **test)
        return
    out = options.pop("out")
    with _reading_bar() as reading, _training_bar() as progress:
        try:
            result = workflow(
                location,
                model,
                out=None if no_save else out,
                reading=reading,
                progress=progress,
                **words,
                **options,
            )
        except (KeyboardInterrupt, OSError) as end:
            if not isinstance(end, FeatbankError) and _trained(options["checkpoints"]):
                click.echo(
                    f"\nWhat was trained is kept in {shown(options['checkpoints'])}; the same "
                    "command with --resume goes on.",
                    err=True,
                )
            raise
    if as_json:
        print_json(result.to_dict())
        return
    click.echo(result.table(details=details))
    for what, path in (
        ("predictions in", options["predictions"]),
        ("history in", options["history"]),
        ("curves in", options["plot"]),
        ("saved", result.classifier),
    ):
        if path:
            click.echo(f"{what} {shown(path)}")


def _trained(folder: str) -> bool:
    """Tell whether a folder keeps trainings."""
    with contextlib.suppress(OSError):
        return any(name.startswith("training-") for name in os.listdir(folder))
    return False


def _test_rates(
    location: Any, model: str | None, curve: str, *, as_json: bool, **words: Any
) -> None:
    from featbank.workflows.finetune import find_learning_rate

    plot = None if curve == "-" else curve
    with progress_bar("reading", "img") as reading:
        found = find_learning_rate(location, model, plot=plot, reading=reading, **words)
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(found.summary())
    if plot is not None:
        click.echo(f"curve in {shown(plot)}")


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Take the settings that were given out of a command's options, as `FineTuneSettings` has them.

    Raises
    ------
    click.BadParameter
    """
    found = {name: options.pop(name) for name in SETTINGS}
    found["class_weight"] = class_weight_of(found["class_weight"])
    found = {name: value for name, value in found.items() if value is not None}
    if "unfreeze" in found:
        words = words_of(found["unfreeze"]) or [""]
        number = len(words) == 1 and words[0].lstrip("-").isdigit()
        found["unfreeze"] = int(words[0]) if number else words[0] if len(words) == 1 else words
    if "hidden" in found:
        sizes = words_of(found["hidden"]) or []
        if not all(size.isdigit() for size in sizes):
            raise click.BadParameter(f"--hidden is one size a layer, such as 256 or 512,128, not "
                                     f"{found['hidden']!r}.")  # fmt: skip
        found["hidden"] = tuple(map(int, sizes))
    return found


@contextlib.contextmanager
def _training_bar() -> Iterator[Callable[[TrainingProgress], None] | None]:
    """Show steps, loss, accuracy and rate of each training, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bars: dict[int, Any] = {}
    watched = ""

    def update(now: TrainingProgress) -> None:
        nonlocal watched
        epoch = now.epoch
        if now.number not in bars:
            for bar in bars.values():
                bar.close()
            watched = ""
            bars[now.number] = tqdm(
                total=epoch.epochs * epoch.steps,
                leave=False,
                file=sys.stderr,
                mininterval=0.2,
                delay=1e-9,
                bar_format="{desc} |{bar}| {elapsed}<{remaining}",
            )
        if epoch.valid_loss is not None:
            watched = f" (watched: {epoch.valid_loss:.3f}, {epoch.valid_accuracy:.3f})"
        bar = bars[now.number]
        bar.set_description_str(
            f"{now.name} ({now.number}/{now.trainings}), epoch {epoch.epoch}/{epoch.epochs}: "
            f"loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}{watched}, "
            f"{epoch.images_per_second:.0f} img/s",
            refresh=False,
        )
        bar.update((epoch.epoch - 1) * epoch.steps + epoch.step - bar.n)

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()


@contextlib.contextmanager
def _reading_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Show how many images are read, on a terminal, until all are."""
    with contextlib.ExitStack() as held:
        bar = held.enter_context(progress_bar("reading", "img"))
        if bar is None:
            yield None
            return

        def update(done: int, total: int) -> None:
            bar(done, total)
            if done == total:
                held.close()

        yield update
