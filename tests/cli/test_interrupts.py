"""Ctrl-C and SIGTERM where they are awkward: between commands, in destructors, one upon another."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.conftest import PATIENCE

pytestmark = pytest.mark.usefixtures("interruptible")

COMMAND = """
import os, signal, sys, time
import click
from featbank import __main__ as entry
from featbank.cli import cli

NUMBER = {number}

def send(*args):
    os.kill(os.getpid(), NUMBER)
    time.sleep(10)  # an interrupt that nobody heeds

class Fragile:
    def __del__(self):
        os.kill(os.getpid(), NUMBER)
        list(range(100000))  # here Python prints the interrupt, and goes on

{command}

sys.argv = ["featbank", "wait"]
entry.main()
"""

WHERE = {
    "in a command": """
@cli.command()
def wait():
    send()
""",
    "while the command line is read": """
@cli.command()
@click.option("--how", callback=send)
def wait(how):
    pass
""",
    "while the first words are read": """
cli.params.append(click.Option(["--how"], callback=send, expose_value=False))

@cli.command()
def wait():
    pass
""",
    "in compiled code that says that something else is wrong": """
@cli.command()
def wait():
    try:
        send()
    except KeyboardInterrupt:
        pass  # as NumPy does when it asks a Python function about two types
    raise TypeError("Cannot compare structured arrays")
""",
    "in a destructor": """
@cli.command()
def wait():
    Fragile()
    time.sleep(10)
""",
}


def ended(command: str, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(command=command, number=int(number))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", WHERE)
def test_an_interrupt_is_one_line_wherever_it_falls(where: str, number: int, status: int) -> None:
    done = ended(WHERE[where], number)

    assert (done.returncode, done.stdout, done.stderr.lstrip()) == (status, "", "Interrupted.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_the_process_as_the_first_would(number: int) -> None:
    twice = """
@cli.command()
def wait():
    echo = click.echo
    def interrupted(*args, **options):
        echo(*args, **options)
        send()
    click.echo = interrupted
    send()
"""
    done = ended(twice, number)

    assert done.returncode == -number  # a shell says 128 + number
    assert done.stderr == "Interrupted.\n"


def test_sigint_that_is_ignored_by_inheritance_stays_ignored() -> None:
    """As in a background job of a shell without job control."""
    done = ended(
        """
signal.signal(signal.SIGINT, signal.SIG_IGN)

@cli.command()
def wait():
    os.kill(os.getpid(), signal.SIGINT)
    def unwound(*args, **options):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    click.echo = unwound
    send()
""",
        signal.SIGTERM,
    )

    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_an_interrupt_while_the_command_line_is_loaded_is_one_line() -> None:
    code = """
import sys
import builtins
plain = builtins.__import__
def interrupted(name, *args, **options):
    if name == "featbank.cli":
        raise KeyboardInterrupt
    return plain(name, *args, **options)
from featbank import __main__ as entry
builtins.__import__ = interrupted
entry.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )

    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
