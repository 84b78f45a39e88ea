#!/usr/bin/env bash
# Measures how much of the gradients' communication a training step hides: two ranks with one thread each, on two hosts
# that are network namespaces, joined by a link of limited rate. Prints the table of docs/distributed.md.
#
#   bench/overlap.sh [--program PATH] [--rate RATE] [FLAGS OF THE PROGRAM...]
#
# PATH is the built bench/overlap (default: build/release/bench/overlap), RATE that of the link in both directions, as tc
# writes it (default 300mbit). Needs Open MPI, iproute2, and to be root: ip netns, tc.
set -euo pipefail
program=$(dirname "$0")/../build/release/bench/overlap rate=300mbit
while (($# > 0)); do
  case $1 in
    --program) program=$2 ;;
    --rate) rate=$2 ;;
    *) break ;;
  esac
  shift 2
done
[[ -x $program ]] || { echo "overlap.sh: $program is not there; build the target overlap" >&2; exit 2; }
program=$(realpath "$program")
for tool in ip tc mpirun; do
  command -v $tool >/dev/null || { echo "overlap.sh: $tool was not found; install iproute2 and openmpi-bin" >&2; exit 2; }
done

work=$(mktemp -d)
hosts=()
clean_up() {
  for host in "${hosts[@]}"; do ip netns del "$host"; done
  rm -rf "$work"
}
trap clean_up EXIT
for end in a b; do
  ip netns add "tessera-$$-$end" || { echo "overlap.sh: network namespaces are not permitted here" >&2; exit 2; }
  hosts+=("tessera-$$-$end")
done
ip link add cable netns "${hosts[0]}" type veth peer name cable netns "${hosts[1]}"
for end in 0 1; do
  ip -n "${hosts[$end]}" address add "10.99.0.$((end + 1))/24" dev cable
  ip -n "${hosts[$end]}" link set lo up
  ip -n "${hosts[$end]}" link set cable up
  tc -n "${hosts[$end]}" qdisc add dev cable root tbf rate "$rate" burst 128kb latency 1s
  echo "10.99.0.$((end + 1)) slots=1" >>"$work/hosts"
done
printf '#!/bin/sh\nshift\nexec ip netns exec %s sh -c "$*"\n' "${hosts[1]}" >"$work/remote"
chmod +x "$work/remote"

echo "$rate in each direction"
ip netns exec "${hosts[0]}" mpirun --allow-run-as-root --hostfile "$work/hosts" --map-by node -np 2 \
  --mca plm_rsh_agent "$work/remote" --mca btl tcp,self --mca btl_tcp_if_include 10.99.0.0/24 \
  --mca oob_tcp_if_include 10.99.0.0/24 --mca mpi_yield_when_idle 1 --bind-to none \
  "$program" "$@" 2> >(grep -v 'plm:rsh: Warning: setpgid' >&2)
