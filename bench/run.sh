#!/usr/bin/env bash
# The tables of docs/performance.md: training steps here and in PyTorch, eager, compiled and, where the processor has
# instructions for it, in bf16; matrix products of every policy; the loader; and what composition costs. One run on one
# machine. PYTHON names the interpreter whose PyTorch is the peer (default: Debian's python3-torch).
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/dependencies.sh
need_packages "the benchmarks" g++ cmake ninja-build libeigen3-dev libxtensor-dev libfmt-dev nlohmann-json3-dev \
  libxxhash-dev libcli11-dev zlib1g-dev libpng-dev libjpeg62-turbo-dev libdnnl-dev libopenblas-dev \
  libbenchmark-dev python3-torch
python=${PYTHON:-/usr/bin/python3}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

cmake --preset release -DTESSERA_BUILD_BENCH=ON >/dev/null
cmake --build --preset release --target step_bench loader_bench composition_bench >/dev/null

# bench PROGRAM RUN FLAGS...: one run of a benchmark, in $results/PROGRAM.RUN.json.
bench() {
  "build/release/bench/$1" --benchmark_out="$results/$1.$2.json" --benchmark_out_format=json "${@:3}" >/dev/null 2>&1
}
# The share of the processors' time that other programs take, in per cent, over two seconds.
busy() {
  python3 - <<'END'
import time
def times():
    values = [int(value) for value in open("/proc/stat").readline().split()[1:9]]
    return sum(values), values[3] + values[4]
before = times()
time.sleep(2)
after = times()
print(round(100 * (1 - (after[1] - before[1]) / (after[0] - before[0]))))
END
}
# peer MODEL FLAGS...: one run of PyTorch. A mode that it does not have is left out, and said.
peer() {
  "$python" bench/peer/torch_step.py "$@" >>"$results/peer.jsonl" 2>"$results/peer.log" ||
    echo "left out: PyTorch with $*: $(tail -n 1 "$results/peer.log")"
}
modes=("" "--compile")
if grep -q -E 'avx512_bf16|amx_bf16' /proc/cpuinfo; then modes+=("--precision bf16" "--compile --precision bf16"); fi

# Ours and the peer's take turns, so that a machine that slows down slows both; summary.py takes medians.
for run in 1 2 3; do
  busy >>"$results/busy"
  for model in vit_tiny vit_small_16; do
    bench step_bench "$model.$run" --benchmark_filter="product|step_$model" --benchmark_min_time=4
    for mode in "${modes[@]}"; do
      # shellcheck disable=SC2086 # a mode is several words, or none
      peer "$model" $mode
    done
  done
  bench composition_bench "$run" --benchmark_min_time=4
  bench loader_bench "$run" --benchmark_filter='loader_(grey28|rgb224).*threads:2'
done
/usr/bin/python3 bench/summary.py "$results"
