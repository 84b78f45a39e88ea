#!/usr/bin/env python3
"""The two views of MoCo v3 by torchvision's DataLoader and Pillow: images/s, one JSON line.

FOLDER holds a folder of pictures for each class. The augmentation is that of the authors' code.
"""
import argparse
import json
import random
import time

import PIL
import torch
import torchvision
from PIL import ImageFilter, ImageOps
from torchvision import datasets, transforms


class GaussianBlur:
    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


class Solarize:
    def __call__(self, image):
        return ImageOps.solarize(image)


class TwoViews:
    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, image):
        return self.first(image), self.second(image)


def view(blur, solarize):
    return transforms.Compose([
        transforms.RandomResizedCrop(224, scale=(0.08, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([GaussianBlur()], p=blur),
        transforms.RandomApply([Solarize()], p=solarize),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ])


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder")
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--seconds", type=float, default=10)
    a = arguments.parse_args()
    pictures = datasets.ImageFolder(a.folder, TwoViews(view(1.0, 0.0), view(0.1, 0.2)))
    if len(pictures) < a.batch:
        raise SystemExit(f"{a.folder}: holds fewer pictures than a batch of {a.batch}")
    # One epoch outlasts the measurement: workers stand still between epochs.
    endless = torch.utils.data.ConcatDataset([pictures] * 1000)
    loader = iter(torch.utils.data.DataLoader(endless, batch_size=a.batch, shuffle=True, num_workers=a.workers,
                                              drop_last=True, persistent_workers=True))
    for _ in range(3 * a.workers):  # what was made while nobody waited
        next(loader)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < a.seconds or count % a.workers != 0:
        next(loader)
        count += 1
    rate = count * a.batch / (time.perf_counter() - start)
    print(json.dumps({"images_per_second": rate, "torch": torch.__version__, "torchvision": torchvision.__version__,
                      "pillow": PIL.__version__}), flush=True)


if __name__ == "__main__":
    main()
