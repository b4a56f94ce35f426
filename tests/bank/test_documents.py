"""The bank's JSON files and the digests in them."""

from __future__ import annotations

import json

import pytest

from featbank.bank.documents import document_text, read_document, write_document
from featbank.errors import BankDamaged

CONTENT = {"format": 1, "name": "z\udcff \u00e9", "numbers": [1, -1.5e-9, None], "empty": {}}


def test_a_document_is_plain_json_and_comes_back(tmp_path):
    path = tmp_path / "it.json"
    write_document(path, CONTENT)
    assert read_document(path) == CONTENT
    plain = json.loads(path.read_text())
    assert len(plain.pop("sha256")) == 64
    assert plain == CONTENT


def test_every_flipped_bit_and_truncation_is_seen(tmp_path):
    path = tmp_path / "it.json"
    text = document_text(CONTENT)
    for bit in range(len(text) * 8):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(BankDamaged, match="run `featbank repair`"):
            read_document(path)
    for length in range(len(text)):
        path.write_bytes(text[:length])
        with pytest.raises(BankDamaged):
            read_document(path)
    path.write_bytes(text + b" ")
    with pytest.raises(BankDamaged, match="does not hold the text that was written"):
        read_document(path)


@pytest.mark.parametrize(
    "text", ['{"featbank": "bank", "format": 1}\n', '{\n  "format": 1,\n  "sources": []\n}\n']
)
def test_a_document_from_before_there_were_digests_is_read(tmp_path, text):
    (tmp_path / "it.json").write_text(text)
    assert read_document(tmp_path / "it.json")["format"] == 1


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"a": 1}', b"1" * 5000]
)
def test_what_is_no_document_is_damage(tmp_path, text):
    (tmp_path / "it.json").write_bytes(text)
    with pytest.raises(BankDamaged):
        read_document(tmp_path / "it.json")
