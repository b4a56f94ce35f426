"""AVIF and HEIC: decoded by their bytes, turned upright once, refused with a clear reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from featbank.data import formats
from featbank.data.decode import DecodeLimits, decode
from featbank.data.formats import extensions, format_of, is_image_name
from featbank.errors import ImageError
from tests.data.files import encode, gradient

PICTURE = gradient()
KINDS = ("AVIF", "HEIF")


@pytest.fixture(autouse=True)
def _heif() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    if not formats._has_avif():
        pytest.skip("this Pillow was built without AVIF")


@pytest.fixture
def no_optional_formats(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formats, "has_heif", lambda: False)
    monkeypatch.setattr(formats, "_has_avif", lambda: False)
    monkeypatch.setattr("featbank.data.decode.has_heif", lambda: False)
    formats._endings.cache_clear()
    yield
    monkeypatch.undo()
    formats._endings.cache_clear()


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PICTURE, kind, quality=95, exif=exif.tobytes())


@pytest.mark.parametrize("kind", KINDS)
def test_they_decode_to_rgb_whatever_their_names_say(kind: str) -> None:
    data = encode(PICTURE, kind, quality=95)
    assert format_of(data[: formats.FIRST_BYTES]) == kind
    found = decode(data)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - PICTURE).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_they_are_turned_upright_once(kind: str, orientation: int, turns: int) -> None:
    found = np.asarray(decode(turned(kind, orientation))).astype(int)
    wanted = np.rot90(PICTURE, turns)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
def test_transparency_is_composited(kind: str) -> None:
    clear = np.dstack([PICTURE, np.zeros_like(PICTURE[..., 0])])
    found = np.asarray(decode(encode(clear, kind, quality=95)))
    assert found.min() > 250


@pytest.mark.parametrize("kind", KINDS)
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    others = [Image.fromarray(255 - PICTURE)] * 2
    data = encode(PICTURE, kind, quality=95, save_all=True, append_images=others)
    assert np.abs(np.asarray(decode(data)).astype(int) - PICTURE).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_or_over_the_limits_is_refused(kind: str) -> None:
    data = encode(PICTURE, kind, quality=95)
    for end in range(20, len(data) - 1, len(data) // 15):
        with pytest.raises(ImageError):
            decode(data[:end])
    with pytest.raises(ImageError, match="48 x 40 pixels, over the limit"):
        decode(data, limits=DecodeLimits(max_pixels=1000))
    with pytest.raises(ImageError, match="a side over the limit"):
        decode(data, limits=DecodeLimits(max_side=47))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_raises_nothing_but_image_errors(kind: str) -> None:
    data = encode(PICTURE, kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 4):
            damaged[at] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged), limits=DecodeLimits(max_pixels=10**6)).mode == "RGB"
        except ImageError:
            continue


def test_without_a_decoder_they_are_no_images_and_the_reason_says_what_to_install(
    no_optional_formats: None,
) -> None:
    assert not is_image_name(b"a.heic")
    assert not is_image_name(b"a.avif")
    with pytest.raises(ImageError, match=r"featbank\[heif\]"):
        decode(encode(PICTURE, "HEIF"))
    with pytest.raises(ImageError, match="AVIF"):
        decode(encode(PICTURE, "AVIF"))
    assert decode(encode(PICTURE, "PNG")).size == (48, 40)


def test_their_extensions_are_walked() -> None:
    assert is_image_name(b"IMG_0001.HEIC")
    assert is_image_name(b"a.avif")
    assert not is_image_name(b".heic")
    assert {".heic", ".heif", ".avif", ".jpg"} <= set(extensions())


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42avif", None),
        (b"BMW is a maker of cars", None),
        (b"BM\x36\x10\0\0\0\0\0\0\x36\0\0\0", "BMP"),
        (b"II*\0", "TIFF"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"P3 is a word as well", None),
        (b"", None),
    ],
)
def test_first_bytes_tell_a_format_only_where_they_are_unmistakable(
    start: bytes, kind: str | None
) -> None:
    assert format_of(start) == kind
