#!/usr/bin/env bash
# mixed_flags.sh COMPILER INCLUDE SYSTEM_INCLUDE: translation units for different instruction sets do not link when they
# exchange our types, and the missing symbol says why; with the same flags they link and run under AddressSanitizer.
set -euo pipefail
compiler=$1 include=$2 system=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/a.cpp" <<'CODE'
#include <tessera/core/thread_pool.hpp>
#include <tessera/core/random.hpp>
float draw(tessera::Random& random, tessera::ThreadPool& pool);
int main() {
  tessera::Random random(1, tessera::Purpose::test, 0, 0);
  tessera::ThreadPool pool(2);
  return draw(random, pool) < 1 ? 0 : 1;
}
CODE
cat >"$folder/b.cpp" <<'CODE'
#include <tessera/core/thread_pool.hpp>
#include <tessera/core/random.hpp>
float draw(tessera::Random& random, tessera::ThreadPool& pool) {
  float value = 0;
  pool.for_pieces(1, 1, [&](auto, auto, int) { value = random.uniform(); });
  return value;
}
CODE
compile() { "$compiler" -std=c++20 -O1 -g1 -fsanitize=address -I"$include" -isystem "$system" -c "$@"; }
compile -mavx2 -mfma "$folder/a.cpp" -o "$folder/a.o"
compile "$folder/b.cpp" -o "$folder/b.o"
compile -mavx2 -mfma "$folder/b.cpp" -o "$folder/b_same.o"
link() { "$compiler" -fsanitize=address "$@" -o "$folder/program" -lfmt -lpthread; }
if message=$(link "$folder/a.o" "$folder/b.o" 2>&1); then
  echo "units for different instruction sets link"
  exit 1
fi
grep -q 'tessera::v0_1_avx2::' <<<"$message" || { echo "unreadable link error: $message"; exit 1; }
link "$folder/a.o" "$folder/b_same.o"
if grep -qw avx2 /proc/cpuinfo; then "$folder/program"; fi
