"""The exception tree: everything that featbank raises on purpose.

::

    FeatbankError
    ├── DataError (ValueError)              a source, a label or a split that can't be used
    │   ├── SourceNotFound (FileNotFoundError)
    │   └── ImageError                      one image that can't be read
    ├── BackboneError (ValueError)          a network, its weights or its layers
    │   ├── UnknownBackbone (LookupError)
    │   ├── UnknownLayer (LookupError)
    │   ├── WeightsUnavailable (FileNotFoundError)
    │   └── WeightsMismatch                 other bytes than the recipe names
    ├── BankError                           a bank as a whole
    │   ├── BankNotFound (FileNotFoundError)
    │   ├── BankDamaged (OSError)           bytes that are not what was sealed
    │   ├── BankVersionError                written by a later featbank
    │   ├── FeaturesMissing (LookupError)   asked for, and not computed yet
    │   └── AmbiguousFeatures (LookupError) several fit; the message lists them
    ├── ExtractionError (RuntimeError)      a run that can't go on
    ├── HeadError (ValueError)              a classifier on features
    │   └── UnknownHead (LookupError)
    ├── EvaluationError (ValueError)        a score that can't be had honestly
    ├── FineTuneError (ValueError)          a training that can't be done or continued as asked
    ├── ClassifierError (ValueError)        a classifier file
    │   └── UntrustedTypeError              the file holds a type that is not on the list
    └── MissingDependency (ImportError)     an optional package; the message names the extra

Each class also derives from the builtin that a caller would catch. Every message is one or two
sentences: what was given, what was expected, what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "AmbiguousFeatures",
    "BackboneError",
    "BankDamaged",
    "BankError",
    "BankNotFound",
    "BankVersionError",
    "ClassifierError",
    "DataError",
    "EvaluationError",
    "ExtractionError",
    "FeatbankError",
    "FeaturesMissing",
    "FineTuneError",
    "HeadError",
    "ImageError",
    "MissingDependency",
    "SourceNotFound",
    "UnknownBackbone",
    "UnknownHead",
    "UnknownLayer",
    "UntrustedTypeError",
    "WeightsMismatch",
    "WeightsUnavailable",
    "nearest",
    "readable",
]


class FeatbankError(Exception):
    """Base of every error that featbank raises on purpose."""

    def __str__(self) -> str:  # LookupError's subclasses would quote the message
        return str(self.args[0]) if self.args else ""


class DataError(FeatbankError, ValueError):
    """A source, a label or a split that can't be used as it is."""


class SourceNotFound(DataError, FileNotFoundError):
    """A folder or a file that was named is not there."""


class ImageError(DataError):
    """One image that can't be read; the message is the reason that the ledger keeps."""


class BackboneError(FeatbankError, ValueError):
    """A network, its weights or its layers can't be used as asked."""


class UnknownBackbone(BackboneError, LookupError):
    """No backbone bears this name."""


class UnknownLayer(BackboneError, LookupError):
    """The backbone has no layer of this path."""


class WeightsUnavailable(BackboneError, FileNotFoundError):
    """The weights are not on this machine and can't be brought here."""


class WeightsMismatch(BackboneError):
    """The weights that were found have other bytes than the recipe names."""


class BankError(FeatbankError):
    """A bank can't be used as asked."""


class BankNotFound(BankError, FileNotFoundError):
    """There is no bank at this path."""


class BankDamaged(BankError, OSError):
    """A file of the bank does not hold the bytes that were sealed."""


class BankVersionError(BankError):
    """The bank was written by a later featbank."""


class FeaturesMissing(BankError, LookupError):
    """The features that were asked for have not been computed yet."""


class AmbiguousFeatures(BankError, LookupError):
    """Several recipes or columns fit; the message lists them."""


class ExtractionError(FeatbankError, RuntimeError):
    """An extraction can't go on."""


class HeadError(FeatbankError, ValueError):
    """A head can't be built or fitted as asked."""


class UnknownHead(HeadError, LookupError):
    """No head bears this name."""


class EvaluationError(FeatbankError, ValueError):
    """A score can't be had honestly from these data."""


class FineTuneError(FeatbankError, ValueError):
    """A network can't be trained, or a training continued, as asked."""


class ClassifierError(FeatbankError, ValueError):
    """A classifier file can't be used."""


class UntrustedTypeError(ClassifierError):
    """A classifier file holds a type that is not on the list of trusted ones."""


class MissingDependency(FeatbankError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def nearest(name: str, valid: Iterable[str], *, limit: int = 5) -> str:
    """Return the end of a sentence that suggests valid names, the nearest first.

    Examples
    --------
    >>> nearest("resnet5", ["resnet18", "resnet50", "vgg16"], limit=2)
    'did you mean resnet50, resnet18?'
    """
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=limit, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(valid[:limit])
    return f"valid names are {shown}" + (", ..." if len(valid) > limit else ".")


_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of characters, not bytes of a name


def readable(text: str) -> str:
    """Return a name as text that every program reads: bytes that are no text escaped."""
    text = _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
