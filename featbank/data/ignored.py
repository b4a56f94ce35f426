"""Ignored: what a walk passes over, by kind, and which of it is an image by its first bytes."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from featbank.data.formats import FIRST_BYTES, format_of
from featbank.regular import open_regular

__all__ = ["MAX_LOOKED_AT", "Ignored", "Sniffed", "extension_of", "look_inside"]

MAX_LOOKED_AT = 1000
"""Files of a source that are opened at most to see whether they are images."""

Sniffed = dict[bytes, tuple[int, int, str]]
"""By name: size, modification time, and format by the first bytes, empty if it is no image."""

_LONGEST = 12
# Files of these are what their name says (some raw photographs begin as TIFF does).
_OTHER = {
    "7z", "arw", "avi", "bz2", "cfg", "cr2", "cr3", "css", "csv", "db", "dcm", "dng", "doc",
    "docx", "exr", "gz", "h5", "hdf5", "hdr", "heic", "heif", "hif", "htm", "html", "ico",
    "ini", "ipynb", "j2k", "jp2", "js", "json", "jsonl", "jxl", "log", "m4v", "md", "mkv",
    "mov", "mp3", "mp4", "mpg", "nef", "npy", "npz", "orf", "parquet", "pdf", "pickle", "pkl",
    "ppt", "pptx", "psd", "pt", "pth", "py", "raf", "rar", "raw", "rst", "rw2", "safetensors",
    "sh", "skops", "sqlite", "svg", "tar", "toml", "tsv", "txt", "wav", "webm", "xls", "xlsx",
    "xml", "xmp", "xz", "yaml", "yml", "zip",
}  # fmt: skip


@dataclass
class Ignored:
    """What a walk has passed over.

    Attributes
    ----------
    formats : Counter of str
        Files that are no images by their names, by extension (``".svg"``; empty: without one).
    hidden : int
        Files and folders whose name starts with a dot.
    linked : int
        Links to folders that were not followed.
    unlisted : int
        Folders that could not be listed.
    outside : int
        Images in other folders than the splits'.
    unsure : list of (bytes, int, int)
        Name, size and modification time of the files of `formats` whose extension tells nothing,
        `MAX_LOOKED_AT` of them at most.
    more : int
        Further files of that kind.
    pages_taken : bool
        Whether further pages of files are images of their own.
    """

    formats: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    linked: int = 0
    unlisted: int = 0
    outside: int = 0
    unsure: list[tuple[bytes, int, int]] = field(default_factory=list)
    more: int = 0
    pages_taken: bool = False

    def add(self, name: bytes, entry: os.DirEntry[bytes]) -> None:
        """Take in a regular file that is no image by its name, relative to the source's root."""
        extension = extension_of(name)
        self.formats[extension] += 1
        if extension[1:] in _OTHER:
            return
        if len(self.unsure) == MAX_LOOKED_AT:
            self.more += 1
            return
        try:
            state = entry.stat(follow_symlinks=False)
        except OSError:  # it has just gone
            return
        self.unsure.append((name, state.st_size, state.st_mtime_ns))


def extension_of(name: bytes) -> str:
    """Return the extension of a file's name in lower case; empty if it has none.

    Numbers and long words behind a dot are part of a name, and no extension.
    """
    stem, dot, ending = name.rpartition(b"/")[2].rpartition(b".")
    word = ending.decode("ascii", "replace").lower()
    if not stem or len(word) > _LONGEST or not word.isalnum() or word.isdigit():
        return ""
    return dot.decode() + word


def look_inside(root: bytes, ignored: Ignored, known: Sniffed) -> Sniffed:
    """Return the format of each file whose extension tells nothing, by its first bytes.

    A file that is in `known` with the same size and time is not opened.
    """
    found: Sniffed = {}
    for name, size, time in ignored.unsure:
        before = known.get(name)
        if before is not None and before[:2] == (size, time):
            found[name] = before
        else:
            found[name] = (size, time, _format(os.path.join(root, name)))
    return found


def _format(path: bytes) -> str:
    try:
        with open_regular(path, follow=False) as file:
            return format_of(file.read(FIRST_BYTES)) or ""
    except OSError:
        return ""
