"""Multilabel: heads scored where a row may have several labels, each told from the rest."""
