#!/usr/bin/env bash
# headers_alone.sh COMPILER INCLUDE SYSTEM_INCLUDE: each header of the host side compiles alone, included
# twice, without a warning.
set -euo pipefail
compiler=$1 include=$2 system=$3
check() {
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" |
    "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-maybe-uninitialized \
      -Wno-unknown-warning-option -Werror -I"$include" -isystem "$system" -x c++ - || { echo "FAILED: $1"; exit 1; }
}
export -f check
export compiler include system
cd "$include"
find tessera -name '*.hpp' -not -path 'tessera/cuda/*' -print0 | xargs -0 -P "$(nproc)" -I{} bash -c 'check {}'
