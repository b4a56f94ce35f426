"""``python -m featbank``: the command line."""

from featbank.cli import main

main()
