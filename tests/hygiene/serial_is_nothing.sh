#!/usr/bin/env bash
# serial_is_nothing.sh COMPILER INCLUDE SYSTEM_INCLUDE: with one rank, BatchNorm and what else talks to other ranks is the
# machine code that it is without a communicator.
set -euo pipefail
compiler=$1 include=$2 system=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/serial.cpp" <<'CODE'
#include <tessera/comm/serial.hpp>
namespace ts = tessera;
static_assert(__is_empty(ts::comm::Serial));
double sum(double* values, ts::index count) {
#ifdef SERIAL
  ts::comm::Serial communicator;
  ts::comm::Host host;
  communicator.all_reduce(host, values, count);
  communicator.all_gather(host, values, {});
  communicator.reduce_scatter(host, values, {});
  communicator.broadcast(host, values, count);
  communicator.wait(host);
#endif
  double sum = 0;
  for (ts::index i = 0; i < count; ++i) sum += values[i];
  return sum;
}
CODE
code() {
  "$compiler" -std=c++20 -O2 -I"$include" -isystem "$system" -S -o - "$folder/serial.cpp" "$@" | grep -v '\.file\|\.ident'
}
cmp <(code -DSERIAL) <(code) || { echo "FAILED: comm::Serial leaves code behind"; exit 1; }
[ "$(code | wc -l)" -gt 10 ] || { echo "FAILED: nothing was compiled"; exit 1; }
