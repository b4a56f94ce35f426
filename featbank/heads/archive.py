"""The archive of a fitted head: a skops file, signed, checked before it is read, free of pickle.

It is a ZIP archive that ``skops.io.load`` reads too: a dict of ``"featbank"``, a text, and
``"head"``, the estimator. The archive's comment holds a SHA-256 of the whole file, taken with the
digest's own characters as zeros. No entry is compressed.

The digest tells damage from what was written, not a friend from a stranger. So an archive is
looked through before anything is built of it: its size, its arrays' headers, its types. And what
scikit-learn hands to compiled code unchecked is checked here.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from featbank.errors import ClassifierError, UntrustedTypeError

__all__ = ["TRUSTED_TYPES", "dump_head", "load_head"]

TRUSTED_TYPES = (
    "featbank.heads.mlp.MLPHead",
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.linear_model._ridge.RidgeClassifier",
    "sklearn.neighbors._classification.KNeighborsClassifier",
    "sklearn.neighbors._nearest_centroid.NearestCentroid",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.Normalizer",
    "sklearn.preprocessing._data.StandardScaler",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.svm._classes.LinearSVC",
    "sklearn.svm._classes.SVC",
)
"""The objects that featbank's own heads are made of, and no others: skops by itself would trust
every estimator of scikit-learn, some of which follow their arrays out of bounds."""

_PLAIN_TYPES = {
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
    *(
        f"numpy.{name}"
        for name in ("bool", "float32", "float64", "int32", "int64", "ndarray", "str_")
    ),
}
_PLAIN_LOADERS = {
    "CachedNode", "DictNode", "JsonNode", "ListNode", "NdArrayNode", "ObjectNode", "TupleNode",
    "TypeNode",
}  # fmt: skip

_MARK = b"featbank-sha256:"
_COMMENT = re.compile(_MARK + rb"([0-9a-f]{64})\Z")


def dump_head(text: str, head: Any) -> bytes:
    """Return the archive of a text and a fitted estimator.

    Raises
    ------
    ClassifierError
        The estimator holds what can't be saved without pickle.
    """
    skops_io = _import_skops()
    try:
        return _signed(skops_io.dumps({"featbank": text, "head": head}))
    except (TypeError, ValueError) as error:
        raise ClassifierError(f"the head can't be saved without pickle: {error}") from error


def _import_skops() -> Any:
    """Return ``skops.io`` without torch, which takes seconds and which no saved head needs.

    skops imports all that scikit-learn has, and one module of that imports torch. While it does so
    that one counts as missing.
    """
    module = "sklearn.externals.array_api_compat.torch"
    spare = not {module, "torch", "skops.io"} & sys.modules.keys()
    if spare:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("skops.io")
    finally:
        if spare:
            del sys.modules[module]


def load_head(
    data: bytes, where: str, *, trust: tuple[str, ...] = ()
) -> tuple[str, Any, list[str]]:
    """Return the text and the estimator of an archive, and warnings of reading it as notes.

    Parameters
    ----------
    data : bytes
    where : str
        The archive's name in messages.
    trust : tuple of str
        Types beyond `TRUSTED_TYPES` that may be constructed.

    Raises
    ------
    UntrustedTypeError, ClassifierError
    """
    _check_digest(data, where)
    _check_archive(data, where)
    _check_types(data, where, trust)
    content, notes = _constructed(data, where, trust)
    text, head = content.get("featbank"), content.get("head")
    if not isinstance(text, str) or not hasattr(head, "predict"):
        raise ClassifierError(f"{where!r} holds no fitted head with its description.")
    for part in _parts(head):
        if not _is_sound(part):
            raise ClassifierError(
                f"{where!r} holds a {type(part).__name__} that contradicts itself."
            )
    return text, head, notes


def _signed(data: bytes) -> bytes:
    """Put the digest of an archive into its comment."""
    comment = _MARK + b"0" * 64
    # The archive ends with its comment's length, two bytes, 0 as skops leaves it.
    blank = data[:-2] + len(comment).to_bytes(2, "little") + comment
    return blank[:-64] + hashlib.sha256(blank).hexdigest().encode()


def _check_digest(data: bytes, where: str) -> None:
    found = _COMMENT.search(data[-len(_MARK) - 64 :])
    if found is None:
        raise ClassifierError(
            f"{where!r} is no classifier file of featbank, or its end is missing; copy it again "
            "from where it was made."
        )
    digest = hashlib.sha256(data[:-64])
    digest.update(b"0" * 64)
    if digest.hexdigest().encode() != found[1]:
        raise ClassifierError(
            f"{where!r} is damaged: its bytes are not those that were written; copy it again from "
            "where it was made."
        )


def _check_archive(data: bytes, where: str) -> None:
    """Refuse an archive that would take more memory than it has bytes."""
    refused = f"{where!r} is refused: "
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            if len(names) < len(entries) or any(e.compress_type for e in entries):
                raise ClassifierError(refused + "its entries are not as featbank writes them.")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ClassifierError(refused + "it declares more than its size can hold.")
            for entry in entries:
                if entry.filename.endswith(".npy"):
                    with archive.open(entry) as file:
                        _check_array(file, entry.file_size, refused + entry.filename)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        if isinstance(error, ClassifierError):
            raise
        raise ClassifierError(refused + f"{error}.") from error


def _check_array(file: Any, size: int, refused: str) -> None:
    """Compare what an array declares with the bytes that are there."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ClassifierError(f"{refused} is of an unknown version.")
    shape, _, dtype = read(file)
    declared = dtype.itemsize
    for length in shape:
        declared *= int(length)
    if dtype.hasobject or any(length < 0 for length in shape) or declared != size - file.tell():
        raise ClassifierError(f"{refused} holds other than it declares.")


def _check_types(data: bytes, where: str, trust: tuple[str, ...]) -> None:
    """Refuse by name every type that is neither on the list nor trusted by the caller."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            schema = json.loads(archive.read("schema.json"))
    except (KeyError, ValueError, RecursionError) as error:
        raise ClassifierError(
            f"{where!r} can't be read as a classifier: it has no schema of skops ({error})."
        ) from error
    unknown = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "__class__" in node or "__loader__" in node:
                name = f"{node.get('__module__')}.{node.get('__class__')}"
                known = name in _PLAIN_TYPES or name in TRUSTED_TYPES
                if name not in trust and not (known and node.get("__loader__") in _PLAIN_LOADERS):
                    unknown.add(name)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    if unknown:
        raise _untrusted(sorted(unknown), where)


def _untrusted(names: list[str], where: str) -> UntrustedTypeError:
    asked = " ".join(f"--trust {name}" for name in names)
    return UntrustedTypeError(
        f"{where!r} holds {', '.join(names)}, which featbank doesn't trust by itself; if you know "
        f"who made the file, load it with {asked}."
    )


def _constructed(
    data: bytes, where: str, trust: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Build the objects of an archive from trusted types only; also return warnings as notes."""
    skops_io = _import_skops()
    from skops.io.exceptions import UntrustedTypesFoundException

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            content = skops_io.loads(data, trusted=[*TRUSTED_TYPES, *trust])
        except UntrustedTypesFoundException as error:
            names = re.findall(r"'([^']+)'", str(error).splitlines()[0])
            raise _untrusted(names, where) from error
        except Exception as error:  # whatever skops meets in a file that no featbank wrote
            raise ClassifierError(
                f"{where!r} can't be read as a classifier: {type(error).__name__}: {error}."
            ) from error
    if not isinstance(content, dict):
        raise ClassifierError(f"{where!r} holds no fitted head with its description.")
    # scikit-learn warns of each step whose version differs; the classifier says it once.
    others = [w for w in caught if w.category.__name__ != "InconsistentVersionWarning"]
    return content, list(dict.fromkeys(str(w.message).splitlines()[0] for w in others))


def _parts(head: Any) -> Iterator[Any]:
    """Walk through an estimator and those inside it."""
    yield head
    inner = [step for _, step in getattr(head, "steps", ())]
    inner += [c.estimator for c in getattr(head, "calibrated_classifiers_", ())]
    for part in inner:
        yield from _parts(part)


def _is_sound(part: Any) -> bool:
    """Tell whether arrays that compiled code indexes without a check agree with one another."""
    try:
        k = len(part.classes_) if hasattr(part, "classes_") else 0
        if type(part).__name__ == "SVC":
            n = len(part.support_vectors_)
            counts = part._n_support
            pairs = k * (k - 1) // 2
            return bool(
                counts.shape == (k,)
                and np.all(counts >= 0)
                and counts.sum() == n
                and part.support_.shape == (n,)
                and part._dual_coef_.shape == (k - 1, n)
                and part._intercept_.shape == (pairs,)
                and part._probA.shape in ((0,), (pairs,))
                and part._probA.shape == part._probB.shape
            )
        if type(part).__name__ == "KNeighborsClassifier":
            y = part._y
            return bool(y.shape == (len(part._fit_X),) and np.all((y >= 0) & (y < k)))
    except (AttributeError, TypeError, ValueError):
        return False
    return True
