#!/usr/bin/env bash
# mpi.sh LAUNCHER PROGRAM RANKS CASE: starts mpi_collectives on RANKS processes and checks what they say, how the job
# ends, and that it does so in time.
set -uo pipefail
launcher=$1 program=$2 ranks=$3 case=$4
flags=()
if "$launcher" --version 2>&1 | grep -q 'OpenRTE\|Open MPI'; then
  flags=(--oversubscribe --allow-run-as-root --mca mpi_yield_when_idle 1)
fi
failed() {
  echo "FAILED: $1" >&2
  printf '%s\n' "$output" >&2
  exit 1
}

start=$(date +%s%N)
output=$(timeout -k 1 60 "$launcher" "${flags[@]}" -n "$ranks" "$program" "$case" 2>&1 </dev/null)
status=$?
milliseconds=$((($(date +%s%N) - start) / 1000000))

said() { grep -c "^rank [0-9]*: $1\$" <<<"$output"; }
within() { [ "$milliseconds" -le "$1" ] || failed "the job ended after $milliseconds ms, not within $1 ms"; }
right() { [ "$(said right)" -eq "$1" ] || failed "$1 of $ranks ranks were to find everything right"; }
case $case in
  definition | large | many)
    right "$ranks"
    [ "$status" -eq 0 ] || failed "the launcher returned $status, not 0"
    ;;
  silence | stop)
    right $((ranks - 1))
    [ "$status" -ne 0 ] || failed "the launcher returned 0"
    within 8000
    ;;
  death)
    [ "$status" -ne 0 ] || failed "the launcher returned 0"
    grep -qi 'signal:\? 9\|exit code: 9' <<<"$output" || failed "the launcher did not tell of a rank that was killed"
    ! grep -qi 'signal:\? 11\|exit code: 11' <<<"$output" || failed "a rank crashed"
    within 5000
    ;;
  exception)
    right $((ranks - 1))
    [ "$(said 'rank 1 has no data')" -eq 1 ] || failed "rank 1 did not say what happened to it"
    [ "$status" -ne 0 ] || failed "the launcher returned 0"
    ;;
  *)
    right "$ranks"
    [ "$status" -eq 75 ] || failed "the launcher returned $status, not 75"
    within 8000
    ;;
esac
