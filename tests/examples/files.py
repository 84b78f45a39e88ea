"""Files for the tests of the programs: data sets, damaged checkpoints, metrics without the clock."""

import json
import os
import random
import struct
import zlib


def write_idx(path, extents, values):
    with open(path, "wb") as file:
        file.write(struct.pack(f">BBBB{len(extents)}I", 0, 0, 8, len(extents), *extents) + values)


def data(folder, train=120, test=40, side=28, test_side=None, classes=10):
    """Images of noise, `side` x `side` pixels, and labels."""
    os.makedirs(folder, exist_ok=True)
    noise = random.Random(1)
    for split, count, pixels in ("train", train, side), ("t10k", test, test_side or side):
        write_idx(f"{folder}/{split}-images-idx3-ubyte", (count, pixels, pixels), noise.randbytes(count * pixels**2))
        write_idx(f"{folder}/{split}-labels-idx1-ubyte", (count,), bytes(i % classes for i in range(count)))


def png(path, side, pixels, channels=1):
    """A PNG file of side x side pixels, grey or RGB."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0 if channels == 1 else 2, 0, 0, 0)
    width = side * channels
    lines = b"".join(b"\0" + pixels[row * width : (row + 1) * width] for row in range(side))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        file.write(chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def checkpoint(source, target, change, key, value=None):
    """Copies a checkpoint with a change: set or drop an entry of the metadata; rename, add, retype or reshape a
    tensor. The copy has no checksums."""
    with open(source, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, tensors = json.loads(file.read(length)), file.read()
    metadata = header["__metadata__"]
    header["__metadata__"] = {name: metadata[name] for name in metadata if not name.startswith("xxh3")}
    if change == "set":
        header["__metadata__"][key] = value
    elif change == "drop":
        del header["__metadata__"][key]
    elif change == "rename":
        header[value] = header.pop(key)
    elif change == "add":
        header[key] = {"dtype": "F32", "shape": [1], "data_offsets": [len(tensors), len(tensors) + 4]}
        tensors += bytes(4)
    elif change == "retype":
        header[key]["dtype"] = value
    elif change == "reshape":
        header[key]["shape"] = json.loads(value)
    text = json.dumps(header).encode()
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + tensors)


def metrics(path):
    """The rows of a file of metrics, without what depends on the clock; each must be a JSON object."""
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    return [{key: row[key] for key in row if key not in ("images_per_second", "data_wait")} for row in rows]
