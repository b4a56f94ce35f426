"""Pages and frames of a file are counted without decoding, whatever stands behind the first."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from featbank.data.pages import count_pages
from tests.data.files import encode, gradient


def frames() -> list[Image.Image]:  # anew: saving leaves its settings in an image
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
