#!/usr/bin/env python3
"""Writes JPEG files to measure a loader on: pictures.py FOLDER [--count 256] [--width 500] [--height 375].

The pictures are generated: noise whose spectrum falls as that of photographs (1/f), common to the channels but for a
tenth, under lines and ellipses with sharp edges. Quality 90, 4:2:0. At 500 x 375 a file has about 92 KB.
"""
import argparse
import pathlib

import numpy
from PIL import Image, ImageDraw


def noise(random, height, width):
    """1/f noise with mean 0 and deviation 1."""
    down, right = numpy.fft.fftfreq(height)[:, None], numpy.fft.rfftfreq(width)[None, :]
    frequency = numpy.hypot(down, right)
    frequency[0, 0] = numpy.inf
    spectrum = numpy.fft.rfft2(random.standard_normal((height, width))) / frequency
    values = numpy.fft.irfft2(spectrum, (height, width))
    return values / values.std()


def picture(number, height, width):
    random = numpy.random.default_rng(number)
    common = noise(random, height, width)
    tint = random.uniform(90, 165, 3)
    channels = [0.9 * common + 0.45 * noise(random, height, width) for _ in range(3)]
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.uniform(-0.2, 1, 2) * (width, height)
        w, h = random.uniform(0.05, 0.5, 2) * (width, height)
        color = tuple(int(c) for c in random.integers(0, 120, 3))
        if random.uniform() < 0.5:
            draw.ellipse((x, y, x + w, y + h), fill=color)
        else:
            draw.line((x, y, x + w, y + h), fill=color, width=int(random.integers(1, 12)))
    values = numpy.stack(channels, 2) * 28 + tint + numpy.asarray(image) - 40.0
    return Image.fromarray(values.clip(0, 255).astype(numpy.uint8))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--count", type=int, default=256)
    arguments.add_argument("--width", type=int, default=500)
    arguments.add_argument("--height", type=int, default=375)
    a = arguments.parse_args()
    folder = a.folder / "pictures"  # the one class
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(a.count):
        picture(number, a.height, a.width).save(folder / f"{number:05}.jpg", quality=90, subsampling="4:2:0")


if __name__ == "__main__":
    main()
