"""Reporting: results as pictures."""
