#!/usr/bin/env bash
# The table of docs/performance.md: training steps here and in PyTorch, in one run on one machine.
# PYTHON names the interpreter whose PyTorch is the peer (default: Debian's python3-torch).
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/dependencies.sh
need_packages "the benchmarks" g++ cmake ninja-build libeigen3-dev libxtensor-dev libfmt-dev nlohmann-json3-dev \
  libcli11-dev zlib1g-dev libpng-dev libdnnl-dev libbenchmark-dev python3-torch
python=${PYTHON:-/usr/bin/python3}

cmake --preset release >/dev/null
cmake --build --preset release --target step_bench >/dev/null
results=$(mktemp)
trap 'rm -f "$results"' EXIT
build/release/bench/step_bench --benchmark_out="$results" --benchmark_out_format=json >/dev/null
peer=$(for model in vit_tiny vit_small_16; do "$python" bench/peer/torch_step.py "$model"; done)
PEER="$peer" /usr/bin/python3 - "$results" <<'CODE'
import json, os, sys
ours = {b["name"].split("/")[0]: b for b in json.load(open(sys.argv[1]))["benchmarks"]}
peak = ours["matrix_product"]["GFLOP/s"]
print(f"matrix product 6304 x 1536 x 384: {peak:.0f} GFLOP/s\n")
print("| model | images/s | GFLOP/s | share of the product | peak memory | PyTorch images/s | ratio | its peak memory |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")
for line in os.environ["PEER"].splitlines():
    peer = json.loads(line)
    one = ours["step_" + peer["name"]]
    print(f"| {peer['name']} | {one['items_per_second']:.1f} | {one['GFLOP/s']:.0f} | {one['GFLOP/s'] / peak:.0%} "
          f"| {one['peak_MB']:.0f} MB | {peer['images_per_second']:.1f} ({peer['torch']}) "
          f"| {one['items_per_second'] / peer['images_per_second']:.2f} | {peer['peak_MB']:.0f} MB |")
CODE
