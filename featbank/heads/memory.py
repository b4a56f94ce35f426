"""Memory: what a fit needs, known before it is used, and what this machine can give."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

from featbank.errors import HeadError

__all__ = ["available_memory", "check_memory", "fit_bytes", "parse_size", "shown_size"]

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SHARE = 0.9  # of what is available: the rest is left to everything else that runs
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def available_memory() -> int | None:
    """Return the bytes that this process may still take; None where the system can't tell.

    On Linux the least of what the kernel has left and what the container's limit leaves, files
    that are merely cached not counted; elsewhere half of the machine's memory.
    """
    left = [_cgroup_left(*names) for names in _CGROUPS]
    if found := re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE):
        left.append(int(found[1]) << 10)
    else:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
            left.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min((n for n in left if n is not None), default=None)


def fit_bytes(head: str, n: int, d: int, k: int = 2, *, itemsize: int = 4) -> int:
    """Return the bytes that fitting a head takes beside the features, about.

    Parameters
    ----------
    head : str
        A name of `featbank.list_heads`; any other is taken to copy the features twice.
    n, d, k : int
        Rows, columns and classes.
    itemsize : int, default=4
        Bytes of one feature.

    Notes
    -----
    Every head takes the rows of a training part (one copy) and scales them (another). ``svm``
    also holds a Gram matrix of float64 and the copy that libsvm makes of it; ``ridge`` and ``lda``
    a covariance, or where there are fewer rows than columns `ridge` a Gram matrix; ``linear-svm``
    liblinear's own copy, float64; ``knn`` distances to all rows for a block of them.

    Examples
    --------
    >>> shown_size(fit_bytes("svm", 100_000, 2048))
    '151 GB'
    """
    copies = 2 * n * d * itemsize
    outputs = 2 * n * k * 8
    own = {
        "svm": 2 * 8 * n * n,
        "linear-svm": 16 * n * d,  # an index and a value for each feature
        "ridge": 8 * min(n, d) ** 2,
        "lda": 3 * 8 * d * d,
    }
    return copies + outputs + own.get(head, 0)


def check_memory(need: int, what: str, instead: str, *, available: int | None = None) -> None:
    """Refuse what will not fit in memory, before it is tried.

    Parameters
    ----------
    need : int
        Bytes.
    what : str
        What needs them, as in "the Gram matrix of svm on 100000 images".
    instead : str
        What to do, as in "use linear-svm or logreg, or fewer images".
    available : int, optional
        Bytes that there are, `available_memory` by default.

    Raises
    ------
    HeadError

    Examples
    --------
    >>> check_memory(8 << 30, "svm on 30000 images", "use linear-svm", available=4 << 30)
    Traceback (most recent call last):
    featbank.errors.HeadError: svm on 30000 images needs 8.0 GB of memory, and 4.0 GB are left; ...
    """
    have = available_memory() if available is None else available
    if have is not None and need > (have if available is not None else SHARE * have):
        raise HeadError(
            f"{what} needs {shown_size(need)} of memory, and {shown_size(have)} are left; "
            f"{instead}."
        )


def parse_size(text: Any) -> int:
    """Return the bytes of a number, or of a text such as ``"4GB"``, ``"512M"``, ``"1.5 GiB"``.

    A thousand is 1,024 here, with or without the i.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> parse_size("1.5GB")
    1610612736
    """
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?\s*", str(text), re.IGNORECASE)
    size = 0
    if found and (found[2] or found[3]):  # "4" is rather meant as 4 GB than as bytes
        size = int(float(found[1]) * UNITS[found[2].upper()])
    if size < 1:
        raise ValueError(
            f"a size of memory is a number with a unit, as 4GB or 512MB, not {text!r}."
        )
    return size


def shown_size(size: float) -> str:
    """Return bytes for a reader, to two or three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1024
    return f"{size:.1f} {unit}" if size < 10 and unit != "bytes" else f"{size:,.0f} {unit}"


def _cgroup_left(limit: str, used: str, stat: str) -> int | None:
    """Return what a container's limit leaves, where there is one."""
    top, taken = _text(limit).strip(), _text(used).strip()
    if not top.isdigit() or not taken.isdigit():  # no such file, or "max"
        return None
    cached = re.search(r"^(?:total_)?inactive_file (\d+)", _text(stat), re.MULTILINE)
    return max(0, int(top) - int(taken) + (int(cached[1]) if cached else 0))


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
