"""``featbank`` and ``python -m featbank``: the command line, from its first import on."""

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is being loaded is one line too."""
    try:
        from featbank.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
