#!/usr/bin/env bash
# compile_time.sh COMPILER INCLUDE SYSTEM_INCLUDE: a file that includes tessera.hpp alone compiles within 6 seconds of
# processor time.
set -euo pipefail
TIMEFORMAT='%U'
seconds=$({ time echo '#include <tessera/tessera.hpp>' |
  "$1" -std=c++20 -O2 -c -I"$2" -isystem "$3" -x c++ - -o /dev/null; } 2>&1)
echo "tessera.hpp alone: $seconds s"
awk -v seconds="$seconds" 'BEGIN { exit !(seconds < 6) }'
