"""The command line: parse, call a workflow, print.

Results go to standard output, everything else to standard error. Exit status: 0 done, 1 an expected
error (one message, no traceback), 2 usage, 130 or 143 interrupted after sealing what was finished.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import click

import featbank
from featbank.cli.advise import advise
from featbank.cli.bank import info, prune, repair, verify
from featbank.cli.choose import curve, select
from featbank.cli.compare import compare
from featbank.cli.demo import demo
from featbank.cli.exchange import compact, export, merge
from featbank.cli.extract import extract, status
from featbank.cli.finetune import finetune
from featbank.cli.fit import fit
from featbank.cli.models import models
from featbank.cli.options import shown
from featbank.cli.predict import predict
from featbank.errors import FeatbankError

__all__ = ["cli", "main"]


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; it ends a run as Ctrl-C does, with another exit status."""


class FeatbankGroup(click.Group):
    """Turns expected errors into one message, and interrupts into their exit status."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Read the command line, run it, and exit."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            with _interrupts():
                try:
                    status = super().main(args, prog_name, standalone_mode=False, **extra)
                except click.Abort as abort:  # what click makes of one that fell outside `invoke`
                    if isinstance(abort.__cause__, KeyboardInterrupt):
                        raise abort.__cause__ from None
                    raise
        except click.exceptions.Exit as end:
            status = end.exit_code
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        sys.exit(status)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _interrupts():
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise
            except (FeatbankError, OSError, MemoryError) as error:
                click.echo(f"Error: {shown(_message(error))}", err=True)
                raise click.exceptions.Exit(1) from error


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Turn an interrupt into one line and its exit status."""
    try:
        yield
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except (KeyboardInterrupt, Exception) as interrupt:
        # Compiled code that is interrupted may say that something else is wrong.
        if not isinstance(interrupt, KeyboardInterrupt) and not _received:
            raise
        if signal.getsignal(signal.SIGTERM) is _terminate:
            # Everything is sealed: one more ends the process at once, with that same status.
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
        click.echo("Interrupted.", err=True)
        terminated = isinstance(interrupt, Terminated) or signal.SIGTERM in _received[:1]
        status = 143 if terminated else 130
        raise click.exceptions.Exit(status) from interrupt


def _message(error: BaseException) -> str:
    if isinstance(error, FeatbankError):
        return str(error)
    if isinstance(error, OSError):  # a folder that can't be written, a disk that is full
        what = f"{str(error.strerror or error).rstrip('.')}."
        if not isinstance(error.filename, str | bytes):
            return what
        path = os.fsdecode(error.filename)
        if os.path.basename(path).startswith("."):  # a temporary's name says nothing to a user
            path = os.path.dirname(path) or "."
        return f"{path}: {what}"
    return "memory ran out; try fewer --workers or a smaller --batch-size."


@click.group(
    cls=FeatbankGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(featbank.__version__, prog_name="featbank")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def cli(*, verbose: bool) -> None:
    """Embed every image once with a frozen pretrained network; classify the features in seconds.

    \b
      featbank extract --model resnet50 data/     images -> ./bank
      featbank fit                                ./bank -> scores and logreg.skops
      featbank predict logreg.skops photos/       new images -> classes
    """  # noqa: D301  (click's mark for lines that stay as they are)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("featbank").setLevel(logging.DEBUG if verbose else logging.INFO)


for command in (
    *(extract, status, fit, finetune, curve, select, advise, compare, predict, models, info),
    *(verify, repair, prune, compact, merge, export, demo),
):
    cli.add_command(command)


_received: list[int] = []
"""Signals that asked this process to end, in their order."""


def _interrupt(number: int, frame: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _terminate(number: int, frame: object) -> None:
    _received.append(number)
    raise Terminated


def _again(unraisable: sys.UnraisableHookArgs) -> None:
    """Send an interrupt once more that fell into a destructor, where Python drops it."""
    interrupt = unraisable.exc_value
    if not isinstance(interrupt, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def main() -> None:
    """Run the command line."""
    sys.unraisablehook = _again
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    cli()
