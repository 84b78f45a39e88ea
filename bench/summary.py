#!/usr/bin/env python3
"""The tables of docs/performance.md from the results folder that bench/run.sh fills."""
import collections
import json
import pathlib
import statistics
import sys

folder = pathlib.Path(sys.argv[1])
ours = collections.defaultdict(list)
for file in sorted(folder.glob("*.json")):
    for one in json.loads(file.read_text())["benchmarks"]:
        ours[one["name"].removesuffix("/real_time")].append(one)
peers = collections.defaultdict(list)
for line in (folder / "peer.jsonl").read_text().splitlines():
    one = json.loads(line)
    peers[one["name"], one["precision"], one["compiled"]].append(one)

def median(runs, key):
    return statistics.median(run[key] for run in runs)


def find(prefix):
    return next(runs for name, runs in ours.items() if name.startswith(prefix))


def processor():
    """The name, family and model of the processor, since names such as `AMD EPYC` do not tell generations apart."""
    lines = (line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)
    info = {key.strip(): value.strip() for key, value in lines}
    return f"{info['model name']}, family {info['cpu family']}, model {info['model']}"


busy = [int(line) for line in (folder / "busy").read_text().split()]
print(f"Processor: {processor()}.")
if max(busy) > 5:
    print(f"The machine was busy: other programs took {' %, '.join(map(str, busy))} % before the rounds.")

products = collections.defaultdict(float)
for name, runs in ours.items():
    if name.startswith("product"):
        products[name.split("_")[1]] = max(products[name.split("_")[1]], *(run["GFLOP/s"] for run in runs))
peak = max(products.values())
print("\n| policy | largest matrix product, two threads, GFLOP/s |\n| --- | --- |")
for policy, rate in sorted(products.items(), key=lambda item: -item[1]):
    print(f"| {policy} | {rate:.0f} |")

print("\n| model | images/s | share of the largest product | peak memory |\n| --- | --- | --- | --- |")
models = list(dict.fromkeys(name for name, _, _ in peers))
for name in models:
    step = find("step_" + name)
    print(f"| {name} | {median(step, 'items_per_second'):.2f} | {median(step, 'GFLOP/s') / peak:.0%} "
          f"| {median(step, 'peak_MB'):.0f} MB |")

print("\n| model | PyTorch | products by | its images/s | ratio | its peak memory |\n| --- | --- | --- | --- | --- | --- |")
for (name, precision, compiled), peer in peers.items():
    rate, torch_rate = median(find("step_" + name), "items_per_second"), median(peer, "images_per_second")
    mode = f"{peer[0]['torch']}, {precision}{', compiled' if compiled else ''}"
    print(f"| {name} | {mode} | {peer[0]['products']} | {torch_rate:.2f} | {rate / torch_rate:.2f} "
          f"| {median(peer, 'peak_MB'):.0f} MB |")

print("\n| loader | images/s | images/s that the step takes | ratio |")
print("| --- | --- | --- | --- |")
for loader, model in (("loader_grey28", "vit_tiny"), ("loader_rgb224", "vit_small_16")):
    makes = median(find(loader + "/threads:2"), "items_per_second")
    takes = median(find("step_" + model), "items_per_second")
    print(f"| {loader} | {makes:.0f} | {takes:.1f} | {makes / takes:.1f} |")

by_hand, composed = find("step_by_hand"), find("step_composed")
print(f"\nComposed step over the same operations called by hand: "
      f"{median(composed, 'real_time') / median(by_hand, 'real_time'):.3f} of the time.")
