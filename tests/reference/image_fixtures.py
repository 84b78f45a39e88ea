"""Fixtures of the image pipeline: tiny JPEG and PNG files with the pixels that Pillow gives for them, files that must
be refused, evaluation transforms, and the augmentation operations of DeiT one by one.

Writes OUT/images/* (the files), OUT/images.json (what each is and what to expect) and OUT/images.safetensors (`NAME`
is the result of PIL.Image.open(NAME).convert("RGB"), which is also what torchvision's ImageFolder loads: EXIF
orientation is NOT applied; `NAME.upright` is the image with it applied). OUT/deit_ops.safetensors: see deit_ops.
"""
import hashlib
import io
import json
import math
import os
import struct
import warnings
import zlib
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps


# ---------------------------------------------------------------- pictures and a PNG writer

def picture(h, w, seed):
    """Colour gradients, an edge and some noise: (h, w, 3) uint8."""
    y, x = np.mgrid[0:h, 0:w]
    rng = np.random.RandomState(seed)
    a = np.stack([255 * x / max(w - 1, 1), 255 * y / max(h - 1, 1), 128 + 120 * np.sin(x / 3.0 + y / 5.0)], -1)
    a[(x + y) % 11 < 3] = [200, 30, 60]
    return np.clip(a + rng.randint(-25, 26, a.shape), 0, 255).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack(samples, depth):
    """Rows of samples (h, n) of `depth` bits -> list of byte rows, most significant bit first."""
    if depth == 8:
        return [bytes(r) for r in samples.astype(np.uint8)]
    if depth == 16:
        return [r.astype(">u2").tobytes() for r in samples]
    bits = ((samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(len(samples), -1).astype(np.uint8)
    return [np.packbits(r).tobytes() for r in bits]


def png(samples, depth, colour, interlace=False, palette=None, trns=None, extra=b""):
    """A PNG file of samples (h, w, channels). colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA. Filter types
    0 to 4 are used in turn on 8-bit and deeper images that are not interlaced."""
    h, w, ch = samples.shape
    body, bpp = b"", max(1, ch * depth // 8)
    if interlace:
        for y0, x0, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
                               (1, 0, 2, 1)):
            part = samples[y0::dy, x0::dx]
            if part.size:
                body += b"".join(b"\0" + r for r in pack(part.reshape(len(part), -1), depth))
    else:
        previous = None
        for i, row in enumerate(pack(samples.reshape(h, -1), depth)):
            kind = i % 5 if depth >= 8 else 0
            body += bytes([kind]) + filtered(kind, row, previous or bytes(len(row)), bpp)
            previous = row
    head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlace))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + (chunk(b"PLTE", palette) if palette else b"") +
            (chunk(b"tRNS", trns) if trns else b"") + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b""))


def filtered(kind, row, up, bpp):
    left, corner = bytes(bpp) + row[:-bpp], bytes(bpp) + up[:-bpp]

    def paeth(a, b, c):
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        return a if pa <= pb and pa <= pc else b if pb <= pc else c

    guess = {0: lambda a, b, c: 0, 1: lambda a, b, c: a, 2: lambda a, b, c: b, 3: lambda a, b, c: (a + b) // 2,
             4: paeth}[kind]
    return bytes((x - guess(a, b, c)) & 255 for x, a, b, c in zip(row, left, up, corner))


def jpeg(image, **options):
    f = io.BytesIO()
    image.save(f, "JPEG", **options)
    return f.getvalue()


# ---------------------------------------------------------------- files

def good_files(seed):
    d = (seed - 1) % 5                                        # other seeds, other sizes
    p = lambda h, w: picture(h, w, seed + h * w)
    rgb = Image.fromarray(p(21 + d, 30 + 2 * d))
    files = {
        "baseline_444.jpg": jpeg(rgb, quality=90, subsampling=0),
        "baseline_422.jpg": jpeg(rgb, quality=85, subsampling=1),
        "baseline_420.jpg": jpeg(rgb, quality=75, subsampling=2),
        "baseline_420_q20.jpg": jpeg(Image.fromarray(p(33 - d, 17 + d)), quality=20, subsampling=2),
        "progressive_420.jpg": jpeg(rgb, quality=80, progressive=True, subsampling=2),
        "progressive_444.jpg": jpeg(rgb, quality=95, progressive=True, subsampling=0),
        "optimized_huffman.jpg": jpeg(rgb, quality=70, optimize=True),
        "grey.jpg": jpeg(rgb.convert("L"), quality=85),
        "grey_progressive.jpg": jpeg(rgb.convert("L"), quality=85, progressive=True),
        "cmyk.jpg": jpeg(cmyk(p(21 + d, 30 + 2 * d)), quality=90),
        "cmyk_420.jpg": jpeg(cmyk(p(19, 25)), quality=80, subsampling=2),
        "one_pixel.jpg": jpeg(Image.fromarray(p(1, 1)), quality=90),
        "one_row.jpg": jpeg(Image.fromarray(p(1, 19)), quality=90),
        "sixteen.jpg": jpeg(Image.fromarray(p(16, 16)), quality=90),
        "icc_and_comment.jpg": jpeg(rgb, quality=85, icc_profile=b"not a profile" * 20, comment=b"a comment"),
    }
    small = Image.fromarray(p(11 + d, 18 + d))
    for o in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = o
        files[f"exif_{o}.jpg"] = jpeg(small, quality=90, exif=exif.tobytes())
    h, w = 13 + d, 22 + d
    full = p(h, w)
    r16 = np.random.RandomState(seed).randint(0, 65536, (9, 14, 4))
    alpha = np.dstack([full, np.arange(h * w).reshape(h, w) % 256])
    grey = full[..., :1]
    palette = bytes(np.random.RandomState(seed + 1).randint(0, 256, 48).astype(np.uint8))
    index = (np.arange(h * w).reshape(h, w, 1) * 7) % 16
    files.update({
        "grey8.png": png(grey, 8, 0), "rgb8.png": png(full, 8, 2), "rgba8.png": png(alpha, 8, 6),
        "grey_alpha8.png": png(alpha[..., 2:], 8, 4), "palette8.png": png(index, 8, 3, palette=palette),
        "palette4.png": png(index, 4, 3, palette=palette), "palette2.png": png(index % 4, 2, 3, palette=palette[:12]),
        "palette1.png": png(index % 2, 1, 3, palette=palette[:6]),
        "palette_alpha.png": png(index, 8, 3, palette=palette, trns=bytes(range(0, 160, 10))),
        "grey1.png": png(index % 2, 1, 0), "grey2.png": png(index % 4, 2, 0), "grey4.png": png(index, 4, 0),
        "grey16.png": png(r16[..., :1], 16, 0), "grey_alpha16.png": png(r16[..., :2], 16, 4),
        "rgb16.png": png(r16[..., :3], 16, 2), "rgba16.png": png(r16, 16, 6),
        "rgb8_interlaced.png": png(full, 8, 2, interlace=True),
        "grey1_interlaced.png": png(index % 2, 1, 0, interlace=True),
        "rgba8_interlaced.png": png(alpha, 8, 6, interlace=True),
        "rgb8_3x2_interlaced.png": png(full[:2, :3], 8, 2, interlace=True),
        "rgb8_colour_key.png": png(full, 8, 2, trns=struct.pack(">HHH", *[int(v) for v in full[0, 0]])),
        "rgb8_gamma.png": png(full, 8, 2, extra=chunk(b"gAMA", struct.pack(">I", 100000))),
        "png_named.jpg": png(full, 8, 2), "one_pixel.png": png(full[:1, :1], 8, 2),
    })
    return files


def cmyk(a):
    k = (a[..., :1] // 3 + np.arange(a.shape[1])[None, :, None] * 2) % 200
    return Image.fromarray(np.concatenate([a, k], -1).astype(np.uint8), "CMYK")


def bad_files(seed):
    rgb = picture(24, 31, seed)
    j = jpeg(Image.fromarray(rgb), quality=85)
    g = jpeg(Image.fromarray(rgb), quality=85, progressive=True)
    k = png(rgb, 8, 2)
    sof = j.index(b"\xff\xc0")
    sos = j.index(b"\xff\xda")
    damaged = bytearray(j)
    damaged[sos + 60: sos + 90] = bytes(range(100, 130))
    wrong_crc = bytearray(k)
    wrong_crc[29] ^= 1                                        # IHDR's checksum
    wrong_data = bytearray(k)
    at = k.index(b"IDAT") + 30
    wrong_data[at: at + 8] = b"\x55" * 8
    idat = k.index(b"IDAT") - 4
    huge = lambda w, h: k[:16] + struct.pack(">II", w, h) + k[24:29] + struct.pack(
        ">I", zlib.crc32(b"IHDR" + struct.pack(">II", w, h) + k[24:29])) + k[33:]
    return {
        "empty.jpg": b"", "text.jpg": b"this is no picture\n", "magic_only.jpg": b"\xff\xd8\xff",
        "magic_only.png": k[:8], "truncated.jpg": j[:len(j) * 6 // 10], "truncated_header.jpg": j[:sof + 6],
        "truncated_progressive.jpg": g[:len(g) * 6 // 10], "no_end_marker.jpg": j[:-2],
        "damaged_scan.jpg": bytes(damaged), "truncated.png": k[:len(k) * 6 // 10], "no_iend.png": k[:-12],
        "wrong_header_crc.png": bytes(wrong_crc), "wrong_data.png": bytes(wrong_data),
        "no_data.png": k[:idat] + k[-12:],
        "zero_width.png": huge(0, 24), "claims_60000x60000.png": huge(60000, 60000),
        "claims_65500x65500.jpg": j[:sof + 5] + struct.pack(">HH", 65500, 65500) + j[sof + 9:],
        "claims_more_rows.jpg": j[:sof + 5] + struct.pack(">HH", 48, 31) + j[sof + 9:],
        "claims_more_rows.png": huge(31, 48),
        "text_bomb.png": k[:33] + chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_200_000), 9)) + k[33:],
        "data_bomb.png": k[:idat] + chunk(b"IDAT", zlib.compress(bytes(2_000_000), 9)) + k[-12:],
        "twelve_bit.jpg": j[:sof + 4] + b"\x0c" + j[sof + 5:], "bad_depth.png": huge_depth(k, 3),
        "palette_missing.png": png(np.full((5, 7, 1), 2), 8, 3),
        "palette_short.png": png(np.full((5, 7, 1), 9), 8, 3, palette=bytes(range(12))),
    }


def huge_depth(k, depth):
    head = k[16:24] + bytes([depth]) + k[25:29]
    return k[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + k[33:]


MUST_REFUSE = {
    "empty.jpg", "text.jpg", "magic_only.jpg", "magic_only.png", "truncated.jpg", "truncated_header.jpg",
    "truncated_progressive.jpg", "truncated.png", "no_data.png", "zero_width.png", "claims_60000x60000.png",
    "claims_65500x65500.jpg", "claims_more_rows.png", "twelve_bit.jpg", "bad_depth.png", "wrong_header_crc.png",
    "wrong_data.png"}


# Decoders differ here; what counts is that nothing crashes, hangs or allocates without bound. If pixels come out, they
# are those stored (where Pillow gave any).
EITHER = {"no_end_marker.jpg", "damaged_scan.jpg", "claims_more_rows.jpg", "no_iend.png", "text_bomb.png",
          "data_bomb.png", "palette_missing.png", "palette_short.png"}


def load(data):
    with Image.open(io.BytesIO(data)) as image:
        mode = image.mode
        return mode, np.array(image.convert("RGB")), np.array(ImageOps.exif_transpose(image).convert("RGB"))


def write_files(out, seed, write):
    os.makedirs(os.path.join(out, "images"), exist_ok=True)
    tensors, notes = {}, {}
    for name, data in {**good_files(seed), **bad_files(seed)}.items():
        with open(os.path.join(out, "images", name), "wb") as f:
            f.write(data)
        note = notes[name] = dict(bytes=len(data))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                mode, pixels, upright = load(data)
        except Exception as e:                                # noqa: any refusal is a refusal
            note.update(pillow="error", message=f"{type(e).__name__}: {e}"[:120].split(" <")[0])
        else:
            note.update(pillow="pixels", mode=mode, height=pixels.shape[0], width=pixels.shape[1])
            if not name.startswith("palette_") or name not in EITHER:         # those depend on Pillow's version
                tensors[name] = torch.from_numpy(pixels)
            if upright.shape != pixels.shape or (upright != pixels).any():
                tensors[f"{name}.upright"] = torch.from_numpy(np.ascontiguousarray(upright))
        note["expect"] = ("refuse" if name in MUST_REFUSE else "either" if name in EITHER else "pixels")
    notes["grey16.png"]["note"] = ("Pillow 9.4 clips 16-bit grey to 255 instead of scaling; a library may prefer "
                                   "the high byte, stored as grey16.png.high")
    r16 = np.random.RandomState(seed).randint(0, 65536, (9, 14, 4))
    tensors["grey16.png.high"] = torch.from_numpy((r16[..., :1] >> 8).repeat(3, -1).astype(np.uint8))
    with open(os.path.join(out, "images.json"), "w") as f:
        json.dump(notes, f, indent=1, sort_keys=True)
        f.write("\n")
    write("images", lambda: (tensors, dict(pillow=Image.__version__)), {})


# ---------------------------------------------------------------- transforms

def deit_ops(seed):
    """`input` (h, w, 3) and `dim` (a picture of little contrast); `OP@ARG` is the operation on `input` with that
    argument, `OP@ARG.dim` on `dim`. Arguments are those of the functions of timm 0.4.9 (degrees, fractions of the
    side, factors, bits, thresholds), not magnitudes. Geometric operations: bicubic, fill (124, 116, 104)."""
    import timm.data.auto_augment as aa
    import torchvision.transforms.functional as tf
    from torchvision.transforms import InterpolationMode as I
    d = (seed - 1) % 5
    a = picture(17 + d, 26 + 2 * d, seed)
    b = (60 + a // 5).astype(np.uint8)
    bicubic = dict(fillcolor=(124, 116, 104), resample=Image.BICUBIC)
    out = {"input": a, "dim": b}

    def add(name, f, both=False):
        out[name] = np.array(f(Image.fromarray(a)))
        if both:
            out[name + ".dim"] = np.array(f(Image.fromarray(b)))

    add("AutoContrast@", aa.auto_contrast, True)
    add("Equalize@", aa.equalize, True)
    add("Invert@", aa.invert)
    for v in (27.0, -27.0, 13.37):
        add(f"Rotate@{v}", lambda i: aa.rotate(i, v, **dict(bicubic)))
    for n in (0, 1):
        # Newer versions of Pillow refuse to keep no bit.
        add(f"Posterize@{n}", lambda i: aa.posterize(i, n) if n > 0 else np.zeros_like(i))
    for n in (0, 26):
        add(f"Solarize@{n}", lambda i: aa.solarize(i, n))
    for n in (55, 99, 110):
        add(f"SolarizeAdd@{n}", lambda i: aa.solarize_add(i, n))
    for op, f in (("Color", aa.color), ("Contrast", aa.contrast), ("Brightness", aa.brightness),
                  ("Sharpness", aa.sharpness)):
        for v in (0.19, 1.81):
            add(f"{op}@{v}", lambda i: f(i, v), v == 1.81 and op != "Brightness")
    for v in (0.27, -0.27):
        add(f"ShearX@{v}", lambda i: aa.shear_x(i, v, **dict(bicubic)))
        add(f"ShearY@{v}", lambda i: aa.shear_y(i, v, **dict(bicubic)))
    for v in (0.405, -0.405):
        add(f"TranslateX@{v}", lambda i: aa.translate_x_rel(i, v, **dict(bicubic)))
        add(f"TranslateY@{v}", lambda i: aa.translate_y_rel(i, v, **dict(bicubic)))
    bilinear = dict(fillcolor=(124, 116, 104), resample=Image.BILINEAR)
    add("RotateBilinear@27.0", lambda i: aa.rotate(i, 27.0, **dict(bilinear)))
    add("ShearXBilinear@0.27", lambda i: aa.shear_x(i, 0.27, **dict(bilinear)))
    # 3-Augment
    add("Grayscale3@", lambda i: tf.rgb_to_grayscale(i, 3))
    add("Solarize3@", ImageOps.solarize)
    add("Blur3@1.1", lambda i: i.filter(ImageFilter.GaussianBlur(radius=1.1)))
    add("SimpleCrop@", lambda i: tf.crop(tf.pad(tf.resize(i, 12, I.BICUBIC), 4, padding_mode="reflect"), 3, 5, 12, 12))
    # evaluation
    for side, crop in ((20, 17), (13, 10), (17 + d, 13)):
        for name, mode in (("bilinear", I.BILINEAR), ("bicubic", I.BICUBIC)):
            add(f"Eval@{side},{crop},{name}", lambda i: tf.center_crop(tf.resize(i, side, mode), crop))
    tall = np.ascontiguousarray(a.transpose(1, 0, 2))
    out["EvalTall@13,10,bicubic"] = np.array(tf.center_crop(tf.resize(Image.fromarray(tall), 13, I.BICUBIC), 10))
    out["CropLarger@33"] = np.array(tf.center_crop(Image.fromarray(a), 33))       # padded with zeros
    more = dict(timm="0.4.9", fill="124,116,104",
                CropLarger="centre crop of a picture that is smaller: zeros around it",
                SimpleCrop="resize 12 bicubic, reflect 4, crop 12 at row 3, column 5")
    for name, mode in (("bilinear", I.BILINEAR), ("bicubic", I.BICUBIC)):
        big = np.array(tf.center_crop(tf.resize(Image.fromarray(a), 256, mode), 224))
        out[f"Eval@256,224,{name}.rows"] = big[[0, 100, 223]]
        more[f"sha256_Eval@256,224,{name}"] = hashlib.sha256(big.tobytes()).hexdigest()
    levels = {}
    for m in (0.0, 4.5, 9.0, 9.37, 10.0):
        levels[m] = [abs(aa._rotate_level_to_arg(m, None)[0]), aa._posterize_increasing_level_to_arg(m, None)[0],
                     aa._solarize_increasing_level_to_arg(m, None)[0], aa._solarize_add_level_to_arg(m, None)[0],
                     0.9 * m / 10, abs(aa._shear_level_to_arg(m, None)[0]),
                     abs(aa._translate_rel_level_to_arg(m, {})[0])]
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in out.items()}
    tensors["levels"] = torch.tensor([[m, *v] for m, v in levels.items()], dtype=torch.float64)
    more["levels"] = "M, then the arguments of Rotate, Posterize, Solarize, SolarizeAdd, |factor - 1|, Shear, Translate"
    tensors.update(erasing(seed))
    return tensors, more


def erasing(seed):
    """Boxes of random erasing: rows of (H, W, area fraction, aspect) -> (h, w, accepted)."""
    rng = np.random.RandomState(seed)
    rows, boxes = [], []
    for _ in range(25):
        hh, ww = int(rng.randint(4, 60)), int(rng.randint(4, 60))
        area, aspect = rng.uniform(0.02, 1 / 3), math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * hh * ww * aspect)), round(math.sqrt(area * hh * ww / aspect))
        rows.append([hh, ww, area, aspect])
        boxes.append([h, w, int(h < hh and w < ww)])
    return {"erasing.draws": torch.tensor(rows, dtype=torch.float64), "erasing.boxes": torch.tensor(boxes)}


def write_all(out, seed, write, wanted):
    if wanted("images"):
        write_files(out, seed, write)
    write("deit_ops", lambda: deit_ops(seed), {})
