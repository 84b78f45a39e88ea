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
    peers[one["name"]].append(one)


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def find(prefix):
    return next(runs for name, runs in ours.items() if name.startswith(prefix))


products = {name: max(run["GFLOP/s"] for run in runs) for name, runs in ours.items() if name.startswith("product")}
shape, peak = max(products.items(), key=lambda item: item[1])
print(f"Largest matrix product: {peak:.0f} GFLOP/s ({shape}).\n")
print("| model | images/s | share of the largest product | peak memory | PyTorch | its images/s | ratio | its peak memory |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")
for name, peer in peers.items():
    step = find("step_" + name)
    rate, torch_rate = median(step, "items_per_second"), median(peer, "images_per_second")
    print(f"| {name} | {rate:.1f} | {median(step, 'GFLOP/s') / peak:.0%} | {median(step, 'peak_MB'):.0f} MB "
          f"| {peer[0]['torch']} | {torch_rate:.1f} | {rate / torch_rate:.2f} | {median(peer, 'peak_MB'):.0f} MB |")

print("\n| loader | images/s | images/s that the step takes | ratio |")
print("| --- | --- | --- | --- |")
for loader, model in (("loader_grey28", "vit_tiny"), ("loader_rgb224", "vit_small_16")):
    makes = median(find(loader + "/threads:2"), "items_per_second")
    takes = median(find("step_" + model), "items_per_second")
    print(f"| {loader} | {makes:.0f} | {takes:.1f} | {makes / takes:.1f} |")

by_hand, composed = find("step_by_hand"), find("step_composed")
print(f"\nComposed step over the same operations called by hand: "
      f"{median(composed, 'real_time') / median(by_hand, 'real_time'):.3f} of the time.")
