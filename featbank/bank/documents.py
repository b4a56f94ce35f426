"""The documents: a bank's JSON files, each with the SHA-256 of its own text in the first line.

::

    {
      "sha256": "<of the text without this line>",
      ...

So a document is plain JSON, and a flipped bit in it is seen. What was written before documents
had digests begins with another key, and is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from featbank import durable
from featbank.data.sources import Source
from featbank.errors import BankDamaged, BankVersionError
from featbank.regular import NotRegular, open_regular

__all__ = ["checked_sources", "document_text", "read_document", "write_document"]

DOCUMENT_VERSION = 1
"""Raised, as ``format`` in each document, when an older featbank could not read one rightly."""

_HEAD = b'{\n  "sha256": "'
_TAIL = b'",\n'
_MAX_BYTES = 1 << 20
_LISTS = ("sources.json", "trained-on.json")
_MAX_LISTED = 1 << 28  # bytes of sources.json: a list of a million images has half of it
_MAX_NESTED = 10_000  # lists and objects in a document, beyond brackets in names
_WITHOUT_DIGEST = ("featbank", "format")  # first keys of documents that have none


def document_text(content: Mapping[str, Any]) -> bytes:
    """Return the text of a document; `content` is plain data, and is not empty."""
    rest = f"{json.dumps(content, indent=2)}\n".encode().removeprefix(b"{\n")
    return _HEAD + hashlib.sha256(rest).hexdigest().encode() + _TAIL + rest


def write_document(path: str, content: Mapping[str, Any]) -> None:
    """Write a document durably, replacing what was there.

    Raises
    ------
    OSError
        The disk is full or failed; the old document stands.
    """
    durable.write_file(path, document_text(content))


def read_document(path: str) -> dict[str, Any]:
    """Read a document.

    Raises
    ------
    BankDamaged
        It is not the text that was written.
    BankVersionError
        A later featbank wrote it.
    """
    try:
        with open_regular(path, follow=False) as file:
            most = _MAX_LISTED if os.path.basename(path) in _LISTS else _MAX_BYTES
            if os.fstat(file.fileno()).st_size > most:
                raise BankDamaged(f"{path} is larger than any such document of a bank.")
            text = file.read()
            # A list of nothing is three bytes of text, and thirty times that in memory.
            if text.count(b"[") + text.count(b"{") > _MAX_NESTED + len(text) // 16:
                raise BankDamaged(f"{path} holds other than a document of a bank would.")
    except NotRegular as error:
        raise BankDamaged(f"{path} {error.strerror}.") from error
    rest = text[len(_HEAD) + 64 + len(_TAIL) :]
    whole = text == _HEAD + hashlib.sha256(rest).hexdigest().encode() + _TAIL + rest
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BankDamaged(
            f"{path} is no longer the JSON that was written ({error}); run `featbank repair`."
        ) from error
    if not isinstance(document, dict):
        raise BankDamaged(f"{path} holds no JSON object; run `featbank repair`.")
    if not whole and next(iter(document), None) not in _WITHOUT_DIGEST:
        raise BankDamaged(f"{path} does not hold the text that was written; run `featbank repair`.")
    document.pop("sha256", None)
    version = document.get("format", DOCUMENT_VERSION)
    if isinstance(version, int) and version > DOCUMENT_VERSION:
        raise BankVersionError(
            f"{path} has format {version} and this featbank reads up to {DOCUMENT_VERSION}; "
            "install a newer featbank."
        )
    return document


def checked_sources(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a document says was indexed, by name, if each is a source.

    Raises
    ------
    DataError, LookupError, TypeError, AttributeError
        It is not.
    """
    found = {}
    for plain in document["sources"]:
        found[Source.from_dict(plain).name] = dict(plain)
    return found
