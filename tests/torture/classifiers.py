"""Classifiers and weights from strangers: code under our extensions, archives and arrays that lie.

Every digest is right, for a stranger can compute it too. A payload that ran would leave a folder in
the canary's. What loads is used: a classifier predicts, weights fill a network.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import operator
import os
import pickle
import random
import shutil
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import joblib
import numpy as np
import scipy.sparse
import skops.io
import torch
from click.testing import CliRunner
from safetensors.torch import save as save_safetensors
from sklearn.ensemble import RandomForestClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import SGDClassifier
from sklearn.neighbors import KDTree, KNeighborsClassifier
from sklearn.preprocessing import Normalizer
from sklearn.tree import DecisionTreeClassifier

from featbank.backbones import weights
from featbank.cli import cli
from featbank.errors import BackboneError, FeatbankError
from featbank.heads import archive
from tests.tiny import TinyNet
from tests.torture.fuzz import (
    change_classifier,
    classifier_seeds,
    unsigned,
    use_classifier,
)
from tests.torture.harness import Harness, Mutation, Trials
from tests.torture.mutators import mutate
from tests.torture.sandbox import Canary, attempts, check_refusal

_X = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
_MEMORY = 320 << 20  # bytes that a trial may take
_CLASSES = np.array(["ant", "bee"])[np.arange(20) % 2]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


@dataclass(frozen=True)
class Case:
    """One hostile file: `make` writes it, or something else, at a path that it is given.

    `ending` is the file's, and says by whom it is read.
    """

    name: str
    ending: str
    make: Callable[[Path], None]


def _written(data: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: _write(path, data())


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


# Archives


def archive_of(contents: list[tuple[Any, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of (name or ZipInfo, content), unsigned."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in contents:
            made.writestr(name, content)
    return buffer.getvalue()


def contents_of(data: bytes) -> list[tuple[Any, bytes]]:
    """Return (name, content) of an archive's entries."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return [(entry.filename, opened.read(entry)) for entry in opened.infolist()]


def _array(shape: Any, descr: Any = "<f8", content: bytes = b"", version: int = 1) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content


def _entry(name: str, **fields: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def _encrypted(data: bytes) -> bytes:
    """Set the bit that says so, of every entry."""
    changed = bytearray(data)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = changed.find(mark)
        while start >= 0:
            changed[start + at] |= 1
            start = changed.find(mark, start + 1)
    return bytes(changed)


def _with_sizes(data: bytes, size: int) -> bytes:
    """Let the directory declare another size of every entry."""
    changed = bytearray(data)
    start = changed.find(b"PK\1\2")
    while start >= 0:
        changed[start + 20 : start + 28] = struct.pack("<II", size, size)
        start = changed.find(b"PK\1\2", start + 1)
    return bytes(changed)


@functools.cache
def _bomb(saved: bytes) -> bytes:
    """Return a classifier whose arrays unfold to more than a trial may take, unsigned."""
    buffer = io.BytesIO()
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for number, (name, content) in enumerate(contents_of(unsigned(saved))):
            with made.open(name, "w") as entry:
                if number:
                    entry.write(content)
                    continue
                entry.write(_array((2 * _MEMORY,), "|u1"))
                for _ in range(2 * _MEMORY >> 20):
                    entry.write(zeros)
    return buffer.getvalue()


def _at_one_place(data: bytes) -> bytes:
    """Let all entries of the directory lie at the same place."""
    changed = bytearray(data)
    first = changed.find(b"PK\1\2")
    start = first
    while start >= 0:
        changed[start + 42 : start + 46] = bytes(4)
        changed[start + 16 : start + 28] = changed[first + 16 : first + 28]
        start = changed.find(b"PK\1\2", start + 1)
    return bytes(changed)


def archive_cases(saved: bytes, canary: Path) -> dict[str, Callable[[], bytes]]:
    """Return archives, unsigned, that no skops wrote."""
    plain = unsigned(saved)
    whole = contents_of(plain)
    arrays = [name for name, _ in whole if name.endswith(".npy")]

    def arrays_replaced(content: bytes) -> Callable[[], bytes]:
        return lambda: archive_of([(n, content if n in arrays else c) for n, c in whole])

    def with_more(*more: tuple[Any, bytes], **how: Any) -> Callable[[], bytes]:
        return lambda: archive_of([*whole, *more], **how)

    def with_schema(text: bytes) -> Callable[[], bytes]:
        return lambda: archive_of([*whole[:-1], ("schema.json", text)])

    objects = io.BytesIO()
    np.save(objects, np.array([Payload(canary / "array")], dtype=object))
    many = [(f"{i}.npy", b"") for i in range(20_000)]
    bomb = bytes(50_000_000)
    nested = lambda: archive_of([("a.zip", archive_of([("b", bomb)], zipfile.ZIP_DEFLATED))])  # noqa: E731
    found: dict[str, Callable[[], bytes]] = {
        "an array that unfolds": lambda: _bomb(saved),
        "a compressed bomb": with_more(("big.npy", bomb), compression=zipfile.ZIP_DEFLATED),
        "a bomb by bzip2": with_more(("big.npy", bomb), compression=zipfile.ZIP_BZIP2),
        "a bomb in a bomb": nested,
        "arrays of terabytes": arrays_replaced(_array((1 << 40,))),
        "arrays of items without bytes": arrays_replaced(_array((1 << 40,), "<U0")),
        "a few items without bytes": arrays_replaced(_array((3,), "|S0")),
        "arrays of a negative length": arrays_replaced(_array((-1,))),
        "arrays of many axes": arrays_replaced(_array((1,) * 100, content=bytes(8))),
        "arrays of objects": arrays_replaced(objects.getvalue()),
        "arrays of a named type": arrays_replaced(_array((1,), [("a", "<f8")], bytes(8))),
        "arrays of times": arrays_replaced(_array((1,), "<M8[s]", bytes(8))),
        "arrays with a nested header": arrays_replaced(
            b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000
        ),
        "arrays with code in the header": arrays_replaced(_array("__import__('os')")),
        "arrays of version 2": arrays_replaced(_array((1,), content=bytes(8), version=2)),
        "arrays of version 9": arrays_replaced(_array((1,), content=bytes(8), version=9)),
        "arrays without a header": arrays_replaced(b"\x93NUMPY"),
        "entries with paths": with_more(
            ("../../canary", b"x"), ("/etc/x", b"x"), ("a\\..\\b", b"")
        ),
        "an entry that is a link": with_more(
            (_entry("link", external_attr=0o120777 << 16), bytes(canary))
        ),
        "entries twice": with_more(whole[0]),
        "two schemas": with_more(whole[-1]),
        "many entries": with_more(*many),
        "encrypted entries": lambda: _encrypted(plain),
        "entries that declare much": lambda: _with_sizes(plain, 2**32 - 2),
        "entries that declare nothing": lambda: _with_sizes(plain, 0),
        "entries at one place": lambda: _at_one_place(plain),
        "no entries": lambda: archive_of([]),
        "no schema": lambda: archive_of(whole[:-1]),
        "no arrays": lambda: archive_of(whole[-1:]),
        "something before": lambda: b"#!/bin/sh\ntrue\n" + plain,
        "a nested schema": with_schema(b"[" * 100_000),
        "a large schema": with_schema(b'{"a": "' + b"x" * 20_000_000 + b'"}'),
        "a schema of lists": with_schema(b"[" + b"[]," * 5_000_000 + b"[]]"),
        "a schema that is a number": with_schema(b"1"),
        "a schema that is no UTF-8": with_schema(b"\xff\xfe"),
    }
    return found


# Contents of a skops file


def described(saved: bytes) -> dict[str, Any]:
    """Return the description that a classifier file carries."""
    schema = json.loads(dict(contents_of(unsigned(saved)))["schema.json"])
    text: dict[str, Any] = json.loads(json.loads(schema["content"]["featbank"]["content"]))
    return text


def dumped(text: Any, head: Any) -> bytes:
    """Return the classifier file of a description and a head, signed."""
    text = text if isinstance(text, str) else json.dumps(text)
    return archive._signed(skops.io.dumps({"featbank": text, "head": head}))


def _dumped(
    saved: bytes, change: Callable[[Any], Any] = lambda head: head, text: Any = None
) -> Callable[[Path], None]:
    """Return what writes a saved classifier with another head or another description."""

    def make(path: Path) -> None:
        head = skops.io.loads(saved, trusted=list(archive.TRUSTED_TYPES))["head"]
        words = described(saved) if text is None else text
        _write(path, saved)
        with suppress(Exception):  # skops can't save everything: then it is the one that was saved
            _write(path, dumped(words, change(head)))

    return make


def object_cases(canary: Path) -> dict[str, Any]:
    """Return heads that are no heads of ours, and parts of some."""
    fit = (_X, _CLASSES)
    return {
        "a partial": functools.partial(os.mkdir, str(canary / "partial")),
        "a method caller": operator.methodcaller("mkdir", str(canary / "caller")),
        "an attribute getter": operator.attrgetter("a"),
        "a function": os.mkdir,
        "a ufunc": np.add,
        "a type": dict,
        "a set": {1, 2},
        "bytes": b"bytes",
        "a slice": slice(1),
        "a date": np.datetime64("2020-01-01"),
        "a random state": np.random.RandomState(0),
        "a generator": np.random.default_rng(0),
        "a sparse matrix": scipy.sparse.eye(3).tocsr(),
        "a masked array": np.ma.masked_array([1, 2], [True, False]),
        "an array of objects": np.array([{}, []], dtype=object),
        "a method": Normalizer().transform,
        "a tree": DecisionTreeClassifier().fit(*fit),
        "a forest": RandomForestClassifier(2).fit(*fit),
        "neighbours in a tree": KNeighborsClassifier(algorithm="kd_tree").fit(*fit),
        "a k-d tree": KDTree(_X),
        "a descent": SGDClassifier().fit(*fit),
        "an isotonic regression": IsotonicRegression().fit([1, 2], [1, 2]),
        "nothing": None,
        "text": "head",
        "a dict": {"predict": 1},
    }


_LOADERS = (
    "FunctionNode", "PartialNode", "MethodNode", "ObjectNode", "ReduceNode", "TypeNode", "JsonNode",
    "ConstructorFromReduceNode", "OperatorFuncNode", "RandomStateNode", "CachedNode", "NoNode", 1,
    "SparseMatrixNode", "SetNode", "BytesNode", "DTypeNode", "_DictWithDeprecatedKeysNode", "Node",
)  # fmt: skip
_NAMES = (
    ("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("posix", "mkdir"),
    ("subprocess", "Popen"), ("builtins", "dict"), ("sklearn.svm._classes", "SVC"),
    ("numpy", "ndarray"), ("numpy.lib._npyio_impl", "load"), ("pickle", "loads"),
    ("featbank.heads.mlp", "MLPHead"), ("sklearn.pipeline", "Pipeline"), (None, None), (1, []),
)  # fmt: skip


def node_cases(saved: bytes, canary: Path) -> dict[str, Callable[[], bytes]]:
    """Return archives, unsigned, whose head is a node of every loader under every name."""
    whole = contents_of(unsigned(saved))
    target = json.dumps(str(canary / "node"))
    argument = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode",
                "content": target, "is_json": True, "__id__": 7}  # fmt: skip
    found: dict[str, Callable[[], bytes]] = {}
    for loader in _LOADERS:
        for module, name in _NAMES:

            def made(loader: Any = loader, module: Any = module, name: Any = name) -> bytes:
                schema = json.loads(whole[-1][1])
                schema["content"]["head"] = {
                    "__class__": name, "__module__": module, "__loader__": loader, "__id__": 1,
                    "content": argument, "func": argument, "args": argument, "reduce": argument,
                    "constructor": argument, "attrs": argument, "type": "numpy", "shape": argument,
                    "kwargs": argument, "namespace": argument, "function": argument,
                }  # fmt: skip
                return archive_of([*whole[:-1], ("schema.json", json.dumps(schema).encode())])

            found[f"{module}.{name} by {loader}"] = made
    return found


_FAULTS: dict[str, Callable[[Any], Any]] = {
    "none of it": lambda v: v[:0].copy(),
    "one of it": lambda v: v[:1].copy(),
    "twice": lambda v: np.concatenate([v, v]),
    "many times": lambda v: np.concatenate([v] * 50),
    "flat": lambda v: v.ravel().copy(),
    "turned": lambda v: v.T.copy(),
    "one more axis": lambda v: v[None].copy(),
    "in Fortran's order": np.asfortranarray,
    "not a number": lambda v: np.full(v.shape, np.nan),
    "infinite": lambda v: np.full(v.shape, np.inf),
    "negative": lambda v: -abs(v) - 1,
    "large": lambda v: v + 10**8,
    "wrapping": lambda v: np.full(v.shape, -(2**31), v.dtype),
    "halves": lambda v: v.astype(np.float32),
    "whole": lambda v: v.astype(np.int64),
    "words": lambda v: v.astype("U"),
    "none": lambda v: None,
    "a list": lambda v: v.tolist(),
    "a number": lambda v: 3,
    "text": lambda v: "x",
}


_VALUES: dict[str, Any] = {
    **{repr(v): v for v in (None, -1, 10**9, [], "x", 0.5, "precomputed", True, {}, float("nan"))},
    "the head itself": None,
}


def estimators_in(head: Any) -> list[Any]:
    """Return the estimators that a head of ours is made of."""
    found, waiting = [], [head]
    while waiting:
        part = waiting.pop()
        found.append(part)
        waiting += [step for _, step in getattr(part, "steps", ())]
        waiting += getattr(part, "calibrated_classifiers_", [])
        waiting += getattr(part, "calibrators", [])
        waiting += getattr(part, "estimators_", [])
        inner = getattr(part, "estimator", None)
        waiting += [inner] if hasattr(inner, "get_params") else []
    return found


def faulty_head(head: Any, rng: random.Random) -> tuple[str, Any]:
    """Return a copy of a head with one or two attributes that do not fit, and what was done."""
    head = copy.deepcopy(head)
    words, parts = [], estimators_in(head)
    for _ in range(rng.choice((1, 1, 1, 2))):
        part = rng.choice(parts)
        arrays = [k for k, v in vars(part).items() if isinstance(v, np.ndarray)]
        others = sorted(vars(part).keys() - set(arrays))
        if arrays and rng.random() < 0.75:
            name, fault = rng.choice(arrays), rng.choice(list(_FAULTS))
            with suppress(ValueError, TypeError, IndexError):
                setattr(part, name, _FAULTS[fault](vars(part)[name]))
        elif others:
            name, (fault, value) = rng.choice(others), rng.choice(list(_VALUES.items()))
            setattr(part, name, head if fault == "the head itself" else value)
        else:
            continue
        words.append(f"{type(part).__name__}.{name} {fault}")
    return ", ".join(words), head


def out_of_bounds(saved: bytes) -> bytes:
    """Return an SVC whose support indexes the caller's row far out of bounds."""
    head = skops.io.loads(saved, trusted=list(archive.TRUSTED_TYPES))["head"]
    svc = head[-1]
    svc.kernel, svc.shape_fit_ = "precomputed", (6, 6)
    svc.support_ = np.full(svc.support_.shape, 10**9, np.int32)
    return dumped(described(saved), head)


# Weights


def weight_cases(canary: Path) -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Return (ending, bytes) of files of weights, by what is wrong with them."""
    state = TinyNet(0).state_dict()

    def torch_saved(value: Any, **how: Any) -> Callable[[], bytes]:
        def made() -> bytes:
            buffer = io.BytesIO()
            torch.save(value, buffer, **how)
            return buffer.getvalue()

        return made

    def changed(**changes: Any) -> dict[str, Any]:
        return {**state, **{name.replace("__", "."): value for name, value in changes.items()}}

    def compressed() -> bytes:
        inner = contents_of(torch_saved({"x": torch.zeros(10_000_000)})())
        return archive_of(inner, zipfile.ZIP_DEFLATED)

    def tar() -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as made:
            for name in ("storages", "tensors", "pickle", "../../../tmp/featbank-torture-tar"):
                data = pickle.dumps(Payload(canary / "tar"))
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                made.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()

    def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def tensor(offsets: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    twice = b'{"a":%s,"a":%s}' % (
        *(json.dumps(tensor(end, shape)).encode() for end, shape in (([0, 8], [2]), ([0, 4], [1]))),
    )
    payload = Payload(canary / "weights")
    large = torch.zeros(1)
    found: dict[str, tuple[str, Callable[[], bytes]]] = {}
    for name, value in {
        "code": payload,
        "code beside the state": {"state_dict": state, "x": payload},
        "code as a key": {**state, "x": payload},
        "a whole network": TinyNet(0),
        "a partial": functools.partial(os.mkdir, str(canary / "partial")),
        "numbers": [1, 2],
        "text": "x",
        "nothing": None,
        "no state": {},
        "numbers for names": {1: torch.zeros(1)},
        "a state without tensors": {"a": 1},
        "another shape": changed(fc__weight=torch.zeros(5, 13)),
        "an unknown name": changed(stranger=torch.zeros(1)),
        "not a number": changed(fc__bias=torch.full((5,), torch.nan)),
        "text for a tensor": changed(fc__bias="x"),
        "a list for a tensor": changed(fc__bias=[1.0] * 5),
        "another type": changed(fc__bias=torch.zeros(5, dtype=torch.int8)),
        "complex numbers": changed(fc__bias=torch.zeros(5, dtype=torch.complex64)),
        "a sparse tensor": changed(fc__weight=torch.zeros(5, 12).to_sparse()),
        "a tensor without bytes": changed(fc__weight=torch.zeros(5, 12, device="meta")),
        "terabytes by strides": changed(fc__weight=large.expand(1 << 20, 1 << 20)),
        "a layer of a billion classes": changed(
            fc__weight=large.expand(10**9, 12), fc__bias=large.expand(10**9)
        ),
    }.items():
        with suppress(Exception):  # what torch itself can't save
            torch_saved(value)()
            found[f"{name}, in an archive"] = ("pth", torch_saved(value))
            legacy = {"_use_new_zipfile_serialization": False}
            torch_saved(value, **legacy)()
            found[f"{name}, as a pickle"] = ("pth", torch_saved(value, **legacy))
    for protocol in range(6):
        data = functools.partial(pickle.dumps, payload, protocol)
        found[f"a pickle of protocol {protocol}"] = ("pth", data)
        found[f"a pickle of protocol {protocol} as safetensors"] = ("safetensors", data)
    found |= {
        "a compressed archive": ("pth", compressed),
        "a tar": ("pth", tar),
        "an archive without entries": ("pth", lambda: archive_of([])),
        "an archive with paths": ("pth", lambda: archive_of([("../x/data.pkl", b"x")])),
        "many bytes by a call": ("pth", lambda: _call_of("builtins", "bytearray", 10**12)),
        "a tensor by a call": ("pth", lambda: _call_of("torch", "Tensor", 10**12)),
        "a call": ("pth", lambda: _call_of("os", "system", "true")),
        "empty": ("pth", lambda: b""),
        "empty safetensors": ("safetensors", lambda: b""),
        "a pickle of text": ("pth", lambda: pickle.dumps("x")),
    }
    for name, header, data, length in (
        ("a header of exabytes", {}, b"", 2**63), ("a negative header", {}, b"", 2**64 - 1),
        ("a header past the end", {}, b"", 1000), ("a header of text", b"x" * 50, b"", None),
        ("a nested header", b"[" * 10_000, b"", None), ("no tensors", {}, b"", None),
        ("an offset past the end", {"a": tensor([0, 8])}, b"", None),
        ("an offset backwards", {"a": tensor([8, 0])}, bytes(8), None),
        ("a negative offset", {"a": tensor([-8, 0])}, bytes(8), None),
        ("overlapping tensors", {"a": tensor([0, 8]), "b": tensor([0, 8])}, bytes(8), None),
        ("a hole", {"a": tensor([0, 8]), "b": tensor([16, 24])}, bytes(24), None),
        ("a shape that does not fit", {"a": tensor([0, 8], (200,))}, bytes(8), None),
        ("a shape that overflows", {"a": tensor([0, 8], (2**62, 2**62))}, bytes(8), None),
        ("a shape of nothing", {"a": tensor([0, 0], (0, 2**40))}, b"", None),
        ("an unknown type", {"a": tensor([0, 8], dtype="X9")}, bytes(8), None),
        ("another type", {"a": tensor([0, 8], (8,), "U8")}, bytes(8), None),
        ("a name twice", twice, bytes(8), None),
        ("metadata that is code", {"__metadata__": {"x": "os.system"}}, b"", None),
        ("metadata that is a list", {"__metadata__": [1]}, b"", None),
    ):  # fmt: skip
        made = functools.partial(safetensors, header, data, length)
        found[f"safetensors with {name}"] = ("safetensors", made)
    whole = save_safetensors(dict(state))
    found["whole safetensors"] = ("safetensors", lambda: whole)
    found["whole"] = ("pth", torch_saved(state))
    return found


def _call_of(module: str, name: str, argument: Any) -> bytes:
    """Return a pickle whose state dict holds the result of a call."""
    inner = pickle.dumps(argument, 2)[2:-1]
    text = f"c{module}\n{name}\n".encode()
    return b"\x80\x02}X\x01\x00\x00\x00a" + text + inner + b"\x85Rs."


# What is no file


def _not_a_file(kind: str, canary: Path) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a folder":
            path.mkdir()
        elif kind == "a socket":
            before = os.getcwd()
            os.chdir(path.parent)  # a socket's address is short
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(path.name)
            os.chdir(before)
        elif kind == "zeros without end":
            path.symlink_to("/dev/zero")
        elif kind == "a link to a pipe":
            path.symlink_to(canary.parent / "pipe")
        elif kind == "a link to itself":
            path.symlink_to(path)
        elif kind == "a hole of terabytes":
            with path.open("wb") as file:
                file.truncate(1 << 42)
        elif kind == "a hole with an end":
            with path.open("wb") as file:
                file.truncate(1 << 42)
                file.seek(0, os.SEEK_END)
                file.write(archive._MARK + b"0" * 64)

    return make


_KINDS = (
    "a pipe", "a folder", "a socket", "zeros without end", "a link to a pipe", "a link to itself",
    "a hole of terabytes", "a hole with an end", "nothing",
)  # fmt: skip


def cases_by_hand(seeds: Sequence[bytes], canary: Path) -> list[Case]:
    """Return all files that are hostile on purpose; what the mutations are about comes first."""
    svm, cases = seeds[2], []  # of two classes, as the heads of strangers are
    objects = object_cases(canary)
    text = described(svm)
    forest = objects.pop("a forest")
    every_weight = weight_cases(canary)
    first = [
        Case("an SVC out of bounds", "skops", _written(lambda: out_of_bounds(svm))),
        Case("a forest", "skops", _dumped(svm, lambda head: forest)),
    ]
    archives = archive_cases(svm, canary)
    for name, made in archives.items():
        signed = _written(lambda made=made: archive._signed(made()))
        cases.append(Case(f"an archive with {name}", "skops", signed))
    for name, (ending, made) in every_weight.items():
        cases.append(Case(f"weights: {name}", ending, _written(made)))
    for name, value in objects.items():
        try:
            skops.io.dumps(value)
        except Exception:
            continue
        cases.append(Case(f"a head that is {name}", "skops", _dumped(svm, lambda head, v=value: v)))

        def holding(head: Any, value: Any = value) -> Any:
            head[-1].stranger_ = value
            return head

        cases.append(Case(f"a head that holds {name}", "skops", _dumped(svm, holding)))
    for name, made in node_cases(svm, canary).items():
        signed = _written(lambda made=made: archive._signed(made()))
        cases.append(Case(f"a head of {name}", "skops", signed))
    payload = Payload(canary / "pickle")
    for protocol in range(6):
        data = pickle.dumps(payload, protocol)
        for dress, dressed in (
            ("bare", data), ("signed", archive._signed(data + bytes(2))),
            ("archived", archive._signed(archive_of([("schema.json", data)]))),
        ):  # fmt: skip
            name = f"a pickle of protocol {protocol}, {dress}"
            cases.append(Case(name, "skops", lambda p, d=dressed: _write(p, d)))
    for how in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)):
        cases.append(
            Case(f"joblib, {how}", "skops", lambda p, h=how: joblib.dump(payload, p, h) and None)
        )
    for kind in _KINDS:
        cases += [
            Case(f"{kind}", e, _not_a_file(kind, canary)) for e in ("skops", "pth", "safetensors")
        ]
    for key in [*text, "stranger"]:
        for value in (None, 1, -1, "x", [], {}, [[]], [None], {"a": 1}, 1e400, "x" * 10**6, True):
            made = _dumped(svm, text={**text, key: value})
            cases.append(Case(f"a description with {key} {str(value)[:20]}", "skops", made))
    for words in ("", "null", "[" * 100_000, "1" * 10_000, '"x"', "NaN", '{"format": 1}', "{}"):
        cases.append(Case(f"the description {words[:20]}", "skops", _dumped(svm, text=words)))
    return first + cases


def ask(path: Path) -> str:
    """Load a file and use what was loaded; return "refused" or "read".

    Raises
    ------
    Exception
        What no one may raise over a stranger's file.
    """
    if path.suffix == ".skops":
        done = CliRunner().invoke(cli, ["predict", str(path), str(path.parent)])
        if not isinstance(done.exception, SystemExit | None):
            raise done.exception
        assert done.exit_code in (0, 1), f"predict ended with {done.exit_code}"
        return use_classifier(path).split(":")[0]
    try:
        state, _ = weights.read(path)
        weights.classes_in(state, "fc", 5)
        weights.fill(TinyNet(1), state, "TinyNet")
    except BackboneError as error:
        check_refusal(error)
        return "refused"
    return "read"


def run(trials: Trials) -> None:
    """Load every hostile file."""
    folder = trials.folder / "canary"
    folder.mkdir()
    os.mkfifo(trials.folder / "pipe")
    (folder / "secret").write_bytes(b"secret")
    seeds = classifier_seeds()
    heads = [skops.io.loads(s, trusted=list(archive.TRUSTED_TYPES))["head"] for s in seeds]
    by_hand = cases_by_hand(seeds, folder)
    whole_weights = weight_cases(folder)
    canary = Canary(folder)
    if trials.wanted < len(by_hand):  # a short run: those that the mutations need, and a sample
        rest = by_hand[_FIRST:]
        by_hand = by_hand[:_FIRST] + rest[:: 1 + len(rest) * 3 // (2 * trials.wanted)]

    def case(number: int) -> Case:
        if number < len(by_hand):
            return by_hand[number]
        rng = random.Random(f"{trials.seed}:{number}")
        how = rng.random()
        if how < 0.45:
            which = rng.randrange(len(seeds))
            words, head = faulty_head(heads[which], rng)
            return Case(
                f"a head with {words}",
                "skops",
                _dumped(seeds[which], lambda _: head),
            )
        if how < 0.75:
            data = change_classifier(rng.choice(seeds), rng, seeds)
            return Case("a changed classifier", "skops", lambda path: _write(path, data))
        ending, made = whole_weights[rng.choice(("whole", "whole safetensors"))]
        changed = mutate(made(), rng)
        return Case("changed weights", ending, lambda path: _write(path, changed))

    def attempt(number: int) -> str:
        place = trials.folder / f"try-{number}"
        place.mkdir()
        try:
            chosen = case(number)
            path = place / f"file.{chosen.ending}"
            chosen.make(path)
            said = ask(path)
            if touched := canary.touched():
                raise AssertionError(f"touched outside: {'; '.join(touched)}")
            return said
        except FeatbankError as error:
            raise AssertionError(f"let out {type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    _bomb(seeds[2])  # once, for all children
    results = attempts(trials.wanted, attempt, seconds=20, memory=_MEMORY)
    for number in trials:
        result = next(results)
        if not result.ok:
            touched = "; ".join(canary.touched())
            name = f"file {number} of seed {trials.seed}, {case(number).name}"
            trials.fail(f"{name}: {result.words} {touched}")
            continue
        trials.figures["by hand" if number < len(by_hand) else "at random"] += 1
        trials.figures[result.found] += 1
    results.close()
    for name in canary.changed():
        trials.fail(f"the canary's {name} was changed")


_FIRST = 120


@contextmanager
def _every_type() -> Iterator[None]:
    """Trust whatever a file holds, as `get_untrusted_types` passed back in would."""
    loads = skops.io.loads

    def trusting(data: bytes, trusted: Any) -> Any:
        return loads(data, trusted=skops.io.get_untrusted_types(data=data))

    with (
        patch.object(archive, "_check_types", lambda *_: None),
        patch.object(skops.io, "loads", trusting),
    ):
        yield


def _any_code() -> AbstractContextManager[Any]:
    load = torch.load
    return patch.object(
        torch, "load", lambda file, **how: load(file, **{**how, "weights_only": False})
    )


def _no_limit() -> AbstractContextManager[Any]:
    return patch.object(archive, "_check_archive", lambda data, where: None)


def _unsound() -> AbstractContextManager[Any]:
    return patch.object(archive, "complaint", lambda head, trust: "")


HARNESSES = (
    Harness(
        name="hostile-files",
        claim="classifiers and weights from strangers run no code: refused, or used rightly",
        unit="files",
        run=run,
        short=300,
        long=1_500,
        mutations=(
            Mutation("every type in a classifier trusted", _every_type, 120),
            Mutation("weights read with their code", _any_code, 120),
            Mutation("declared sizes in an archive not compared", _no_limit, 120),
            Mutation("arrays of a head not checked against one another", _unsound, 120),
        ),
        seconds=1800.0,
    ),
)
