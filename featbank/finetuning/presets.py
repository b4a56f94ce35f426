"""Presets: settings of fine-tuning by name, and the text that changes some of their words."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank.errors import FineTuneError, nearest
from featbank.finetuning.settings import FineTuneSettings

__all__ = ["PRESETS", "Preset", "parse_preset", "parse_scratch"]

PRESETS: dict[str, dict[str, Any]] = {
    "head": {"unfreeze": "head"},
    "last": {"unfreeze": 1},
    "full": {},
    "lp-ft": {"init": "probe", "lr": 1e-4, "backbone_lr": 1.0},
}
"""The head alone; with the last stage; everything; everything at a low rate from a linear probe."""

_MODEL = ("model", "weights", "input_size")
_SEQUENCES = ("hidden",)


@dataclass(frozen=True)
class Preset:
    """A training in the words of its user.

    Attributes
    ----------
    name : str
        As it stands in a table.
    words : dict
        Those of `FineTuneSettings` that were given.
    model : dict
        Which network, by the words ``model``, ``weights`` and ``input_size``; empty where none of
        these was given.
    """

    name: str
    words: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, words: Mapping[str, Any] | FineTuneSettings) -> Preset:
        """Part words of the network from words of the training."""
        if isinstance(words, FineTuneSettings):
            own = words.to_dict()
            del own["random_state"]  # whoever compares has one for all
            return cls(name, own)
        if not isinstance(words, Mapping):
            raise FineTuneError(
                f"the settings of {name!r} are a FineTuneSettings or a mapping of its words, not "
                f"{words!r}."
            )
        model = {key: words[key] for key in _MODEL if key in words}
        return cls(name, {key: v for key, v in words.items() if key not in _MODEL}, model)


def parse_preset(text: str) -> Preset:
    """Read ``[TITLE=]NAME[:word=value,...]``, NAME one of `PRESETS`.

    Several values are parted by ``+``.

    Raises
    ------
    FineTuneError
        There is no such preset, or the text is not of this form.

    Examples
    --------
    >>> parse_preset("quick=last:epochs=3,unfreeze=blocks.5+blocks.6")
    Preset(name='quick', words={'unfreeze': ('blocks.5', 'blocks.6'), 'epochs': 3}, model={})
    """
    front, colon, rest = text.partition(":")
    title, _, name = front.rpartition("=")
    if name not in PRESETS:
        raise FineTuneError(f"there is no preset {name!r} of fine-tuning; {nearest(name, PRESETS)}")
    if colon and not rest:
        raise FineTuneError(f"nothing follows the colon in {text!r}; write {text}epochs=3.")
    return Preset.of(title or text, {**PRESETS[name], **_words(rest, text)})


def parse_scratch(text: str) -> Preset:
    """Read ``[TITLE=]MODEL[,word=value,...]``: a network that is trained from random weights.

    Examples
    --------
    >>> parse_scratch("small-cnn-3,epochs=20")
    Preset(name='small-cnn-3,epochs=20', words={'epochs': 20}, model={'model': 'small-cnn-3'})
    """
    front, _, rest = text.partition(",")
    title, _, model = front.rpartition("=")
    if not model:
        raise FineTuneError(f"{text!r} names no network; write MODEL,word=value.")
    return Preset.of(title or text, {"model": model, **_words(rest, text)})


def _words(text: str, whole: str) -> dict[str, Any]:
    words = {}
    for part in re.split(",", text) if text else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise FineTuneError(f"{part!r} in {whole!r} is not of the form word=value.")
        key = key.strip()
        values = tuple(_value(one.strip()) for one in value.split("+"))
        words[key] = values if len(values) > 1 or key in _SEQUENCES else values[0]
    return words


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
