#!/usr/bin/env bash
# Fuzzes every reader of foreign bytes for SECONDS each: ./tests/fuzz/run.sh [SECONDS [NAME...]]. Prints executions,
# coverage and findings; fails if there is a finding, which is then in build/fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-600}
build=build/fuzz
mkdir -p $build
cmake -S . -B $build -G Ninja -DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g1" \
  -DTESSERA_FUZZ=ON -DTESSERA_BUILD_EXAMPLES=OFF -DTESSERA_BUILD_BENCH=OFF >$build/configure.log 2>&1 ||
  { cat $build/configure.log; exit 1; }
names=("${@:2}")
if [ ${#names[@]} -eq 0 ]; then
  for list in $build/tests/fuzz/*.inputs; do names+=("$(basename "$list" .inputs)"); done
fi
cmake --build $build --target "${names[@]/#/fuzz_}" -- --quiet

status=0
for name in "${names[@]}"; do
  IFS=';' read -ra inputs <"$build/tests/fuzz/$name.inputs" || true
  found=$build/findings/$name log=$build/$name.log
  mkdir -p "$build/corpus/$name" "$found"
  TMPDIR=/dev/shm "$build/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -max_len=4096 -timeout=25 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$found/" "$build/corpus/$name" "${inputs[@]}" >"$log" 2>&1 || true
  findings=$(find "$found" -type f ! -name 'slow-unit-*' | wc -l)
  printf '%-14s %12s executions, coverage %5s, %s finding(s)\n' "$name" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
    "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)" "$findings"
  grep -q '^stat::' "$log" && [ "$findings" -eq 0 ] || status=1
done
exit $status
