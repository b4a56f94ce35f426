import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from featbank.data.decode import DecodeLimits, DecodePolicy, decode, read_bytes
from featbank.errors import ImageError
from tests.data.files import chunk, encode, gradient, png, png16, tiff

PICTURE = gradient()
GREY = PICTURE[..., 0]


def pixels(data, policy=DecodePolicy(), **options):  # noqa: B008 - frozen
    image = decode(data, policy, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


# --- formats ---


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_come_back_as_they_were(kind, options):
    np.testing.assert_array_equal(pixels(encode(PICTURE, kind, **options)), PICTURE)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_decodes_to_what_pillow_decodes(mode, options):
    data = encode(Image.fromarray(PICTURE).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (17, 64)])
@pytest.mark.parametrize("quality", [5, 100])
def test_jpegs_of_every_size_are_complete(size, quality):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = encode(noise, "JPEG", quality=quality)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


def test_a_jpeg_with_several_pictures_in_it_gives_the_first():
    first, second = Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1])
    data = encode(first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(pixels(data).astype(int), PICTURE, atol=24)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(pixels(data)[4, 4].astype(int), (255, 0, 0), atol=2)


def test_bytes_after_the_end_of_an_image_do_no_harm():
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        data = encode(PICTURE, kind)
        np.testing.assert_array_equal(pixels(data + b"\xff\xd9trailing"), pixels(data))


# --- modes ---


def test_16_bit_png_is_not_white():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(pixels(png16(ramp))[..., 0].ravel(), np.arange(256))


def test_12_bits_in_16_keep_their_contrast():
    ramp = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    got = pixels(png16(ramp))[..., 0].ravel()
    np.testing.assert_allclose(got.astype(int), np.arange(256), atol=1)


def test_16_bit_colour_keeps_both_bytes_of_its_samples():
    deep = PICTURE.astype(np.uint16) * 10 + 3
    expected = np.floor((deep - 3.0) / (deep.max() - 3) * 255 + 0.5)
    for data in (png16(deep), tiff(deep), tiff(deep, order=">")):
        np.testing.assert_array_equal(pixels(data), expected)


def test_16_bit_colour_in_a_compressed_tiff_keeps_both_bytes(tmp_path):
    data = tiff(PICTURE.astype(np.uint16) * 10)
    # The strip deflated, and the tags of compression, offset and length rewritten.
    head, body = data[: -PICTURE.size * 2], zlib.compress(data[-PICTURE.size * 2 :])
    head = head.replace(
        struct.pack("<HHIHH", 259, 3, 1, 1, 0), struct.pack("<HHIHH", 259, 3, 1, 8, 0)
    )
    head = head.replace(
        struct.pack("<HHII", 279, 4, 1, PICTURE.size * 2),
        struct.pack("<HHII", 279, 4, 1, len(body)),
    )
    np.testing.assert_array_equal(pixels(head + body), pixels(data))


@pytest.mark.parametrize("maximum", [65535, 4095])
def test_ppm_colour_of_more_than_8_bits_keeps_its_contrast(maximum):
    samples = (PICTURE.astype(np.uint16) << 3) + 5
    raw = b"P6 48 40 %d\n" % maximum + samples.astype(">u2").tobytes()
    plain = b"P3 # made by hand\n48 40 %d\n" % maximum
    plain += b" ".join(b"%d" % value for value in samples.ravel())
    low, high = int(samples.min()), int(samples.max())
    expected = (samples.astype(float) - low) / (high - low) * 255
    for data in (raw, plain):
        np.testing.assert_allclose(pixels(data), expected, atol=1)
        with pytest.raises(ImageError):
            decode(data[:-9])


def test_a_ppm_of_one_deep_colour_is_as_bright_as_its_maximum_says():
    for value, expected in ((4095, 255), (0, 0)):
        data = b"P6 2 1 4095\n" + struct.pack(">6H", *[value] * 6)
        np.testing.assert_array_equal(pixels(data), np.full((1, 2, 3), expected))


def test_16_bit_alpha_is_composited():
    grey = np.full((4, 4), 1000, dtype=np.uint16)
    grey[0] = 3000
    alpha = np.full_like(grey, 65535)
    alpha[:, 0] = 0
    for deep in (np.dstack([grey, alpha]), np.dstack([grey, grey, grey, alpha])):
        got = pixels(png16(deep))
        assert got[:, 0].tolist() == [[255] * 3] * 4
        assert got[0, 1].tolist() == [255] * 3
        assert got[1, 1].tolist() == [0] * 3


@pytest.mark.parametrize(
    ("dtype", "order"),
    [
        *((dtype, order) for dtype in ("uint16", "int16", "int32", "float32") for order in "<>"),
        ("uint32", "<"),  # Pillow knows no big-endian ones
    ],
)
def test_deep_grey_tiffs_keep_their_contrast(dtype, order):
    ramp = np.arange(256).reshape(16, 16).astype(dtype)
    got = pixels(tiff(ramp, order=order))[..., 0]
    np.testing.assert_array_equal(got.ravel(), np.arange(256))


def test_unsigned_32_bit_samples_beyond_the_signed_range_stay_bright():
    ramp = np.array([[0, 2**31, 2**32 - 1]], dtype=np.uint32)
    assert pixels(tiff(ramp))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e30])
def test_float_tiff_is_not_black(scale):
    ramp = (np.arange(256).reshape(16, 16) * scale).astype(np.float32)
    np.testing.assert_allclose(
        pixels(tiff(ramp))[..., 0].ravel().astype(int), np.arange(256), atol=1
    )


def test_nan_is_black_and_infinities_are_the_ends():
    row = np.array([[np.nan, -np.inf, 0.0, 1.0, np.inf]], dtype=np.float32)
    assert pixels(tiff(row))[0, :, 0].tolist() == [0, 0, 0, 255, 255]
    assert pixels(tiff(np.full((2, 2), np.nan, np.float32))).max() == 0


def test_white_is_zero_tiffs_are_inverted():
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    got = pixels(tiff(ramp, photometric=0))[..., 0].ravel()
    np.testing.assert_array_equal(got, 255 - np.arange(256))


def test_grey_and_bilevel_are_repeated_in_three_channels():
    grey = pixels(encode(GREY, "PNG"))
    np.testing.assert_array_equal(grey, np.repeat(GREY[..., None], 3, axis=2))
    two = pixels(encode(Image.fromarray(GREY).convert("1"), "PNG"))
    assert set(np.unique(two)) == {0, 255}


def test_images_without_colours_may_stay_of_one_channel():
    samples = np.random.default_rng(0).integers(0, 65536, (20, 30), np.uint16)
    byte = Image.fromarray((samples >> 8).astype(np.uint8))
    colour = Image.merge("RGB", [byte, byte.rotate(180), byte])
    clear = byte.convert("LA")
    clear.putalpha(byte.rotate(180))
    tagged = Image.Exif()
    tagged[274] = 6
    files = {
        "L": [
            encode(byte, "PNG"),
            encode(byte, "JPEG", exif=tagged),
            encode(byte.convert("1"), "PNG"),
            encode(Image.fromarray(samples), "PNG"),
        ],
        "RGB": [
            encode(colour, "PNG"),
            encode(clear, "PNG"),
            encode(byte, "PNG", transparency=7),
            encode(Image.fromarray(samples), "PNG", transparency=int(samples[0, 0])),
            encode(byte.convert("P"), "PNG"),
        ],
    }
    for mode, contents in files.items():
        for data in contents:
            found, usual = decode(data, grey=True), decode(data)
            assert (found.mode, usual.mode) == (mode, "RGB")
            assert np.array_equal(found.convert("RGB"), usual)


def test_alpha_is_composited_on_the_background():
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = (0, 128, 255)
    data = encode(rgba, "PNG")
    assert pixels(data)[0, :, 0].tolist() == [255, 127, 0]
    green = pixels(data, DecodePolicy(background=(0, 200, 0)))
    assert green[0, 0].tolist() == [0, 200, 0]
    alpha = Image.frombytes("L", (2, 1), b"\x00\xff")
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 1), 10), alpha])
    assert pixels(encode(grey_alpha, "PNG"))[0, :, 0].tolist() == [255, 10]


@pytest.mark.parametrize(("kind", "transparency"), [("PNG", 1), ("PNG", b"\xff\x00"), ("GIF", 1)])
def test_palette_transparency_is_composited(kind, transparency):
    image = Image.frombytes("P", (2, 1), b"\x00\x01")
    image.putpalette([10, 20, 30, 40, 50, 60])
    got = pixels(encode(image, kind, transparency=transparency))
    assert got[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_a_palette_without_transparency_gives_its_colours():
    image = Image.frombytes("P", (2, 1), b"\x00\x01")
    image.putpalette([10, 20, 30, 40, 50, 60])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert pixels(encode(image, kind))[0].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_a_transparent_colour_is_composited():
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    assert pixels(encode(rgb, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [4, 5, 6]]
    deep = np.array([[0, 300, 900]], dtype=np.uint16)
    clear = chunk(b"tRNS", struct.pack(">H", 300))
    assert pixels(png16(deep, before=clear))[0, :, 0].tolist() == [0, 255, 255]
    colour = np.repeat(deep[..., None], 3, axis=2)
    clear = chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0))
    assert pixels(png16(colour, before=clear))[0, :, 0].tolist() == [255, 85, 255]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert pixels(encode(red, kind))[8, 8] == pytest.approx((255, 0, 0), abs=3)


def test_lab_and_ycbcr_become_the_colours_they_name():
    profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    red = Image.new("RGB", (4, 4), (200, 30, 30))
    lab = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    assert pixels(encode(lab, "TIFF"))[0, 0] == pytest.approx((200, 30, 30), abs=3)
    ycbcr = Image.new("RGB", (8, 8), (200, 30, 30)).convert("YCbCr")
    assert pixels(encode(ycbcr, "TIFF"))[0, 0] == pytest.approx((200, 30, 30), abs=3)


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("red", (0, 0, 16, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera made
    turned = upright if orientation == 1 else upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"subsampling": 0, "quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(turned, kind, exif=exif.tobytes(), **options)
    np.testing.assert_allclose(pixels(data).astype(int), np.asarray(upright), atol=40)
    left = pixels(data, DecodePolicy(exif=False))
    assert left.shape[:2] == turned.size[::-1]


def test_damaged_exif_costs_the_orientation_not_the_image():
    data = encode(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert pixels(data).shape == PICTURE.shape


# --- what is refused ---


FORMATS = {
    "jpeg": encode(PICTURE, "JPEG"),
    "progressive": encode(PICTURE, "JPEG", progressive=True),
    "png": encode(PICTURE, "PNG"),
    "palette": encode(Image.fromarray(PICTURE).quantize(64), "PNG"),
    "deep": png16(PICTURE.astype(np.uint16) * 9),
    "webp": encode(PICTURE, "WEBP"),
    "lossless": encode(PICTURE, "WEBP", lossless=True),
    "bmp": encode(PICTURE, "BMP"),
    "tiff": encode(PICTURE, "TIFF"),
    "lzw": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "deflate": encode(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "ppm": encode(PICTURE, "PPM"),
    "gif": encode(PICTURE, "GIF")[:-2],  # the end of the frame and the trailer hold no pixels
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_short_is_an_error_wherever_it_is_cut(name):
    data = FORMATS[name]
    cuts = {*range(1, 40), *range(40, len(data), 23), *range(len(data) - 20, len(data))}
    for cut in sorted(cuts - {len(data)}):
        with pytest.raises(ImageError):
            decode(data[:cut])


@pytest.mark.parametrize("fill", [0, 77])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_png_with_rows_missing_is_an_error(rows, fill):
    row = b"\0" + bytes([fill]) * 30
    with pytest.raises(ImageError, match=r"cut short"):
        decode(png(10, 10, 8, 2, row * rows))
    assert pixels(png(10, 10, 8, 2, row * 10)).max() == fill


def test_an_interlaced_png_with_a_pass_missing_is_an_error():
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]  # pixels a row, rows; 8 x 8

    def interlaced(passes):
        raw = b"".join((b"\0" + bytes([9]) * width) * rows for width, rows in passes)
        data = png(8, 8, 8, 0, raw)
        return data.replace(chunk(b"IHDR", data[16:29]), chunk(b"IHDR", data[16:28] + b"\1"))

    assert (pixels(interlaced(passes)) == 9).all()
    for n in range(len(passes)):
        with pytest.raises(ImageError):
            decode(interlaced(passes[:n]))


def test_a_tiff_with_strips_missing_is_an_error():
    data = tiff(GREY)
    whole, half = (struct.pack("<HHII", 278, 4, 1, rows) for rows in (40, 20))  # rows a strip
    np.testing.assert_array_equal(pixels(data)[..., 0], GREY)
    with pytest.raises(ImageError, match="lacks strips"):
        decode(data.replace(whole, half))


def test_a_tiff_of_many_strips_is_complete():
    many = encode(np.tile(PICTURE, (8, 8, 1)), "TIFF", strip_size=4096)
    np.testing.assert_array_equal(pixels(many), np.tile(PICTURE, (8, 8, 1)))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_png_whose_pixels_fail_their_checksum_is_an_error(name):
    data = bytearray(encode(Image.fromarray(PICTURE).quantize(16), "PNG"))
    length = int.from_bytes(data[data.index(name) - 4 : data.index(name)], "big")
    data[data.index(name) + 4 + length] ^= 1
    with pytest.raises(ImageError, match=r"checksum|damaged"):
        decode(bytes(data))


def test_a_png_whose_comment_fails_its_checksum_is_read_behind_its_pixels():
    data = encode(PICTURE, "PNG")
    comment = bytearray(chunk(b"tEXt", b"a\0b"))
    comment[-1] ^= 1
    np.testing.assert_array_equal(pixels(data[:-12] + bytes(comment) + data[-12:]), PICTURE)


def test_a_tiff_that_lists_strips_without_end_is_an_error():
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 5000, 8), (278, 4, 1, 1), (279, 4, 5000, 8)]

    def directory(count):
        listed = [(tag, kind, count if n > 1 else n, value) for tag, kind, n, value in entries]
        head = b"II*\0" + struct.pack("<IH", 8, len(listed))
        return head + b"".join(struct.pack("<HHII", *entry) for entry in listed) + bytes(4 * 5000)

    with pytest.raises(ImageError, match="more strips or tiles than its pixels take"):
        decode(directory(5000))
    with pytest.raises(ImageError, match="16,777,216 strips or tiles"):  # before they are read
        decode(directory(1 << 24))


@pytest.mark.parametrize("tile", [16, 32, 80])
def test_tiles_may_reach_beyond_the_image(tile):
    columns, rows = -(-GREY.shape[1] // tile), -(-GREY.shape[0] // tile)
    padded = np.pad(GREY, ((0, rows * tile - 40), (0, columns * tile - 48)))
    tiles = [
        padded[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile].tobytes()
        for y in range(rows)
        for x in range(columns)
    ]
    entries = [(256, 48), (257, 40), (258, 8), (259, 1), (262, 1), (322, tile), (323, tile)]
    n, size, start = len(tiles), tile * tile, 8 + 2 + 12 * 9 + 4
    offsets = [start + (8 * n if n > 1 else 0) + i * size for i in range(n)]
    head = b"II*\0" + struct.pack("<IH", 8, 9)
    head += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    places = (start, start + 4 * n) if n > 1 else (start, size)
    head += struct.pack("<HHII", 324, 4, n, places[0]) + struct.pack("<HHII", 325, 4, n, places[1])
    lists = struct.pack(f"<{2 * n}I", *offsets, *[size] * n) if n > 1 else b""
    found = pixels(head + bytes(4) + lists + b"".join(tiles))
    np.testing.assert_array_equal(found[..., 0], GREY)


def test_jpeg_data_in_a_tiff_that_end_early_are_an_error():
    data = encode(PICTURE, "TIFF", compression="jpeg")
    image = Image.open(io.BytesIO(data))
    (start,), (length,) = image.tag_v2[273], image.tag_v2[279]
    np.testing.assert_allclose(pixels(data).astype(int), PICTURE, atol=40)
    cut = data[: start + length // 2] + bytes(length - length // 2) + data[start + length :]
    with pytest.raises(ImageError, match="JPEG data in it end early"):
        decode(cut)


def test_a_progressive_jpeg_that_was_cut_and_closed_is_an_error():
    rough = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = encode(rough, "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xc4", first)  # tables stand between two scans
    with pytest.raises(ImageError, match="blocks of pixels are missing"):
        decode(data[: (first + second) // 2] + b"\xff\xd9")
    taller = data.index(b"\xff\xc2") + 5
    with pytest.raises(ImageError, match="blocks of pixels are missing"):
        decode(data[:taller] + struct.pack(">H", 200) + data[taller + 2 :])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_that_ends_in_middle_grey_is_whole(mode):
    grey = PICTURE.copy()
    grey[-16:] = 128
    image = Image.fromarray(grey).convert(mode)
    if mode == "CMYK":
        image = Image.merge("CMYK", [Image.new("L", image.size, 128)] * 4)
    data = encode(image, "JPEG", progressive=True, quality=100)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


def test_a_jpeg_that_was_cut_and_closed_is_an_error():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = encode(noise, "JPEG")
    closed = data[: len(data) // 2] + b"\xff\xd9"
    stripes = np.asarray(Image.open(io.BytesIO(closed)))  # Pillow says nothing
    assert stripes[-16:].std() < 1e-6
    with pytest.raises(ImageError, match="truncated"):
        decode(closed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "HEIC, but is damaged"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF, but is damaged"),
        (b"\0\0\0\x1cftypisom" + bytes(40), "a film"),
        (bytes(1000), "unknown data"),
        (b"\xff\xd8\xff", "JPEG, but is damaged"),
        (b"\x89PNG\r\n\x1a\n", "PNG, but is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "TGA", "PCX", "ICNS", "EPS"])
def test_formats_outside_the_list_are_refused(kind):
    with pytest.raises(ImageError, match=r"not a JPEG|damaged"):
        decode(encode(Image.fromarray(PICTURE), kind))


def test_random_damage_raises_nothing_but_image_errors():
    rng = np.random.default_rng(1)
    for data in FORMATS.values():
        for _ in range(40):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 4):
                damaged[at] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                assert decode(bytes(damaged), limits=DecodeLimits(max_pixels=10**6)).mode == "RGB"


def test_limits_hold_before_anything_is_decoded():
    bomb = png(50_000, 50_000, 8, 2, b"")
    with pytest.raises(ImageError, match=r"more than 178,956,970 pixels.*; shrink or tile it\.$"):
        decode(bomb)
    with pytest.raises(ImageError, match=r"10000 x 10000 pixels.*max_pixels"):
        decode(png(10_000, 10_000, 8, 2, b""), limits=DecodeLimits(max_pixels=10**6))
    with pytest.raises(ImageError, match="max_side"):
        decode(png(100_000, 1, 8, 0, b""))
    with pytest.raises(ImageError, match="max_bytes"):
        decode(FORMATS["png"], limits=DecodeLimits(max_bytes=10))


def test_large_but_allowed_images_warn_nobody():
    large = encode(Image.new("1", (9500, 9500)), "PNG")  # beyond Pillow's warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(large).size == (9500, 9500)


def test_threads_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [decode(FORMATS["png"]) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_the_policy_survives_json():
    policy = DecodePolicy(exif=False, background=(1, 2, 3))
    assert DecodePolicy.from_dict(policy.to_dict()) == policy
    assert DecodePolicy.from_dict({}) == DecodePolicy()


# --- reading files ---


def test_read_bytes_returns_the_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(FORMATS["png"])
    for name in (path, str(path), os.fsencode(path)):
        assert read_bytes(name) == FORMATS["png"]


def test_read_bytes_refuses_what_is_no_regular_file_without_waiting(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"^not a regular file but a pipe\.$"):
        read_bytes(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="a folder"):
        read_bytes(tmp_path)
    with pytest.raises(ImageError, match="a device"):
        read_bytes("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jpg")
        with pytest.raises(ImageError, match="a socket"):
            read_bytes("s.jpg")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_a_file_that_is_longer_than_it_said_has_changed():
    with pytest.raises(ImageError, match="changed while it was read"):
        read_bytes("/proc/self/status")  # its size is said to be 0


def test_read_bytes_says_why_it_can_not(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_bytes(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(ImageError, match="symbolic links"):
        read_bytes(tmp_path / "loop.jpg")
    (tmp_path / "big.jpg").write_bytes(bytes(100))
    with pytest.raises(ImageError, match=r"^the file has 100 bytes.* \(max_bytes\)\.$"):
        read_bytes(tmp_path / "big.jpg", DecodeLimits(max_bytes=99))
    with pytest.raises(ImageError):
        read_bytes("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_read_bytes_says_that_it_may_not(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").chmod(0)
    with pytest.raises(ImageError, match="permission"):
        read_bytes(tmp_path / "secret.jpg")


def test_decoding_imports_nothing_heavy():
    code = (
        "import sys, featbank.data.decode, featbank.data.sources, featbank.data.splits\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'h5py', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
