"""Fixtures of the pictures that are neither JPEG nor PNG: tiny PBM, PGM, PPM, BMP, WebP and TIFF files with the pixels
that Pillow gives for them, files that must be refused, and Exif orientation outside of JPEG.

Writes OUT/images_more/* (the files), OUT/images_more.json (what to expect of each: "pixels" or "refuse") and
OUT/images_more.safetensors: `NAME` is PIL.Image.open(NAME).convert("RGB"), for TIFF with the orientation applied, as
newer versions of Pillow do; `NAME.upright` is the image with the orientation of Exif applied. Of 16-bit grey it is the
high byte, which Pillow clips. WebP files are those of tests/fixtures where they are there, since encoders change.
"""
import io
import json
import os
import struct
import warnings
import numpy as np
from PIL import Image, ImageOps
from image_fixtures import chunk, picture, png

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "images_more")


def rows_of_bits(values, bits):
    """Rows (h, w) of numbers of `bits` bits, the first in the highest; each starts with a byte."""
    digits = ((values.astype(int)[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
    return np.packbits(digits.reshape(len(values), -1), axis=1).tobytes()


# ---------------------------------------------------------------- PBM, PGM, PPM

def plain(values):
    return b"\n".join(b" ".join(b"%d" % v for v in row) for row in values.reshape(len(values), -1)) + b"\n"


def pnm(seed):
    rgb = picture(7, 13, seed)
    grey, bits = rgb[..., 0], (rgb[..., 1] > 128).astype(np.uint8)
    wide = np.random.RandomState(seed).randint(0, 65536, (5, 6, 3))
    raw = lambda kind, a, most, data: b"P%d\n%d %d\n%s" % (kind, a.shape[1], a.shape[0], b"%d\n" % most if most else
                                                           b"") + data
    high = {"grey_65535.pgm": wide[..., 0] >> 8,
            "grey_1023.pgm": np.rint((wide[..., 0] % 1024) / 1023 * 65535).astype(int) >> 8,
            "grey_plain_4000.pgm": np.rint((wide[..., 1] % 4001) / 4000 * 65535).astype(int) >> 8}
    good = {
        "bits_plain.pbm": b"P1 # a comment\n13\t7 # and another\n" +
                          b"#\n".join(b"".join(b"%d" % v for v in row) for row in bits),
        "bits.pbm": raw(4, bits, 0, np.packbits(bits, axis=1).tobytes()),
        "grey_plain.pgm": b"P2\n# 9 9\r13 # width\n7\n255\n" + plain(grey).replace(b"\n", b" # 7\n", 2),
        "grey_plain_100.pgm": raw(2, grey, 100, plain(grey % 101)),
        "grey_plain_4000.pgm": raw(2, wide, 4000, plain(wide[..., 1] % 4001)),
        "grey.pgm": raw(5, grey, 255, grey.tobytes()),
        "grey_63.pgm": raw(5, grey, 63, (grey % 70).astype(np.uint8).tobytes()),
        "grey_65535.pgm": raw(5, wide, 65535, wide[..., 0].astype(">u2").tobytes()),
        "grey_1023.pgm": raw(5, wide, 1023, (wide[..., 0] % 1024).astype(">u2").tobytes()),
        "rgb_plain.ppm": raw(3, rgb, 255, plain(rgb)),
        "rgb_plain_1000.ppm": raw(3, wide, 1000, plain(wide % 1001)),
        "rgb.ppm": raw(6, rgb, 255, rgb.tobytes()), "rgb_and_more.ppm": raw(6, rgb, 255, rgb.tobytes() + b"more"),
        "rgb_31.ppm": raw(6, rgb, 31, (rgb % 32).astype(np.uint8).tobytes()),
        "rgb_65535.ppm": raw(6, wide, 65535, wide.astype(">u2").tobytes()),
        "rgb_300.ppm": raw(6, wide, 300, (wide % 301).astype(">u2").tobytes()),
    }
    bad = {
        "truncated.pgm": good["grey.pgm"][:-1], "truncated.pbm": good["bits.pbm"][:-1],
        "truncated_plain.ppm": good["rgb_plain.ppm"][:-9], "zero_width.ppm": b"P6\n0 3\n255\n",
        "largest_0.pgm": b"P5\n1 1\n0\n\0", "largest_65536.pgm": b"P5\n1 1\n65536\n\0\0",
        "value_above_largest.pgm": b"P2\n2 1\n100\n100 101\n", "digit_2.pbm": b"P1\n3 1\n0 1 2\n",
        "negative.pgm": b"P2\n2 1\n100\n-1 10\n", "claims_60000x60000.ppm": b"P6\n60000 60000\n255\n",
        "claims_10000x10000.ppm": b"P6\n10000 10000\n255\nabc", "no_size.pgm": b"P5 ",
        "letters.pgm": b"P2\n2x 1\n255\n1 2\n",
        "number_without_end.pgm": b"P2 " + b"9" * 100,
    }
    return good, bad, high


# ---------------------------------------------------------------- BMP

def bmp(size, bits, raster, palette=b"", compression=0, header=40, masks=(), top_down=False, offset=None, colors=0):
    """A BMP file. palette: blue, green, red (and a byte for all but the header of 12 bytes) of each colour."""
    h, w = size
    if header == 12:
        head = struct.pack("<IHHHH", 12, w, h, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", 40, w, -h if top_down else h, 1, bits, compression, len(raster), 2835, 2835,
                           colors or len(palette) // 4, 0)
        head += struct.pack(f"<{len(masks)}I", *masks)
        if header > 40:
            head = struct.pack("<I", header) + head[4:] + bytes(header - len(head))
    start = 14 + len(head) + len(palette) if offset is None else offset
    return (b"BM" + struct.pack("<IHHI", 14 + len(head) + len(palette) + len(raster), 0, 0, start) + head + palette +
            raster)


def rows(values, bits, top_down=False):
    """The raster of (h, w) indices or (h, w, bytes) pixels: rows of whole groups of 4 bytes."""
    out = []
    for row in values if top_down else values[::-1]:
        line = row.astype(np.uint8).tobytes() if bits >= 8 else rows_of_bits(row[None], bits)
        out.append(line + bytes(-len(line) % 4))
    return b"".join(out)


def bitmaps(seed):
    rgb = picture(7, 13, seed + 1)
    h, w = size = rgb.shape[:2]
    rng = np.random.RandomState(seed + 1)
    colours = rng.randint(0, 256, (256, 4)).astype(np.uint8)
    palette = lambda n, step=4: colours[:n, :step].tobytes()
    ramp = np.repeat(np.arange(256), 4).astype(np.uint8).reshape(256, 4)
    ramp[:, 3] = 0
    index = rng.randint(0, 256, size)
    bgr = rgb[..., ::-1]
    four = np.dstack([bgr, np.arange(h * w).reshape(size) % 256])
    words = rng.randint(0, 65536, size)
    words = np.dstack([words & 255, words >> 8])
    five, six = (0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)
    alpha_last = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    run8 = (b"\x05\x07" b"\0\x05abcde\0" b"\x03\x02" b"\0\0" b"\x0d\x01\0\0" b"\0\2\4\1" b"\x09\x03\0\0" b"\0\x04wxyz"
            b"\xff\x06\0\0" b"\x02\x08\0\0" b"\x0d\x09\0\1")
    run4 = (b"\x05\x12" b"\0\x05\x12\x34\x50\0" b"\x03\x42\0\0" b"\x0d\x01\0\0" b"\0\2\4\1" b"\x09\x03\0\0"
            b"\0\x04\x9a\xbc" b"\xff\x65\0\0" b"\x02\x08\0\0" b"\x0d\x97\0\1")
    good = {
        "bits_1.bmp": bmp(size, 1, rows(index % 2, 1), palette(2)),
        "bits_4.bmp": bmp(size, 4, rows(index % 16, 4), palette(16)),
        "bits_8.bmp": bmp(size, 8, rows(index, 8), palette(256)),
        "black_and_white.bmp": bmp(size, 1, rows(index % 2, 1), b"\0\0\0\0\xff\xff\xff\0"),
        "grey.bmp": bmp(size, 8, rows(index, 8), ramp.tobytes()),
        "few_colours.bmp": bmp(size, 8, rows(index % 5, 8), palette(5)),
        "no_offset.bmp": bmp(size, 8, rows(index % 5, 8), palette(5), offset=0),
        "offset_of_palette.bmp": bmp(size, 8, rows(index % 5, 8), palette(5), offset=54),
        "gap.bmp": bmp(size, 24, b"a gap" + rows(bgr, 24), offset=59),
        "runs_8.bmp": bmp(size, 8, run8, palette(256), compression=1),
        "runs_4.bmp": bmp(size, 4, run4, palette(16), compression=2),
        "bits_16.bmp": bmp(size, 16, rows(words, 16)),
        "fields_565.bmp": bmp(size, 16, rows(words, 16), compression=3, masks=six),
        "fields_555_v4.bmp": bmp(size, 16, rows(words, 16), compression=3, masks=five, header=108),
        "bits_24.bmp": bmp(size, 24, rows(bgr, 24)), "one_pixel.bmp": bmp((1, 1), 24, rows(bgr[:1, :1], 24)),
        "fields_24.bmp": bmp(size, 24, rows(bgr, 24), compression=3, masks=(0xFF0000, 0xFF00, 0xFF)),
        "top_down.bmp": bmp(size, 24, rows(bgr, 24, True), top_down=True),
        "top_down_8.bmp": bmp(size, 8, rows(index, 8, True), palette(256), top_down=True),
        "no_last_padding.bmp": bmp(size, 24, rows(bgr, 24)[:-1]),
        "bits_32.bmp": bmp(size, 32, rows(four, 32)),
        "alpha_v3.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=alpha_last, header=56),
        "alpha_v5.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=alpha_last, header=124),
        "fields_rgba.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=(0xFF, 0xFF00, 0xFF0000, 0xFF000000),
                               header=108),
        "fields_abgr.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=(0xFF000000, 0xFF0000, 0xFF00, 0xFF),
                               header=108),
        "fields_32.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=(0xFF0000, 0xFF00, 0xFF)),
        "fields_none.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=(0, 0, 0, 0), header=56),
        "v2.bmp": bmp(size, 24, rows(bgr, 24), header=52), "v4.bmp": bmp(size, 24, rows(bgr, 24), header=108),
        "os2_24.bmp": bmp(size, 24, rows(bgr, 24), header=12),
        "os2_8.bmp": bmp(size, 8, rows(index, 8), palette(256, 3), header=12),
        "os2_1.bmp": bmp(size, 1, rows(index % 2, 1), palette(2, 3), header=12),
        "os2_long.bmp": bmp(size, 4, rows(index % 16, 4), palette(16), header=64),
    }
    whole = good["bits_24.bmp"]
    huge = lambda w, h: whole[:18] + struct.pack("<II", w, h) + whole[26:]
    bad = {
        "truncated.bmp": whole[:-5], "truncated_header.bmp": whole[:40], "magic_only.bmp": b"BM",
        "zero_width.bmp": huge(0, 7), "zero_height.bmp": huge(7, 0), "claims_60000x60000.bmp": huge(60000, 60000),
        "claims_13000x13000.bmp": huge(13000, 13000), "claims_most_rows.bmp": huge(13, 0x80000000),
        "bits_2.bmp": bmp(size, 2, rows(index % 4, 2), palette(4)),
        "jpeg_inside.bmp": bmp(size, 24, b"", compression=4),
        "palette_missing.bmp": bmp(size, 8, b"", colors=256),
        "palette_huge.bmp": bmp(size, 8, rows(index, 8), palette(256), colors=0x40000000),
        "runs_end_early.bmp": bmp(size, 8, run8[:20] + b"\0\1", palette(256), compression=1),
        "runs_truncated.bmp": bmp(size, 8, run8[:-6], palette(256), compression=1),
        "literal_truncated.bmp": bmp(size, 8, run8[:8], palette(256), compression=1),
        "fields_444.bmp": bmp(size, 16, rows(words, 16), compression=3, masks=(0xF00, 0xF0, 0xF)),
        "fields_overlap.bmp": bmp(size, 32, rows(four, 32), compression=3, masks=(0x1FF, 0xFF00, 0xFF0000)),
        "fields_of_palette.bmp": bmp(size, 8, rows(index, 8), palette(256), compression=3),
        "raster_behind_end.bmp": bmp(size, 24, rows(bgr, 24), offset=0xFFFFFFF0),
        "header_of_41_bytes.bmp": whole[:14] + b"\x29" + whole[15:],
    }
    return good, bad


# ---------------------------------------------------------------- WebP

def saved(image, kind, **options):
    f = io.BytesIO()
    image.save(f, kind, **options)
    return f.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def webp(seed):
    rgb = picture(21, 30, seed + 2)
    alpha = Image.fromarray(np.dstack([rgb, np.arange(630).reshape(21, 30) % 256]).astype(np.uint8))
    image = Image.fromarray(rgb)

    def kept(name, make):
        path = os.path.join(FIXTURES, name)
        if not os.path.exists(path):
            return make()
        with open(path, "rb") as f:
            return f.read()

    good = {
        "lossy.webp": kept("lossy.webp", lambda: saved(image, "WEBP", quality=70)),
        "lossy_alpha.webp": kept("lossy_alpha.webp", lambda: saved(alpha, "WEBP", quality=80)),
        "lossless.webp": kept("lossless.webp", lambda: saved(image, "WEBP", lossless=True)),
        "lossless_alpha.webp": kept("lossless_alpha.webp", lambda: saved(alpha, "WEBP", lossless=True, exact=True)),
        "one_pixel.webp": kept("one_pixel.webp", lambda: saved(image.crop((0, 0, 1, 1)), "WEBP")),
        "exif_6.webp": kept("exif_6.webp", lambda: saved(image, "WEBP", quality=50, exif=exif_of(6))),
        "exif_7.webp": kept("exif_7.webp", lambda: saved(image, "WEBP", lossless=True, exif=exif_of(7).tobytes()[6:])),
    }
    whole, lossless = good["lossy.webp"], good["lossless.webp"]
    canvas = bytearray(good["lossy_alpha.webp"])
    canvas[24:30] = b"\xff\x3f\0\xff\x3f\0"
    bad = {
        "truncated.webp": whole[:len(whole) * 6 // 10], "truncated_lossless.webp": lossless[:len(lossless) * 6 // 10],
        "magic_only.webp": whole[:12], "riff_of_sound.webp": b"RIFF\x24\0\0\0WAVEfmt ",
        "animation.webp": kept("animation.webp", lambda: saved(image, "WEBP", save_all=True, append_images=[alpha])),
        "canvas_16384x16384.webp": bytes(canvas), "damaged_lossless.webp": lossless[:30] + b"\xff" * 40 + lossless[70:],
    }
    return good, bad


# ---------------------------------------------------------------- TIFF

def tiff(size, bits, pieces, photometric, order="<", tile=None, separate=False, extra=None, palette=None, big=False,
         more=()):
    """A TIFF file without compression. bits: of each sample. pieces: strips, or tiles of `tile` (h, w)."""
    h, w = size
    offset_type, offset_format = (16, "Q") if big else (4, "I")
    data = b"".join(pieces)
    start = 16 if big else 8
    starts = [start + sum(len(p) for p in pieces[:i]) for i in range(len(pieces))]
    per_strip = -(-h * (len(bits) if separate else 1) // len(pieces))
    tags = [(256, 3, [w]), (257, 3, [h]), (258, 3, bits), (259, 3, [1]), (262, 3, [photometric]), (277, 3, [len(bits)]),
            (284, 3, [2 if separate else 1])]
    if tile:
        tags += [(322, 3, [tile[1]]), (323, 3, [tile[0]]), (324, offset_type, starts),
                 (325, 4, [len(p) for p in pieces])]
    else:
        tags += [(273, offset_type, starts), (278, 3, [per_strip]), (279, 4, [len(p) for p in pieces])]
    tags += [(338, 3, extra)] if extra else []
    tags += [(320, 3, palette)] if palette is not None else []
    replaced = {t[0] for t in more}
    tags = sorted([t for t in tags if t[0] not in replaced] + list(more))
    data += bytes(-len(data) % 8)
    directory = start + len(data)
    head, entry, room = (8, 20, 8) if big else (2, 12, 4)
    behind = directory + head + entry * len(tags) + room
    out, values = b"", b""
    for number, kind, numbers in tags:
        packed = struct.pack(order + str(len(numbers)) + {3: "H", 4: "I", 16: "Q"}[kind], *[int(n) for n in numbers])
        if len(packed) > room:
            at = behind + len(values)
            values += packed + bytes(len(packed) % 2)
            packed = struct.pack(order + offset_format, at)
        out += struct.pack(order + "HH" + offset_format, number, kind, len(numbers)) + packed.ljust(room, b"\0")
    mark = b"II" if order == "<" else b"MM"
    lead = mark + struct.pack(order + ("HHHQ" if big else "HI"), *([43, 8, 0] if big else [42]), directory)
    return lead + data + struct.pack(order + ("Q" if big else "H"), len(tags)) + out + bytes(room) + values


def tiles(values, tile):
    """Tiles (h, w) of an array (h, w, samples), padded with 99."""
    th, tw = tile
    h, w = values.shape[:2]
    padded = np.full((-(-h // th) * th, -(-w // tw) * tw) + values.shape[2:], 99, values.dtype)
    padded[:h, :w] = values
    corners = [(y, x) for y in range(0, h, th) for x in range(0, w, tw)]
    return [np.ascontiguousarray(padded[y:y + th, x:x + tw]).tobytes() for y, x in corners]


def tiffs(seed):
    rgb = picture(21, 37, seed + 3)
    h, w = size = rgb.shape[:2]
    image, grey = Image.fromarray(rgb), rgb[..., 0]
    rng = np.random.RandomState(seed + 3)
    wide = rng.randint(0, 65536, (9, 14, 4)).astype(np.uint16)
    four = np.dstack([rgb, np.arange(h * w).reshape(size) % 256]).astype(np.uint8)
    premultiplied = np.minimum(four, four[..., 3:])
    colours = rng.randint(0, 65536, 3 * 256)
    strips = [rgb[y:y + 8].tobytes() for y in range(0, h, 8)]
    planes = [np.ascontiguousarray(rgb[..., c]) for c in range(3)]
    packed = rows_of_bits
    save = lambda im, **o: saved(im, "TIFF", **o)
    small = Image.fromarray(picture(11, 18, seed + 4))
    high = {"grey_16.tiff": wide[..., 0] >> 8, "grey_16_motorola.tiff": wide[..., 0] >> 8}
    good = {
        "grey.tiff": save(Image.fromarray(grey)), "rgb.tiff": save(image),
        "rgb_strips.tiff": tiff(size, [8] * 3, strips, 2, more=[(278, 3, [8])]),
        "rgb_motorola.tiff": tiff(size, [8] * 3, strips, 2, ">", more=[(278, 3, [8])]),
        "rgb_big.tiff": tiff(size, [8] * 3, [rgb.tobytes()], 2, big=True),
        "lzw.tiff": save(image, compression="tiff_lzw"), "deflate.tiff": save(image, compression="tiff_adobe_deflate"),
        "predictor.tiff": save(image, compression="tiff_lzw", tiffinfo={317: 2}),
        "packbits.tiff": save(image, compression="packbits"),
        "jpeg.tiff": save(image, compression="jpeg", quality=80),
        "jpeg_grey.tiff": save(Image.fromarray(grey), compression="jpeg", quality=80),
        "group3.tiff": save(image.convert("1"), compression="group3"),
        "group4.tiff": save(image.convert("1"), compression="group4"),
        "bits.tiff": save(image.convert("1")),
        "bits_white_is_0.tiff": tiff(size, [1], [packed(grey > 128, 1)], 0),
        "bits_reversed.tiff": tiff(size, [1], [packed(grey > 128, 1)], 1, more=[(266, 3, [2])]),
        "grey_2.tiff": tiff(size, [2], [packed(grey // 64, 2)], 1),
        "grey_4_white_is_0.tiff": tiff(size, [4], [packed(grey // 16, 4)], 0),
        "grey_white_is_0.tiff": tiff(size, [8], [grey.tobytes()], 0),
        "grey_16.tiff": tiff((9, 14), [16], [wide[..., 0].astype("<u2").tobytes()], 1),
        "grey_16_motorola.tiff": tiff((9, 14), [16], [wide[..., 0].astype(">u2").tobytes()], 1, ">"),
        "grey_alpha.tiff": save(Image.fromarray(four[..., 2:], "LA")),
        "palette_1.tiff": tiff(size, [1], [packed(grey > 128, 1)], 3, palette=colours[:6]),
        "palette_4.tiff": tiff(size, [4], [packed(grey // 16, 4)], 3, palette=colours[:48]),
        "palette_8.tiff": tiff(size, [8], [grey.tobytes()], 3, ">", palette=colours),
        "rgb_16.tiff": tiff((9, 14), [16] * 3, [wide[..., :3].astype("<u2").tobytes()], 2),
        "rgb_16_motorola.tiff": tiff((9, 14), [16] * 3, [wide[..., :3].astype(">u2").tobytes()], 2, ">"),
        "rgba.tiff": save(Image.fromarray(four)),
        "rgba_unsaid.tiff": tiff(size, [8] * 4, [four.tobytes()], 2, extra=[0]),
        "rgba_premultiplied.tiff": tiff(size, [8] * 4, [premultiplied.tobytes()], 2, extra=[1]),
        "cmyk.tiff": save(Image.fromarray(four, "CMYK"), compression="tiff_lzw"),
        "tiles.tiff": tiff(size, [8] * 3, tiles(rgb, (16, 16)), 2, tile=(16, 16)),
        "tiles_grey.tiff": tiff(size, [8], tiles(grey, (16, 32)), 1, tile=(16, 32)),
        "one_tile.tiff": tiff(size, [8] * 3, tiles(rgb, (32, 48)), 2, tile=(32, 48)),
        "planes.tiff": tiff(size, [8] * 3, [p.tobytes() for p in planes], 2, separate=True),
        "planes_tiles.tiff": tiff(size, [8] * 3, [t for p in planes for t in tiles(p, (16, 16))], 2, tile=(16, 16),
                                  separate=True),
        "two_pages.tiff": save(image, save_all=True, append_images=[small]),
    }
    for o in range(1, 9):
        good[f"orientation_{o}.tiff"] = save(small, tiffinfo={274: o}, compression="tiff_lzw")
    whole, lzw = good["rgb_strips.tiff"], good["lzw.tiff"]
    damaged = bytearray(lzw)
    damaged[200:230] = b"\xff" * 30
    jpeg = good["jpeg.tiff"]
    middle = jpeg.rindex(b"\xff\xd9") - 120
    one = [rgb.tobytes()]
    bad = {
        "truncated.tiff": whole[:-40],
        "pixels_behind_end.tiff": tiff(size, [8] * 3, one, 2, more=[(273, 4, [1 << 30])]),
        "damaged.tiff": bytes(damaged), "damaged_jpeg.tiff": jpeg[:middle] + bytes(100) + jpeg[middle + 100:],
        "magic_only.tiff": b"II*\0", "no_directory.tiff": b"II*\0\x08\0\0\0",
        "directory_behind_end.tiff": b"II*\0\xf0\xff\xff\xff",
        "float.tiff": tiff((4, 5), [32], [bytes(80)], 1, more=[(339, 3, [3])]),
        "bits_12.tiff": tiff((4, 6), [12], [bytes(36)], 1), "lab.tiff": tiff(size, [8] * 3, one, 8),
        "ycbcr.tiff": tiff(size, [8] * 3, one, 6, more=[(530, 3, [1, 1])]),
        "planes_cmyk.tiff": tiff((4, 4), [8] * 4, [bytes(16)] * 4, 5, separate=True),
        "zero_width.tiff": tiff((4, 0), [8], [b"x"], 1),
        "claims_60000x60000.tiff": tiff((60000, 60000), [8], [b"x"], 1),
        "claims_13000x13000.tiff": tiff((13000, 13000), [8], [b"x"], 1),
        "huge_tiles.tiff": tiff((4, 4), [8], [bytes(16)], 1, tile=(16, 16),
                                more=[(322, 4, [1 << 28]), (323, 4, [1 << 28]), (259, 3, [5])]),
        "tiles_of_no_rows.tiff": tiff((4, 4), [8], [bytes(16)], 1, tile=(0, 16)),
        "no_palette.tiff": tiff(size, [4], [packed(grey // 16, 4)], 3),
        "unknown_compression.tiff": tiff(size, [8], [grey.tobytes()], 1, more=[(259, 3, [999])]),
    }
    return good, bad, high


# ---------------------------------------------------------------- all

def oriented_png(seed):
    small = picture(11, 18, seed + 5)
    exif = lambda o: chunk(b"eXIf", exif_of(o).tobytes()[6:])
    whole = png(small, 8, 2)
    files = {f"exif_{o}.png": png(small, 8, 2, extra=exif(o)) for o in (1, 3, 5, 6, 8)}
    files["exif_behind.png"] = whole[:-12] + exif(7) + whole[-12:]
    return files


def write_all(out, seed, write, wanted):
    if not wanted("images_more"):
        return
    folder = os.path.join(out, "images_more")
    os.makedirs(folder, exist_ok=True)
    good, bad, high = oriented_png(seed), {}, {}
    for files in (pnm(seed), bitmaps(seed), webp(seed), tiffs(seed)):
        good.update(files[0])
        bad.update(files[1])
        high.update(files[2] if len(files) > 2 else {})
    tensors = {}
    for name, data in good.items():
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            upright = np.array(ImageOps.exif_transpose(image).convert("RGB"))
            pixels = upright if name.endswith(".tiff") else np.array(image.convert("RGB"))
        if name in high:
            pixels = upright = np.repeat(high[name][..., None], 3, -1).astype(np.uint8)
        tensors[name] = pixels
        if upright.shape != pixels.shape or (upright != pixels).any():
            tensors[name + ".upright"] = upright
    for name, data in {**good, **bad}.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    notes = {name: dict(expect="pixels" if name in good else "refuse") for name in {**good, **bad}}
    with open(os.path.join(out, "images_more.json"), "w") as f:
        json.dump(notes, f, indent=1, sort_keys=True)
        f.write("\n")
    write("images_more", lambda: (tensors, dict(pillow=Image.__version__)), {})
