"""Harnesses that try to break featbank many times over; `python -m tests.torture --help`."""
