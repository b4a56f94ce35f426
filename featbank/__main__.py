"""``featbank`` and ``python -m featbank``: the command line, from its first import on."""

import atexit
import gc
import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it is being loaded is one line too."""
    # What imports leave is no garbage; to look it through again and again takes 0.1 s.
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)
    try:
        from featbank.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
