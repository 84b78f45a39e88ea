#!/usr/bin/env bash
# headers_alone.sh COMPILER INCLUDE SYSTEM_INCLUDE...: each header of the host side compiles alone, included
# twice, without a warning.
set -euo pipefail
compiler=$1 include=$2
shift 2
system=() mpi=(-not -path 'tessera/comm/mpi*')
for folder in "$@"; do
  system+=(-isystem "$folder")
  if [ -e "$folder/mpi.h" ]; then mpi=(); fi
done
check() {
  printf '#include "%s"\n#include "%s"\n' "$1" "$1" |
    "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-maybe-uninitialized \
      -Wno-unknown-warning-option -Werror -I"$include" "${@:2}" -x c++ - || { echo "FAILED: $1"; exit 1; }
}
export -f check
export compiler include
cd "$include"
find tessera -name '*.hpp' -not -path 'tessera/cuda/*' -not -name nccl.hpp -not -name staged.hpp "${mpi[@]}" -print0 |
  xargs -0 -P "$(nproc)" -I{} bash -c 'check "$@"' check {} "${system[@]}"
