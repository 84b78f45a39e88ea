#!/usr/bin/env bash
# The tables of docs/performance.md: training steps here and in PyTorch, the loader, and what composition costs, in one
# run on one machine. PYTHON names the interpreter whose PyTorch is the peer (default: Debian's python3-torch).
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/dependencies.sh
need_packages "the benchmarks" g++ cmake ninja-build libeigen3-dev libxtensor-dev libfmt-dev nlohmann-json3-dev \
  libxxhash-dev libcli11-dev zlib1g-dev libpng-dev libjpeg62-turbo-dev libdnnl-dev libbenchmark-dev python3-torch
python=${PYTHON:-/usr/bin/python3}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

cmake --preset release -DTESSERA_BUILD_BENCH=ON >/dev/null
cmake --build --preset release --target step_bench loader_bench composition_bench >/dev/null

# bench PROGRAM RUN FLAGS...: one run of a benchmark, in $results/PROGRAM.RUN.json.
bench() {
  "build/release/bench/$1" --benchmark_out="$results/$1.$2.json" --benchmark_out_format=json "${@:3}" >/dev/null 2>&1
}
# Ours and the peer's take turns, so that a machine that slows down slows both; summary.py takes medians.
for run in 1 2 3; do
  for model in vit_tiny vit_small_16; do
    bench step_bench "$model.$run" --benchmark_filter="product|step_$model" --benchmark_min_time=4
    "$python" bench/peer/torch_step.py "$model" >>"$results/peer.jsonl"
  done
  bench composition_bench "$run" --benchmark_min_time=4
  bench loader_bench "$run" --benchmark_filter='loader_(grey28|rgb224).*threads:2'
done
/usr/bin/python3 bench/summary.py "$results"
