"""Heads: scikit-learn classifiers on features, by name or by import path."""

from featbank.heads.registry import grid, list_heads, make_head

__all__ = ["grid", "list_heads", "make_head"]
