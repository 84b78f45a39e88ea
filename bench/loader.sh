#!/usr/bin/env bash
# The loader and torchvision's DataLoader on JPEG files of 500 x 375 pixels, two views of MoCo v3 at 224 pixels, two
# threads or workers: images/s of both in turn, and where our time goes. Prints the table of docs/performance.md.
#
#   bench/loader.sh [FOLDER]
#
# FOLDER holds a folder of JPEG files for each class (default: 256 pictures that bench/peer/pictures.py generates).
# PROGRAM is the built loader_bench (default: build/release/bench/loader_bench), PYTHON an interpreter with torch,
# torchvision, pillow and numpy (default: python3), ROUNDS how often both are measured (default: 5).
set -euo pipefail
cd "$(dirname "$0")"
program=${PROGRAM:-../build/release/bench/loader_bench} python=${PYTHON:-python3}
[[ -x $program ]] || { echo "loader.sh: $program is not there; build the target loader_bench" >&2; exit 2; }
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
folder=${1:-$results/pictures}
(($# > 0)) || "$python" peer/pictures.py "$folder"

for ((round = 1; round <= ${ROUNDS:-5}; ++round)); do
  TESSERA_BENCH_PICTURES=$folder "$program" --benchmark_filter='loader_jpeg.*threads:2|jpeg_parts' \
    --benchmark_out="$results/$round.json" --benchmark_out_format=json >/dev/null 2>&1
  "$python" peer/torchvision_loader.py "$folder" --workers 2 >>"$results/peer.jsonl"
done
"$python" - "$results" <<'END'
import json, pathlib, statistics, sys
folder = pathlib.Path(sys.argv[1])
peer = [json.loads(line) for line in (folder / "peer.jsonl").read_text().splitlines()]
runs = [json.loads(file.read_text())["benchmarks"] for file in sorted(folder.glob("*.json"))]
find = lambda run, name: next(one for one in run if one["name"].startswith(name))
ours = [find(run, "loader_jpeg")["items_per_second"] for run in runs]
theirs = [one["images_per_second"] for one in peer]
rates = [statistics.median(rates) for rates in (ours, theirs)]
print(f"| loader | images/s: median | least | most |\n| --- | --- | --- | --- |")
print(f"| tessera | {rates[0]:.0f} | {min(ours):.0f} | {max(ours):.0f} |")
print(f"| torchvision {peer[0]['torchvision']}, Pillow {peer[0]['pillow']} | {rates[1]:.0f} | {min(theirs):.0f} | {max(theirs):.0f} |")
print(f"\nRatio of the medians: {rates[0] / rates[1]:.2f}; of the best rounds: {max(ours) / max(theirs):.2f}.\n")
parts = {part: statistics.median(find(run, "jpeg_parts")[part] for run in runs)
         for part in ("decode", "resize", "color", "blur", "rest")}
print("| part | microseconds for an image | share |\n| --- | --- | --- |")
for part, time in parts.items():
    print(f"| {part} | {time:.0f} | {time / sum(parts.values()):.0%} |")
END
