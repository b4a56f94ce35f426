"""The archive of a fitted head: a skops file, signed, checked before it is read, free of pickle.

It is a ZIP archive that ``skops.io.load`` reads too: a dict of ``"featbank"``, a text, and
``"head"``, the estimator. The archive's comment holds a SHA-256 of the whole file, taken with the
digest's own characters as zeros. No entry is compressed.

The digest tells damage from what was written, not a friend from a stranger. So an archive is
looked through before anything is built of it: its size, its arrays' headers, its types. What was
built is looked through before it is used (`featbank.heads.soundness`), and predicts once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import json
import re
import sys
import warnings
import zipfile
from typing import Any, BinaryIO

import numpy as np

from featbank.errors import ClassifierError, UntrustedTypeError
from featbank.heads.outputs import outputs
from featbank.heads.plain import PlainHead, plain_content
from featbank.heads.soundness import complaint

__all__ = ["TRUSTED_TYPES", "check_end", "dump_head", "load_head"]

TRUSTED_TYPES = (
    "featbank.heads.adjusted.AdjustedHead",
    "featbank.heads.centroid.NearestCentroid",
    "featbank.heads.mlp.MLPHead",
    "featbank.heads.multilabel.OneVsRestHead",
    "featbank.heads.views.ViewsHead",
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
_TYPES_AS_VALUES = {f"builtins.{name}" for name in ("bool", "float", "int", "str")}
_MAX_SCHEMA = 1 << 24  # bytes: what is no array; ours have some tens of thousands
_MAX_WORDS = 200  # characters of another library's error in a message
_MAX_NAMES, _MAX_NAME = 20, 100  # in a message: untrusted types, and characters of each
_MAX_NODES = 100_000  # an MLP has two for each epoch that it was trained

_MARK = b"featbank-sha256:"
_COMMENT = re.compile(_MARK + rb"([0-9a-f]{64})\Z")


def dump_head(text: str, head: Any) -> bytes:
    """Return the archive of a text and a fitted estimator.

    Raises
    ------
    ClassifierError
        The estimator holds what can't be saved without pickle, or it is a plain head.
    """
    if isinstance(getattr(head, "estimator", head), PlainHead):
        raise ClassifierError(
            "a head that was loaded as a plain one can't be saved; copy its file."
        )
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
    data: bytes, where: str, *, trust: tuple[str, ...] = (), plain: bool = False
) -> tuple[str, Any, list[str]]:
    """Return the text and the estimator of an archive, and warnings of reading it as notes.

    Parameters
    ----------
    data : bytes
    where : str
        The archive's name in messages.
    trust : tuple of str
        Types beyond `TRUSTED_TYPES` that may be constructed.
    plain : bool
        Whether a `featbank.heads.plain.PlainHead` takes the estimator's place where it can.

    Raises
    ------
    UntrustedTypeError, ClassifierError
    """
    _check_digest(data, where)
    _check_archive(data, where)
    schema = _check_types(data, where, trust)
    found = _plain(data, schema) if plain else None
    content, notes = (found, []) if found else _constructed(data, where, trust)
    text, head = content.get("featbank"), content.get("head")
    if not isinstance(text, str) or not hasattr(head, "predict"):
        raise ClassifierError(f"{where!r} holds no fitted head with its description.")
    if reason := complaint(head, trust):
        raise ClassifierError(f"{where!r} is refused: {reason}.")
    _try_out(head, len(data), where, trust)
    return text, head, notes


def _plain(data: bytes, schema: Any) -> dict[str, Any] | None:
    """Return what an archive holds with a plain head, without skops; None if it has none."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:

        @functools.cache  # however often a schema names it
        def read(name: str) -> Any:
            if not name.endswith(".npy"):  # only those were compared with what they declare
                raise ValueError(name)
            with archive.open(name) as file:
                return np.lib.format.read_array(file, allow_pickle=False)

        return plain_content(schema, read)


def _try_out(head: Any, size: int, where: str, trust: tuple[str, ...]) -> None:
    """Let the head predict one row of zeros: what does not fit together fails here."""
    width = getattr(head, "n_features_in_", None)
    if width is None and trust:  # it need not say what it takes
        return
    try:
        if not isinstance(width, int | np.integer) or not 0 < width <= size:
            raise ValueError(f"it takes {width} features")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            told = outputs(head, np.zeros((1, int(width)), np.float32))
        if not 0 <= told.codes[0] < len(head.classes_):
            raise ValueError("it predicts none of its classes")
    except Exception as error:  # a hostile head can raise nearly anything
        raise ClassifierError(
            f"{where!r} is refused: its head can't predict ({_words(error)})."
        ) from error


def _words(error: Exception) -> str:
    """Return what an error says, without its full stop, in a length fit for a message."""
    return " ".join(str(error).split())[:_MAX_WORDS].rstrip(".") or type(error).__name__


def _signed(data: bytes) -> bytes:
    """Put the digest of an archive into its comment."""
    comment = _MARK + b"0" * 64
    # The archive ends with its comment's length, two bytes, 0 as skops leaves it.
    blank = data[:-2] + len(comment).to_bytes(2, "little") + comment
    return blank[:-64] + hashlib.sha256(blank).hexdigest().encode()


def check_end(file: BinaryIO, where: str) -> None:
    """Refuse a file that does not end as a classifier does, before it is read whole.

    Raises
    ------
    ClassifierError
    """
    file.seek(max(0, file.seek(0, io.SEEK_END) - len(_MARK) - 64))
    _digest_in(file.read(), where)
    file.seek(0)


def _digest_in(end: bytes, where: str) -> bytes:
    found = _COMMENT.search(end)
    if found is None:
        raise ClassifierError(
            f"{where!r} is no classifier file of featbank, or its end is missing; copy it again "
            "from where it was made."
        )
    return found[1]


def _check_digest(data: bytes, where: str) -> None:
    found = _digest_in(data[-len(_MARK) - 64 :], where)
    digest = hashlib.sha256(data[:-64])
    digest.update(b"0" * 64)
    if digest.hexdigest().encode() != found:
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
            plain = not any(e.compress_type or e.flag_bits & 1 for e in entries)  # 1: encrypted
            if len(names) < len(entries) or not plain:
                raise ClassifierError(refused + "its entries are not as featbank writes them.")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ClassifierError(refused + "it declares more than its size can hold.")
            for entry in entries:
                if entry.filename.endswith(".npy"):
                    with archive.open(entry) as file:
                        _check_array(file, entry.file_size, refused + entry.filename)
                elif entry.file_size > _MAX_SCHEMA:
                    raise ClassifierError(f"{refused}{entry.filename} is too large.")
    except ClassifierError:
        raise
    except Exception as error:  # a hostile file can raise nearly anything inside zipfile and NumPy
        raise ClassifierError(refused + f"{_words(error)}.") from error


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
    # An item of no bytes would let a file declare any number of them.
    plain = not dtype.hasobject and dtype.itemsize and all(length >= 0 for length in shape)
    if not plain or declared != size - file.tell():
        raise ClassifierError(f"{refused} holds other than it declares.")


def _check_types(data: bytes, where: str, trust: tuple[str, ...]) -> Any:
    """Refuse by name every type that is neither on the list nor trusted; return the schema."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            text = archive.read("schema.json")
        if text.count(b"{") + text.count(b"[") > _MAX_NODES:
            raise ValueError("it is too large")
        schema = json.loads(text)
    except Exception as error:  # as above
        raise ClassifierError(
            f"{where!r} can't be read as a classifier: it has no schema of skops ({_words(error)})."
        ) from error
    unknown = set()
    held: dict[Any, Any] = {}
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            file, mark = str(node.get("file")), node.get("__id__")
            # skops reads an array once for each mark that it has.
            if "file" in node and (mark is None or held.setdefault(file, mark) != mark):
                raise ClassifierError(f"{where!r} is refused: it holds {file[:_MAX_NAME]} twice.")
            if "__class__" in node or "__loader__" in node:
                name = f"{node.get('__module__')}.{node.get('__class__')}"
                loader = str(node.get("__loader__"))
                built = name in _PLAIN_TYPES or name in TRUSTED_TYPES
                known = name in _TYPES_AS_VALUES if loader == "TypeNode" else built
                if name not in trust and not (known and loader in _PLAIN_LOADERS):
                    unknown.add(name)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    if unknown:
        raise _untrusted(sorted(unknown), where)
    return schema


def _untrusted(names: list[str], where: str) -> UntrustedTypeError:
    names = [name[:_MAX_NAME] for name in names[:_MAX_NAMES]]
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
                f"{where!r} can't be read as a classifier: {type(error).__name__}: {_words(error)}."
            ) from error
    if not isinstance(content, dict):
        raise ClassifierError(f"{where!r} holds no fitted head with its description.")
    # scikit-learn warns of each step whose version differs; the classifier says it once.
    others = [w for w in caught if w.category.__name__ != "InconsistentVersionWarning"]
    return content, list(dict.fromkeys(str(w.message).splitlines()[0] for w in others))
