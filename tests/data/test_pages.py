"""Pages and frames of a file are counted without decoding, whatever stands behind the first."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.data.decode import DecodeLimits, decode, read_bytes
from featbank.data.index import IndexedSource
from featbank.data.pages import count_pages, marked, page_name, unmarked
from featbank.data.sources import Source, open_source, scan_all
from featbank.errors import ImageError
from tests.data.files import encode, gradient


def frames() -> list[Image.Image]:  # new ones: saving leaves its settings in an image
    return [Image.fromarray(np.roll(gradient(), 5 * i, axis=0)) for i in range(3)]


def several(kind: str, **options: object) -> bytes:
    first, *others = frames()
    return encode(first, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP", "AVIF", "HEIF"])
def test_pages_and_frames_are_counted(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    assert count_pages(several(kind)) == 3
    assert count_pages(encode(frames()[0], kind)) == 1


def test_a_big_tiff_is_counted() -> None:
    assert count_pages(several("TIFF", big_tiff=True)) == 3


def test_further_pictures_of_a_camera_are_no_pages() -> None:
    assert count_pages(several("MPO")) == 1


def directory(*entries: tuple[int, int], then: int) -> bytes:
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", then)


def test_smaller_copies_and_masks_in_a_tiff_are_no_pages() -> None:
    size = len(directory((254, 0), (256, 1), then=0))
    data = b"II*\0" + struct.pack("<I", 8)
    for number, kind in enumerate((0, 1, 4, 2)):
        last = number == 3
        data += directory((254, kind), (256, 1), then=0 if last else 8 + (number + 1) * size)
    assert count_pages(data) == 2


def test_a_chain_of_directories_that_bites_its_tail_ends() -> None:
    assert count_pages(b"II*\0" + struct.pack("<I", 8) + directory((256, 1), then=8)) == 1


def test_damage_behind_the_first_page_is_no_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        data = several(kind)
        for end in range(0, len(data), max(1, len(data) // 40)):
            assert 1 <= count_pages(data[:end]) <= 3
        for _ in range(50):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 6):
                damaged[at] = rng.integers(0, 256)
            assert count_pages(bytes(damaged)) >= 1


# --- each page as an image ---


def pages(kind: str, **options: object) -> list[np.ndarray]:
    data = several(kind, **options)
    return [np.asarray(decode(marked(data, page))) for page in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_a_page_decodes_to_its_own_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    for got, wanted in zip(pages(kind, **options), frames(), strict=True):
        np.testing.assert_array_equal(got, np.asarray(wanted))


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "HEIF"])
def test_a_frame_of_a_lossy_format_is_the_right_one(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    options = {} if kind == "GIF" else {"quality": 95}
    found = pages(kind, **options)
    for number, got in enumerate(found):
        away = [np.abs(got.astype(int) - np.asarray(one)).mean() for one in frames()]
        assert int(np.argmin(away)) == number


def test_a_deep_page_keeps_its_contrast() -> None:
    ramp = np.linspace(0, 4095, 1920).astype(np.uint16).reshape(40, 48)
    first, second = (Image.fromarray(one) for one in (np.zeros_like(ramp), ramp))
    data = encode(first, "TIFF", save_all=True, append_images=[second])
    got = np.asarray(decode(marked(data, 2)))[..., 0]
    np.testing.assert_allclose(got.astype(int), np.round(ramp / 4095 * 255), atol=1)


def test_a_page_that_is_not_there_or_too_large_is_refused() -> None:
    data = several("TIFF")
    with pytest.raises(ImageError, match="no page 4: the file has 3 pages"):
        decode(marked(data, 4))
    with pytest.raises(ImageError, match="no page 2: the file has 1 page"):
        decode(marked(encode(gradient(), "JPEG"), 2))
    small, large = Image.new("L", (8, 8)), Image.new("L", (80, 80))
    data = encode(small, "TIFF", save_all=True, append_images=[large])
    assert decode(data, limits=DecodeLimits(max_pixels=1000)).size == (8, 8)
    with pytest.raises(ImageError, match="over the limit"):
        decode(marked(data, 2), limits=DecodeLimits(max_pixels=1000))


def test_a_page_is_read_by_its_name_and_has_a_digest_of_its_own(tmp_path: Path) -> None:
    data = several("TIFF")
    (tmp_path / "scan.tif").write_bytes(data)
    path = os.fsencode(tmp_path / "scan.tif")
    assert read_bytes(path) == read_bytes(page_name(path, 1)) == data
    read = [read_bytes(page_name(path, page)) for page in (1, 2, 3)]
    assert len(set(read)) == 3
    assert [unmarked(one) for one in read] == [(data, 1), (data, 2), (data, 3)]
    assert count_pages(read[1]) == 1
    with pytest.raises(ImageError, match="no such file"):
        read_bytes(tmp_path / "gone.tif#page=2")
    (tmp_path / "scan.tif#page=2").write_bytes(b"a file of this name comes first")
    assert read_bytes(page_name(path, 2)) == b"a file of this name comes first"


def test_pages_are_listed_as_a_group_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    for name, data in (("scan.tif", several("TIFF")), ("b.png", encode(gradient(), "PNG"))):
        (tmp_path / "a" / name).write_bytes(data)
        os.utime(tmp_path / "a" / name, (1_000_000_000, 1_000_000_000))
    source = open_source(tmp_path, pages="all")
    assert Source.from_dict(source.to_dict()) == source
    assert "pages" not in open_source(tmp_path).to_dict()
    (listing,) = scan_all([source])
    names = [b"a/b.png", b"a/scan.tif", b"a/scan.tif#page=2", b"a/scan.tif#page=3"]
    assert list(listing.names) == names
    assert listing.label.tolist() == ["a"] * 4
    assert listing.group.tolist() == [None, *["a/scan.tif"] * 3]
    assert listing.counted == {b"a/b.png": 1, b"a/scan.tif": 3}

    root = os.fsencode(tmp_path)
    later = dataclasses.replace(listing, scanned=listing.scanned + 10**12)
    known = IndexedSource.new(source.name, root, later).carried_to(root, later)
    monkeypatch.setattr("featbank.data.expansion.read_bytes", None)  # not called
    (again,) = scan_all([source], {source.name: known})
    assert list(again.names) == names
