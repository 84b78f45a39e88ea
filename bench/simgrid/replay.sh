#!/usr/bin/env bash
# Replays the collectives of a training step on a simulated cluster and compares the simulator's time with the model's.
#
#   bench/simgrid/replay.sh [--program PATH] [--models base,large,huge] [--gpus 64,256] [--tolerance 10] [--cfg N:V]...
#
# Prints a Markdown table; exits with 1 if any difference is larger than the tolerance, in percent. PATH is the built
# scale_model (default: build/release/bench/scale_model); --cfg goes to SimGrid. Needs SMPI: libsimgrid-dev on Debian.
set -euo pipefail
program=$(dirname "$0")/../../build/release/bench/scale_model models=base gpus=64,256 tolerance=10
settings=(smpi/lat-factor:0:1 smpi/bw-factor:0:1 network/crosstraffic:0 smpi/allreduce:lr smpi/allgather:ring)
while (($# > 0)); do
  case $1 in
    --program) program=$2 ;;
    --models) models=$2 ;;
    --gpus) gpus=$2 ;;
    --tolerance) tolerance=$2 ;;
    --cfg) settings+=("$2") ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
command -v smpirun >/dev/null || { echo "replay.sh: smpirun was not found; install libsimgrid-dev" >&2; exit 2; }
[[ -x $program ]] || { echo "replay.sh: $program is not there; build the target scale_model" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# simulated FOLDER TRACE: seconds. SMPI's own factors model Gigabit Ethernet, and traffic of acknowledgements that takes
# from the other direction: both are switched off. Rings alone, as the model has them.
simulated() {
  smpirun -hostfile "$1/hosts" -platform "$1/platform.xml" -replay "$1/$2.txt" "${settings[@]/#/--cfg=}" \
    >"$1/$2.log" 2>&1 || { cat "$1/$2.log" >&2; return 1; }
  sed -n 's/.*Simulation time \([0-9.]*\).*/\1/p' "$1/$2.log" | grep . ||
    { echo "replay.sh: smpirun told no simulation time" >&2; return 1; }
}

echo "| model | ranks | what | calls | model ms | SimGrid ms | difference |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
worst=0
for model in ${models//,/ }; do
  for ranks in ${gpus//,/ }; do
    folder=$work/$model.$ranks
    "$program" --model "$model" --gpus "$ranks" --replay "$folder" >"$work/predicted"
    while read -r trace calls predicted; do
      seconds=$(simulated "$folder" "$trace")
      awk -v m="$model" -v n="$ranks" -v what="$trace" -v calls="$calls" -v p="$predicted" -v s="$seconds" \
        -v most="$tolerance" 'BEGIN { d = 100 * (s - p) / p
                 printf "| %s | %d | %s | %d | %.3f | %.3f | %+.1f %% |\n", m, n, what, calls, 1e3 * p, 1e3 * s, d
                 exit (d > most || -d > most) }' || worst=1
    done <"$work/predicted"
  done
done
((worst == 0)) || echo "replay.sh: a difference is larger than $tolerance %" >&2
exit "$worst"
