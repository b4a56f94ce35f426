"""A comparison: its rows, each in a process of its own, and the folder where they are kept."""
