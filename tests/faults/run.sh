#!/usr/bin/env bash
# run.sh PROGRAM [SEED] [COUNT] [SLACK]: injects COUNT faults (default 50) into jobs of 2 or 3 ranks of pretrain_mpi, at
# random times, and checks how each job ends: in time, with the exit code and the message that docs/distributed.md
# promises, no process left, and a checkpoint from which the run continues to the bits of an undisturbed one. Prints a
# table. SLACK: milliseconds more for a job to end, on a machine that does other things as well (default 0).
#
# Kinds take turns: a rank is killed, or stopped; a signal to one rank, or to mpirun; a failure of one rank's own; and
# the link between two hosts, which are network namespaces, is cut. The last one is skipped where these are not allowed.
set -euo pipefail
[[ $# -ge 1 && -x $1 ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$(realpath "$1") seed=${2:-1} count=${3:-50} slack=${4:-0}
here=$(cd "$(dirname "$0")" && pwd)
RANDOM=$seed
folder=$(mktemp -d)
cd "$folder"
kinds=(kill stop signal launcher own cut) signals=(TERM USR1 INT) own_failures=(data checkpoint storage)
timeout=3  # --rank-timeout, in seconds
# Milliseconds from the fault to the end of the last process. mpirun takes up to two seconds to end a job: it sends
# SIGTERM and, a second later, SIGKILL.
declare -A limit=([kill]=4000 [stop]=$((1000 * timeout + 2000)) [signal]=4000 [launcher]=4000 [own]=4000
                  [cut]=$((1000 * timeout + 2000)))
declare -A jobs worst codes  # by kind
hosts=() # network namespaces

# alive PID...: those that run and are of this test, whose folder is on their command line.
alive() {
  local pid
  for pid in "$@"; do
    if grep -qsF "$folder" "/proc/$pid/cmdline"; then echo "$pid"; fi
  done
}
launcher_runs() { [[ -n $(jobs -rp) ]]; }
# What is left of a job: its ranks, and mpirun's daemons on the hosts.
ranks_alive() {
  local pids
  mapfile -t pids < <(cat pids/* 2>/dev/null)
  alive "${pids[@]}"
}
daemons_alive() { for host in "${hosts[@]}"; do ip netns pids "$host"; done; }
end_all() {
  local pids
  pids="$(ranks_alive) $(daemons_alive) $(jobs -rp)"
  for pid in $pids; do kill -KILL "$pid" 2>/dev/null || true; done
}
clean_up() {
  set +e
  trap '' PIPE
  end_all
  for host in "${hosts[@]}"; do ip netns del "$host"; done
  cd / && rm -rf "$folder"
}
trap clean_up EXIT

failed() {
  echo "FAILED: fault $fault of seed $seed ($what): $1"
  tail -n 40 output errors
  exit 1
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# Makes two hosts and the link between them, if that is allowed.
make_hosts() {
  local problem end
  command -v ip >/dev/null || { echo "cut is skipped: there is no ip (iproute2)"; return 1; }
  for end in a b; do
    problem=$(ip netns add "tessera-$$-$end" 2>&1) || { echo "cut is skipped: ip netns add: $problem"; return 1; }
    hosts+=("tessera-$$-$end")
  done
  problem=$(ip link add cable netns "${hosts[0]}" type veth peer name cable netns "${hosts[1]}" 2>&1) ||
    { echo "cut is skipped: ip link add type veth: $problem"; return 1; }
  for end in 0 1; do
    ip -n "${hosts[$end]}" address add "10.99.0.$((end + 1))/24" dev cable
    ip -n "${hosts[$end]}" link set lo up
    ip -n "${hosts[$end]}" link set cable up
    echo "10.99.0.$((end + 1)) slots=2" >>hosts
  done
  printf '#!/bin/sh\nshift\nexec ip netns exec %s sh -c "$*"\n' "${hosts[1]}" >remote
  chmod +x remote
}

# start RANKS VICTIM FAULT ARGUMENTS...: a job in the background.
start() {
  local job=(mpirun --allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1)
  if [[ $kind == cut ]]; then
    # Without keepalives, mpirun itself waits for ever for its daemon behind the cut.
    job=(ip netns exec "${hosts[0]}" "${job[@]}" --map-by node --hostfile hosts
      --mca plm_rsh_agent "$folder/remote" --mca btl tcp,self --mca btl_tcp_if_include 10.99.0.0/24
      --mca oob_tcp_if_include 10.99.0.0/24 --mca oob_tcp_keepalive_time 1 --mca oob_tcp_keepalive_intvl 1
      --mca oob_tcp_keepalive_probes 1)
  fi
  rm -rf pids output errors
  mkdir pids
  "${job[@]}" -np "$1" "$here/rank.sh" "$folder/pids" "$2" "$3" "$program" --data "$folder/data" --stop-grad-conv1 \
    --moco-dim 128 --moco-mlp-dim 512 --batch-size 12 --epochs 10 --warmup-epochs 0.5 --threads 1 --save-every 10 \
    --rank-timeout $timeout "${@:4}" >output 2>errors </dev/null &
  launcher=$!
}
finish() {
  status=0
  wait "$launcher" || status=$?
}

# Waits until all ranks train; from then on they take signals.
training() {
  local patience=$(($(milliseconds) + 30000))
  until grep -qs 'k-NN accuracy' output; do
    launcher_runs || { finish; failed "the job ended with $status before the fault"; }
    (($(milliseconds) < patience)) || failed "the ranks do not train after 30 s"
    sleep 0.01
  done
}

# The checkpoint of an undisturbed run of $1 ranks.
undisturbed() {
  start "$1" -1 none --out "$folder/whole$1"
  finish
  [[ $status == 0 ]] || failed "exit status $status without a fault"
}

# Waits for the end of what was hit $1 (milliseconds) and notes how long it took.
ended_in_time() {
  local took
  while launcher_runs || [[ -n $(ranks_alive) ]]; do
    (($(milliseconds) - $1 < ${limit[$kind]} + slack + 5000)) || failed "still running: $(jobs -rp) $(ranks_alive)"
    sleep 0.01
  done
  took=$(($(milliseconds) - $1))
  finish
  while [[ -n $(daemons_alive) ]]; do
    (($(milliseconds) - $1 < took + 5000)) || failed "daemons of mpirun are left: $(daemons_alive)"
    sleep 0.01
  done
  ((took <= ${limit[$kind]} + slack)) || failed "the job ended after $took ms, not within ${limit[$kind]} ms"
  ((took <= ${worst[$kind]:-0})) || worst[$kind]=$took
  jobs[$kind]=$((${jobs[$kind]:-0} + 1))
  [[ " ${codes[$kind]:-} " == *" $status "* ]] || codes[$kind]="${codes[$kind]:-} $status"
}

exits_with() { [[ " $* " == *" $status "* ]] || failed "exit status $status, expected one of: $*"; }
tells() { grep -qE "$1" errors output || failed "no message says '$1'"; }
call='(all_reduce|all_gather|reduce_scatter|broadcast) of [0-9]+ [a-z0-9]+ \(call [0-9]+\)'
names_lost_rank() {
  tells "pretrain_mpi: rank [0-9]+: (after )?step [0-9]+: ($call: )+rank ([0-9], )*$1(, [0-9])* did not come within $timeout.0 s"
}

# The run continues from the checkpoint that is there, and becomes what it would have been.
continues() {
  [[ -f run/checkpoint.safetensors ]] || return 0
  kind=none
  start "$ranks" -1 none --out "$folder/run" --resume "$folder/run/checkpoint.safetensors"
  finish
  [[ $status == 0 ]] || failed "exit status $status of the run that continues"
  cmp run/checkpoint.safetensors "whole$ranks/checkpoint.safetensors" || failed "the run that continues has other bits"
}

# Lets a job train until a random time between its start and its middle.
train_for_a_while() {
  local step=$((RANDOM % 5 * 10))  # metrics have a row for these
  start "$ranks" "$victim" none --out "$folder/run"
  training
  until grep -qs "\"step\":${step}[,}]" run/metrics.jsonl; do
    launcher_runs || { finish; failed "the job ended with $status before the fault"; }
    sleep 0.01
  done
  sleep "0.$(printf '%03d' $((RANDOM % 200)))"
}

inject() {
  local signal own begin resume
  rm -rf run
  case $kind in
    kill | stop)
      train_for_a_while
      begin=$(milliseconds)
      kill "-${kind^^}" "$(cat "pids/$victim")"
      ended_in_time "$begin"
      if [[ $kind == kill ]]; then
        exits_with 137 75
        tells "process rank $victim .*exited on signal 9|rank ([0-9], )*$victim(, [0-9])* did not come"
      else
        exits_with 75
        names_lost_rank "$victim"
      fi
      ;;
    signal | launcher)
      signal=USR1
      [[ $kind == launcher ]] || signal=${signals[RANDOM % 3]}
      what+=", SIG$signal"
      train_for_a_while
      begin=$(milliseconds)
      kill "-$signal" "$([[ $kind == signal ]] && cat "pids/$victim" || echo "$launcher")"
      ended_in_time "$begin"
      exits_with 85
      tells "stopped by a signal after step [0-9]+; the same command with --resume $folder/run/checkpoint.safetensors"
      [[ -f run/checkpoint.safetensors ]] || failed "there is no checkpoint"
      ;;
    own)
      own=${own_failures[RANDOM % 3]} resume=()
      [[ $own == data ]] || victim=0  # the rank that reads and writes checkpoints
      [[ $own != checkpoint ]] || resume=(--resume "$folder/whole$ranks/checkpoint.safetensors")
      what+=", $own"
      begin=$(milliseconds)
      start "$ranks" "$victim" "$own" --out "$folder/run" "${resume[@]}"
      if [[ $own == storage ]]; then
        training
        begin=$(milliseconds)
      fi
      ended_in_time "$begin"
      exits_with 2
      case $own in
        data) tells "pretrain_mpi: rank $victim: nowhere/train-images-idx3-ubyte" ;;
        checkpoint) tells "pretrain_mpi: rank $victim: nowhere: .*No such file" ;;
        storage) tells "pretrain_mpi: rank 0: $folder/run/checkpoint.safetensors.*File too large" ;;
      esac
      ;;
    cut)
      train_for_a_while
      begin=$(milliseconds)
      ip -n "${hosts[0]}" link set cable down
      ended_in_time "$begin"
      ip -n "${hosts[0]}" link set cable up
      exits_with 75 205
      [[ $status == 205 ]] || names_lost_rank '[0-9]'
      [[ $status == 75 ]] || tells 'lost communication with a remote daemon'
      ;;
  esac
}

fault=0 what=preparation kind=none status=0
python3 "$here/../examples/files.py" data data
make_hosts || kinds=("${kinds[@]/cut/}")
for ranks in 2 3; do undisturbed $ranks; done
for ((fault = 1; fault <= count; ++fault)); do
  kind=${kinds[$(((fault - 1) % ${#kinds[@]}))]}
  [[ -n $kind ]] || continue
  ranks=$((2 + RANDOM % 2)) victim=$((RANDOM % ranks))
  what="$kind, rank $victim of $ranks"
  inject
  continues
done

echo "| fault | times | slowest end | limit | exit codes |"
echo "| --- | --- | --- | --- | --- |"
for kind in "${kinds[@]}"; do
  [[ -z $kind || -z ${jobs[$kind]:-} ]] || echo "| $kind | ${jobs[$kind]} | ${worst[$kind]} ms | ${limit[$kind]} ms |${codes[$kind]} |"
done
