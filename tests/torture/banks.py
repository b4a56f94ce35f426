"""Banks from strangers: HDF5 and JSON that no featbank wrote, links and pipes in their places.

Every digest and seal is right, for a stranger can compute them too. First come banks made by hand,
each hostile in one way; then files with random changes. Of each, everything is asked that featbank
can be asked of a bank: it answers with what the files say, or refuses in one sentence, and touches
nothing outside.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
from click.testing import CliRunner

import featbank
from featbank import Bank, hdf5
from featbank.bank import documents
from featbank.bank.maintenance import compact, verify
from featbank.bank.shard import Shard
from featbank.cli import cli
from featbank.errors import BankDamaged, FeatbankError
from featbank.workflows.info import info
from tests.bank import builders
from tests.torture.harness import Harness, Mutation, Trials
from tests.torture.mutators import mutate, mutate_json
from tests.torture.sandbox import Canary, attempts, check_refusal

_SECRET = b"no stranger may read this! "
_SHARD, _INDEX, _PACKED = "shard", "index", "packed"
_VALUES = builders.COLUMN.name
_FIRST = 40  # cases that the mutations are about

# An honest bank, and hostile ones made of it


@dataclass(frozen=True)
class Honest:
    """A whole bank: the bytes of its files, by relative path, and of its packed form."""

    files: dict[str, bytes]
    packed: bytes
    canary: Path

    @property
    def shards(self) -> list[str]:
        """Relative paths of the shards, sorted."""
        return sorted(name for name in self.files if re.fullmatch(r"[^/]+/../[0-9a-f]+\.h5", name))

    @property
    def recipe(self) -> str:
        """Name of the recipe's folder."""
        return self.shards[0].split("/")[0]

    def write(self, folder: Path, changed: dict[str, bytes | None] | None = None) -> Path:
        """Write the bank into a new folder, some files changed or left out; return it."""
        for name, data in {**self.files, **(changed or {})}.items():
            if data is not None:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return folder

    def of(self, role: str) -> bytes:
        """Return the bytes of the file that has a role."""
        if role == _PACKED:
            return self.packed
        return self.files["index.h5" if role == _INDEX else self.shards[0]]

    def placed(self, folder: Path, role: str, data: bytes) -> Path:
        """Write a bank in which `data`, resealed, is the file that has a role; return its path."""
        if role != _SHARD:
            data = bytes(hdf5.seal(bytearray(data.ljust(hdf5.USER_BLOCK, b"\0"))))
        if role == _PACKED:
            folder.mkdir(parents=True)
            (folder / "bank.h5").write_bytes(data)
            return folder / "bank.h5"
        if role == _INDEX:
            return self.write(folder, {"index.h5": data})
        digest = hashlib.sha256(data).hexdigest()
        named = f"{self.recipe}/{digest[:2]}/{digest}.h5"
        return self.write(folder, {self.shards[0]: None, named: data})


def make_honest(folder: Path) -> Honest:
    """Make the honest bank, and the canary beside it."""
    words = ("one", "two", "three")
    bank = Bank.create(folder / "honest")
    document = {"name": "birds", "kind": "folder", "root": "/images"}
    listed = builders.source("birds", {f"{w}.png": w for w in words}, labels=["a", "b", "b"])
    bank.update([listed], documents=[document])
    bank.register(builders.RECIPE, {"request": {"name": "net"}})
    bank.seal(builders.RECIPE, builders.keys(words), {builders.COLUMN: builders.features(words)})
    packed = Path(compact(bank, folder / "honest.h5"))
    canary = folder / "canary"
    canary.mkdir()
    (canary / "secret").write_bytes(_SECRET * 300)
    with h5py.File(canary / "secret.h5", "w") as file:
        for name in ("keys", "values", _VALUES):
            file[name] = np.frombuffer(_SECRET * 300, np.uint8)[:7200].reshape(-1, 32)
    os.mkfifo(canary / "pipe")
    root = folder / "honest"
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    return Honest(files, packed.read_bytes(), canary)


# Hostile HDF5: each change takes the open file, the name of a dataset in it, and the canary

Change = Callable[[h5py.File, str, Path], None]
_CHANGES: dict[str, Change] = {}


def _change(name: str) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        _CHANGES[name] = change
        return change

    return add


def _anew(file: h5py.File, name: str, shape: Any = None, dtype: Any = None, **how: Any) -> Any:
    """Put another dataset in the place of one, of the same shape and type unless said."""
    old = file[name]
    shape = old.shape if shape is None else shape
    dtype = old.dtype if dtype is None else dtype
    del file[name]
    return file.create_dataset(name, shape, dtype, **how)


def _external(target: str) -> Change:
    def change(file: h5py.File, name: str, canary: Path) -> None:
        size = file[name].size * file[name].dtype.itemsize
        _anew(file, name, external=[(str(canary / target), 0, size)])

    return change


def _linked(link: Callable[[str, Path], Any]) -> Change:
    def change(file: h5py.File, name: str, canary: Path) -> None:
        del file[name]
        file[name] = link(name, canary)

    return change


def _virtual(target: str, unlimited: bool) -> Change:
    def change(file: h5py.File, name: str, canary: Path) -> None:
        old = file[name]
        shape, dtype = old.shape, old.dtype
        most = (None, *shape[1:]) if unlimited else None
        layout = h5py.VirtualLayout(shape, dtype, maxshape=most)
        source = h5py.VirtualSource(str(canary / target), "keys", shape, maxshape=most)
        if unlimited:
            layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
        else:
            layout[...] = source
        del file[name]
        file.create_virtual_dataset(name, layout)

    return change


def _stored(**how: Any) -> Change:
    def change(file: h5py.File, name: str, canary: Path) -> None:
        values = file[name][...]
        _anew(file, name, **how)[...] = values

    return change


def _shaped(shape: Any = None, dtype: Any = None, **how: Any) -> Change:
    def change(file: h5py.File, name: str, canary: Path) -> None:
        _anew(file, name, shape, dtype, **how)

    return change


def _typed(dtype: Any) -> Change:
    def change(file: h5py.File, name: str, canary: Path) -> None:
        with suppress(TypeError, ValueError):  # some types take no numbers: then zeros do
            values = file[name][...].astype(dtype)
            _anew(file, name, dtype=dtype)[...] = values
            return
        if name not in file:
            file.create_dataset(name, (3,), dtype)
        else:
            _anew(file, name, dtype=dtype)

    return change


def _low(kind: Any, shape: Any = None, fill: Callable[[Any], None] | None = None) -> Change:
    """Make a dataset of a type that h5py has no word for."""

    def change(file: h5py.File, name: str, canary: Path) -> None:
        dims = file[name].shape if shape is None else shape
        del file[name]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if fill is not None:
            fill(plan)
        space = h5py.h5s.create_simple(dims) if dims else h5py.h5s.create(h5py.h5s.SCALAR)
        parent = file[name.rpartition("/")[0] or "/"]
        h5py.h5d.create(parent.id, name.rpartition("/")[2].encode(), kind, space, plan)

    return change


def _own_filter(plan: Any) -> None:
    plan.set_chunk((1, 1))
    plan.set_filter(32_000, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))


def _in_chunks(plan: Any) -> None:
    plan.set_chunk((2, 2))


def _compact(plan: Any) -> None:
    plan.set_layout(h5py.h5d.COMPACT)


_CHANGES |= {
    "external storage": _external("secret"),
    "external storage in a pipe": _external("pipe"),
    "external storage that is missing": _external("none"),
    "external link": _linked(lambda n, c: h5py.ExternalLink(str(c / "secret.h5"), "keys")),
    "external link to a pipe": _linked(lambda n, c: h5py.ExternalLink(str(c / "pipe"), "keys")),
    "dangling external link": _linked(lambda n, c: h5py.ExternalLink("none.h5", "x")),
    "soft link to itself": _linked(lambda n, c: h5py.SoftLink(f"/{n}")),
    "dangling soft link": _linked(lambda n, c: h5py.SoftLink("/nowhere/x")),
    "soft link to the root": _linked(lambda n, c: h5py.SoftLink("/")),
    "virtual": _virtual("secret.h5", unlimited=False),
    "virtual of a pipe": _virtual("pipe", unlimited=False),
    "virtual without end": _virtual("secret.h5", unlimited=True),
    "chunked": _stored(chunks=True),
    "gzip": _stored(compression="gzip"),
    "lzf": _stored(compression="lzf"),
    "shuffle": _stored(chunks=True, shuffle=True),
    "fletcher32": _stored(chunks=True, fletcher32=True),
    "scale-offset": _stored(chunks=True, scaleoffset=2),
    "resizable": _low(h5py.h5t.IEEE_F32LE, (3, 3), _in_chunks),
    "a filter of its own": _low(h5py.h5t.IEEE_F32LE, (3, 3), _own_filter),
    "compact": _low(h5py.h5t.IEEE_F32LE, (3, 3), _compact),
    "terabytes": _shaped((1 << 40,)),
    "terabytes of rows": _shaped((1 << 34, 32)),
    "rows without end and no width": _shaped((0, 1 << 62)),
    "no rows": _shaped((0, 32)),
    "no width": _shaped((3, 0)),
    "more rows": _shaped((1000, 3)),
    "scalar": _shaped(()),
    "empty": _linked(lambda n, c: h5py.Empty("f4")),
    "32 dimensions": _shaped((1,) * 32),
    "never written": _shaped(),
    "filled by its fill value": _shaped(fillvalue=7),
    "compound": _typed([("a", "f4"), ("b", "i4")]),
    "nested compound": _typed([("a", [("b", [("c", "f4", (3,))])])]),
    "text of any length": _typed(h5py.string_dtype()),
    "numbers of any length": _typed(h5py.vlen_dtype(np.float32)),
    "object references": _typed(h5py.ref_dtype),
    "region references": _typed(h5py.regionref_dtype),
    "enumeration": _typed(h5py.enum_dtype({"a": 1, "b": 2})),
    "opaque": _typed(h5py.opaque_dtype(np.dtype("V16"))),
    "big-endian": _typed(">f4"),
    "long double": _typed("f16"),
    "double": _typed("f8"),
    "half": _typed("f2"),
    "complex": _typed("c8"),
    "boolean": _typed("?"),
    "bytes": _typed("S7"),
    "unsigned": _typed("u8"),
    "arrays": _typed(np.dtype(("f4", (2, 2)))),
    "bit field": _low(h5py.h5t.STD_B32LE),
    "time": _low(h5py.h5t.UNIX_D32LE),
}


@_change("a group in its place")
def _(file: h5py.File, name: str, canary: Path) -> None:
    del file[name]
    file.create_group(name)


@_change("missing")
def _(file: h5py.File, name: str, canary: Path) -> None:
    del file[name]


@_change("a second name")
def _(file: h5py.File, name: str, canary: Path) -> None:
    file["again"] = file[name]


@_change("a group in itself")
def _(file: h5py.File, name: str, canary: Path) -> None:
    group = file.create_group("a/b")
    group["c"] = file["a"]


@_change("the root in a group")
def _(file: h5py.File, name: str, canary: Path) -> None:
    file.create_group("a")["root"] = file["/"]


@_change("deep groups")
def _(file: h5py.File, name: str, canary: Path) -> None:
    file.create_group("/".join("a" * 500))


@_change("many objects")
def _(file: h5py.File, name: str, canary: Path) -> None:
    group = file.create_group("many")
    for i in range(3_000):
        group.create_group(str(i))


@_change("many links to one object")
def _(file: h5py.File, name: str, canary: Path) -> None:
    group = file.create_group("many")
    for i in range(hdf5._MAX_OBJECTS + 1):
        h5py.h5g.GroupID.link(group.id, b".", str(i).encode(), h5py.h5g.LINK_HARD)


@_change("a named type")
def _(file: h5py.File, name: str, canary: Path) -> None:
    file["type"] = np.dtype("f4")


@_change("another dataset")
def _(file: h5py.File, name: str, canary: Path) -> None:
    file["stranger"] = np.zeros((3, 3), np.float32)


@_change("another column")
def _(file: h5py.File, name: str, canary: Path) -> None:
    rows = len(file["keys"]) if "keys" in file else 3
    file["layer:max:identity:float32"] = np.zeros((rows, 2), np.float32)


for _number, _name in enumerate(
    ("../../x:avg:identity:float32", "a\nb:avg:identity:float32", "x" * 65_000, ":::", "a:b:c:d:e",
     "p:avg:identity:float64", "\x1b[2J:avg:identity:float32", "é" * 100, " ", ".")
):  # fmt: skip

    def _named(file: h5py.File, name: str, canary: Path, title: str = _name) -> None:
        with suppress(ValueError):  # HDF5 itself has no such names
            h5py.h5d.create(
                file.id,
                title.replace("/", "\\").encode(),
                h5py.h5t.IEEE_F32LE,
                h5py.h5s.create_simple((3, 3)),
            )

    _CHANGES[f"absurd name {_number}"] = _named

_ATTRIBUTES: dict[str, Any] = {
    "of a megabyte": np.bytes_(b"x" * 60_000),
    "with numbers of any length": h5py.Empty(h5py.vlen_dtype(np.float32)),
    "of any length": "text",
    "array": np.arange(1000),
    "not a number": np.float64("nan"),
    "endless": np.float64("inf"),
    "negative": np.int64(-1),
    "huge": np.uint64(2**64 - 1),
    "empty": h5py.Empty("f4"),
    "complex": np.complex64(1j),
    "boolean": np.bool_(True),
    "number": np.int64(10**11),
    "not UTF-8": np.bytes_(b"\xff\xfe"),
    "a path": np.bytes_(b"../../../etc/passwd"),
    "JSON without end": np.bytes_(b"[" * 50_000),
    "JSON number without end": np.bytes_(b'{"a": ' + b"9" * 20_000 + b"}"),
    "JSON that is no recipe": np.bytes_(b'{"preprocess": [1], "weights": NaN}'),
    "later version": np.int64(10**6),
}


def _attribute(target: str, name: str, value: Any) -> Change:
    def change(file: h5py.File, dataset: str, canary: Path) -> None:
        where = file[dataset] if target == "dataset" else _owner(file, name)
        where.attrs.pop(name, None)
        where.attrs[name] = value

    return change


def _owner(file: h5py.File, name: str) -> Any:
    """Return the first object that has such an attribute, else the root."""
    found: list[Any] = [file] if name in file.attrs else []
    file.visititems(lambda _, item: found.append(item) if name in item.attrs else None)
    return found[0] if found else file


for _kind, _value in _ATTRIBUTES.items():
    for _of in ("version", "fingerprint", "count", "recipe", "root", "name"):
        _CHANGES[f"attribute {_of} {_kind}"] = _attribute("owner", _of, _value)
    _CHANGES[f"further attribute {_kind}"] = _attribute("dataset", "x", _value)


@_change("thousands of attributes")
def _(file: h5py.File, name: str, canary: Path) -> None:
    for i in range(3000):
        file[name].attrs.create(str(i), i)


@_change("references in attributes")
def _(file: h5py.File, name: str, canary: Path) -> None:
    file[name].attrs["x"] = file[name].ref
    file.attrs["y"] = file[name].regionref[...]


def _changed(data: bytes, change: Change, name: str, canary: Path, libver: str | None) -> bytes:
    """Return an HDF5 file with a change made to it."""
    stream = io.BytesIO(data)
    with h5py.File(stream, "r+", libver=libver) as file:
        change(file, name, canary)
    return stream.getvalue()


def _targets(role: str, recipe: str) -> list[str]:
    """Return the names of the datasets that are attacked in a file that has a role."""
    if role == _SHARD:
        return ["keys", _VALUES]
    if role == _INDEX:
        return ["0000/name_bytes", "0000/digest", "0000/label/codes", "0000/name_ends"]
    column = f"features/{recipe}/{_VALUES}"
    return [f"{column}/keys", f"{column}/values", "sources"]


# Hostile whole files, documents, links


def _latest(honest: Honest, role: str, libver: Any, **how: Any) -> bytes:
    """Return the honest file, written anew with another format of HDF5's own."""
    block = 0 if role == _SHARD else hdf5.USER_BLOCK
    stream = io.BytesIO()
    with (
        h5py.File(io.BytesIO(honest.of(role)), "r") as old,
        h5py.File(stream, "w", libver=libver, userblock_size=block, **how) as new,
    ):
        for name in old:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    return stream.getvalue()


def _documents() -> dict[str, bytes]:
    """Return texts of JSON that no featbank wrote."""

    def sealed(rest: bytes) -> bytes:
        digest = hashlib.sha256(rest).hexdigest().encode()
        return documents._HEAD + digest + documents._TAIL + rest

    texts = {
        "nothing": b"",
        "zeros": bytes(100),
        "no object": b"[1, 2]",
        "null": b"null",
        "nested": b"[" * 200_000,
        "nested objects": b'{"a":' * 100_000,
        "closed nesting": b'{"format": ' + b"[" * 990 + b"]" * 990 + b"}",
        "no UTF-8": b'{"format": "\xff\xfe"}',
        "UTF-16": '{"format": 1}'.encode("utf-16"),
        "a long number": b'{"format": ' + b"9" * 10_000 + b"}",
        "half a surrogate": b'{"format": 1, "a": "\\ud800"}',
        "twice the same key": b'{"format": 1, "format": 99, "sources": 1, "sources": []}',
        "a hundred megabytes of lists": b'{"format": [' + b"[]," * 33_000_000 + b"[]]}",
        "a hundred megabytes of text": b'{"format": "' + b"x" * 100_000_000 + b'"}',
        "a pickle": b"\x80\x04cos\nsystem\n.",
    }
    values = ("NaN", "-1", "1e999", "true", "null", '"1"', "[]", "{}", "10000000000", "1.5")
    texts |= {f"format {word}": f'{{"format": {word}}}'.encode() for word in values}
    texts |= {
        f"{key} {word}": f'{{"format": 1, "{key}": {word}}}'.encode()
        for key in ("sources", "recipe", "provenance")
        for word in ("NaN", "null", "1", '"x"', "[1]", '[{"name": 1}]', "[[]]", '{"a": {}}', "[{}]")
    }
    texts |= {f"sealed {name}": sealed(text[1:]) for name, text in texts.items() if len(text) < 1e6}
    return texts


_IN_PLACES = (
    "a link to the secret", "a link to a folder", "a link to a pipe", "a link to nothing",
    "a link to itself", "a link to zeros", "a pipe", "a socket", "a folder", "an empty file",
)  # fmt: skip


def _put_in_place(kind: str, path: Path, canary: Path) -> None:
    """Put something else in the place of a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    targets = {
        "a link to the secret": canary / "secret", "a link to a folder": canary,
        "a link to a pipe": canary / "pipe", "a link to nothing": canary / "none",
        "a link to itself": path, "a link to zeros": Path("/dev/zero"),
    }  # fmt: skip
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as one:
            before = os.getcwd()
            os.chdir(path.parent)  # a socket's address is short
            one.bind(path.name)
            os.chdir(before)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"")


@dataclass(frozen=True)
class Case:
    """One hostile bank: `make` writes it into an empty folder and returns its path."""

    name: str
    make: Callable[[Path], Path]
    everything: bool = True


def cases_by_hand(honest: Honest) -> list[Case]:
    """Return all banks that are hostile on purpose; what the mutations are about comes first."""
    cases: list[Case] = []

    def add(name: str, make: Callable[[Path], Path], *, everything: bool = True) -> None:
        cases.append(Case(name, make, everything))

    for role in (_SHARD, _INDEX, _PACKED):
        for target in _targets(role, honest.recipe):
            for kind, change in _CHANGES.items():
                if kind.startswith(("attribute", "absurd", "many")) and target not in (
                    _targets(role, honest.recipe)[0],
                ):
                    continue

                def changed(
                    folder: Path, role: str = role, target: str = target, change: Change = change
                ) -> Path:
                    data = _changed(honest.of(role), change, target, honest.canary, None)
                    return honest.placed(folder, role, data)

                # Past the inspection all roads are one: a third of these takes all of them.
                add(f"{role}, {target}: {kind}", changed, everything=len(cases) % 3 == 0)
        for libver in ("earliest", "v108", "v110", "latest"):
            for strategy in ("fsm", "page", "aggregate", "none"):
                if strategy == "page" and role != _SHARD:
                    continue  # HDF5 itself has no such files with a user block
                how = {"fs_strategy": strategy, "fs_persist": strategy in ("fsm", "page")}

                def rewritten(
                    folder: Path, role: str = role, libver: str = libver, how: Any = how
                ) -> Path:
                    return honest.placed(folder, role, _latest(honest, role, libver, **how))

                add(f"{role} by HDF5 {libver}, {strategy}", rewritten)
        length = len(honest.of(role))
        for cut in (0, 1, 8, 96, 511, 512, 513, 600, 1000, length // 2, length - 64, length - 1):

            def short(folder: Path, role: str = role, cut: int = cut) -> Path:
                return honest.placed(folder, role, honest.of(role)[:cut])

            add(f"{role} cut at {cut}", short)
        for what, piece in (("before", bytes(2048)), ("behind", bytes(10_000))):

            def padded(
                folder: Path, role: str = role, what: str = what, piece: bytes = piece
            ) -> Path:
                data = honest.of(role)
                return honest.placed(
                    folder, role, piece + data if what == "before" else data + piece
                )

            add(f"{role} with bytes {what}", padded)

    places = {
        "bank.json": "bank.json", "sources.json": "sources.json", "verified.json": "verified.json",
        "index": "index.h5", "recipe.json": f"{honest.recipe}/recipe.json",
        "shard": honest.shards[0], "shards' folder": os.path.dirname(honest.shards[0]),
        "recipe's folder": honest.recipe,
    }  # fmt: skip
    for title, place in places.items():
        for kind in _IN_PLACES:

            def replaced(folder: Path, place: str = place, kind: str = kind) -> Path:
                bank = honest.write(folder)
                _put_in_place(kind, bank / place, honest.canary)
                return bank

            add(f"{title} is {kind}", replaced)
    for title in ("bank.json", "sources.json", "verified.json", "recipe.json"):
        for kind, text in _documents().items():

            def written(folder: Path, place: str = places[title], text: bytes = text) -> Path:
                return honest.write(folder, {place: text})

            if kind.startswith("a hundred megabytes") and title in ("recipe.json", "verified.json"):
                continue
            add(f"{title}: {kind}", written, everything=len(text) < 1_000_000)
    for name in ("..", "../canary", "a/b", "", "x" * 100_000, "\0", "-rf", "\u202e"):

        def renamed(folder: Path, name: str = name) -> Path:
            return honest.write(folder, _with_recipe(honest, {"backbone": name}))

        add(f"a backbone named {name[:20]!r}", renamed)
    return cases


def _with_recipe(honest: Honest, changes: dict[str, Any]) -> dict[str, bytes | None]:
    """Return the recipe's document with other fields, and the right fingerprint and digest."""
    place = f"{honest.recipe}/recipe.json"
    document = json.loads(honest.files[place])
    document.pop("sha256", None)
    recipe = {**document["recipe"], **changes}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    document |= {"recipe": recipe, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}
    return {place: documents.document_text(document)}


def case_at_random(honest: Honest, rng: random.Random) -> Case:
    """Return a bank with random changes in one of its files."""
    role = rng.choice((_SHARD, _SHARD, _INDEX, _PACKED, "document"))
    if role == "document":
        place = rng.choice(("sources.json", "bank.json", f"{honest.recipe}/recipe.json"))
        document = json.loads(honest.files[place])
        document.pop("sha256", None)
        changed = mutate_json(document, rng)
        if place.endswith("recipe.json") and isinstance(changed, dict):
            with suppress(ValueError):
                text = json.dumps(changed.get("recipe"), sort_keys=True, separators=(",", ":"))
                changed["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
        text = documents.document_text(changed) if changed and isinstance(changed, dict) else b"{}"
        return Case(f"{place} changed", lambda folder: honest.write(folder, {place: text}))
    data = honest.of(role)
    block = 0 if role == _SHARD else hdf5.USER_BLOCK
    changed_bytes = bytes(block) + mutate(data[block:], rng)
    return Case(
        f"{role} changed",
        lambda folder: honest.placed(folder, role, changed_bytes),
        everything=rng.random() < 0.25,
    )


# What is asked of each


def ask(path: Path, scratch: Path, *, everything: bool) -> str:
    """Ask a bank for its contents, or for everything; return "read" if nothing was refused.

    Raises
    ------
    AssertionError
        An answer that the files do not hold, or a message that is none.
    Exception
        What no one may raise over a stranger's bank.
    """
    refused = 0

    def answer(question: Callable[[], Any]) -> Any:
        nonlocal refused
        try:
            return question()
        except FeatbankError as error:
            check_refusal(error)
            refused += 1
            return None

    bank = answer(lambda: Bank(path))
    if bank is not None:
        recipes = answer(lambda: bank.recipes)
        answer(lambda: bank.sources)
        answer(lambda: (bank.paths, bank.labels))
        for known in recipes or ():
            for shard in answer(lambda f=known.fingerprint: bank.shards(f)) or ():
                _check_rows(shard)
        chosen = answer(bank.select)
        if chosen is not None:
            assert len(chosen.X) == len(chosen.paths) == len(chosen.labels)
            assert _SECRET not in chosen.X.tobytes() + chosen.digests.tobytes()
        answer(lambda: info(bank))
        found = answer(lambda: verify(bank))
        refused += found is not None and not found.ok
    if everything:
        for words in (["info"], ["info", "--json"], ["verify", "--json"]):
            _ask_at_the_command_line(words, path)
        for work in _later(path, scratch):
            answer(work)
    return "refused" if refused else "read"


def _ask_at_the_command_line(words: list[str], path: Path) -> None:
    done = CliRunner().invoke(cli, [*words, "--bank", str(path)])
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    assert done.exit_code in (0, 1), f"{words} ended with {done.exit_code}"
    assert _SECRET.decode() not in done.output, "the secret was told"


def _later(path: Path, scratch: Path) -> Iterator[Callable[[], Any]]:
    """Yield what makes another bank of one, or changes it; repairing comes last."""
    if path.is_dir():
        yield lambda: compact(Bank(path), scratch / "compact.h5")
    yield lambda: featbank.export(path, scratch / "out.npz")
    yield lambda: featbank.merge(scratch / "merged", [path])
    yield lambda: featbank.prune(path)
    yield lambda: featbank.repair(path)


def _check_rows(shard: Shard) -> None:
    data = Path(shard.path).read_bytes()
    assert shard.keys.tobytes() in data, "keys that the file does not hold"
    for column in shard.columns:
        values = shard.features(column)
        assert values.shape[0] == len(shard.keys), "features without keys"
        assert values.tobytes() in data, "features that the file does not hold"


def run(trials: Trials) -> None:
    """Ask everything of every hostile bank."""
    honest = make_honest(trials.folder)
    canary = Canary(honest.canary)
    by_hand = cases_by_hand(honest)
    if trials.wanted < len(by_hand):  # a short run: those that the mutations need, and a sample
        rest = by_hand[_FIRST:]
        by_hand = by_hand[:_FIRST] + rest[:: 1 + len(rest) * 4 // (3 * trials.wanted)]

    def case(number: int) -> Case:
        if number < len(by_hand):
            return by_hand[number]
        return case_at_random(honest, random.Random(f"{trials.seed}:{number}"))

    def attempt(number: int) -> str:
        folder = trials.folder / f"try-{number}"
        try:
            chosen = case(number)
            path = chosen.make(folder / "bank")
            scratch = folder / "scratch"
            scratch.mkdir()
            said = ask(path, scratch, everything=chosen.everything)
            if touched := canary.touched():
                raise AssertionError(f"touched outside: {'; '.join(touched)}")
            return said
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    assert ask(honest.write(trials.folder / "whole"), trials.folder, everything=True) == "read"
    results = attempts(trials.wanted, attempt, seconds=20)
    for number in trials:
        result = next(results)
        name = f"bank {number} of seed {trials.seed}, {case(number).name}"
        if not result.ok:
            touched = "; ".join(canary.touched())  # before it died
            trials.fail(f"{name}: {result.words} {touched}")
            continue
        trials.figures["by hand" if number < len(by_hand) else "at random"] += 1
        trials.figures[result.found] += 1
    results.close()
    for name in canary.changed():
        trials.fail(f"the canary's {name} was changed")


def _skipping(*words: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return a fault under which an inspection lets these reasons pass."""
    inspect = hdf5.inspect

    def lenient(file: h5py.File, size: int) -> None:
        try:
            inspect(file, size)
        except BankDamaged as error:
            if not any(word in str(error) for word in words):
                raise

    return lambda: patch.object(hdf5, "inspect", lenient)


HARNESSES = (
    Harness(
        name="hostile-banks",
        claim="a bank from a stranger is refused or read rightly, and touches no other file",
        unit="banks",
        run=run,
        short=120,
        long=5_000,
        mutations=(
            Mutation("files not inspected", _skipping(""), 60),
            Mutation("external storage accepted", _skipping("in another file"), 60),
            Mutation("links in files followed", _skipping("link to somewhere else"), 60),
            Mutation("declared sizes not compared", _skipping("declares more"), 60),
        ),
        seconds=1800.0,
    ),
)
